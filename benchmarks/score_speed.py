"""Scoring against lm-eval's `hf` model on the same items: seconds, peak memory, and the largest difference.

    python benchmarks/score_speed.py [--quick] [--device cpu|cuda] [--json FILE] [--model FOLDER] [--data FOLDER]

Both sides start from strings, tokenise them and use the same weights in fp32, each in a process of its own. lm-eval has
the best of several batch sizes, found on a part of the items.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import platform
import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rankscope.config.study import ModelSpec, SuiteSource
from rankscope.data.encode import Encoder
from rankscope.evaluate.choices import choice_logprobs
from rankscope.evaluate.suites import generate_answers
from rankscope.model.load import LoadedModel, load_model
from rankscope.records import Row

BATCH_SIZES = (1, 4, 8, 16, 32, 64)
NEW_TOKENS = 128
Answers = list[tuple[float, ...]] | list[str]


@dataclass(frozen=True)
class Work:
    """One row of the table: which file, how many items, and how they are answered."""

    name: str
    file: str
    items: int
    generated: bool = False


WORKS = (
    Work("zero-shot, 4 text choices: medmcqa", "medmcqa/validation.jsonl", 300),
    Work("zero-shot, 4 text choices: mmlu_law", "mmlu_law/test.jsonl", 150),
    Work("generation: gsm8k", "gsm8k/test.jsonl", 100, generated=True),
)


@dataclass(frozen=True)
class Settings:
    model: str
    device: str
    token_budget: int


def read_rows(folder: Path, work: Work, quick: bool) -> list[Row]:
    lines = (folder / work.file).read_text(encoding="utf-8").splitlines()[: 16 if quick else work.items]
    records = [json.loads(line) for line in lines]
    if work.generated:
        return [Row(record["id"], "", record["question"], answer=record["answer"]) for record in records]
    return [
        Row(one["id"], "", one["question"], choices=tuple(one["choices"]), answer_index=one["answer_index"])
        for one in records
    ]


def ours(loaded: LoadedModel, rows: Sequence[Row], generated: bool, settings: Settings) -> Answers:
    encoder = Encoder(loaded.tokenizer, context_tokens=2048, chat=False)
    items = encoder.items(rows, SuiteSource(path="rows", kind="reasoning" if generated else "recall"), "rows")
    if generated:
        budget = settings.token_budget
        return generate_answers(loaded.model, loaded.tokenizer, items, "number", NEW_TOKENS, budget)
    return choice_logprobs(loaded.model, items, token_budget=settings.token_budget)


def peer(loaded: LoadedModel, rows: Sequence[Row], generated: bool, batch_size: int) -> Answers:
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    logging.disable(logging.WARNING)
    model = HFLM(pretrained=loaded.model, tokenizer=loaded.tokenizer, batch_size=batch_size, max_length=2048)
    prompts = [f"Question: {row.question}\nAnswer:" for row in rows]
    if generated:
        rules = {"until": ["\nQuestion:"], "do_sample": False, "max_gen_toks": NEW_TOKENS}
        requests = [Instance("generate_until", {}, (prompt, rules), i) for i, prompt in enumerate(prompts)]
        return [text.strip() for text in model.generate_until(requests, disable_tqdm=True)]
    pairs = [(prompt, f" {choice}") for prompt, row in zip(prompts, rows, strict=True) for choice in row.choices or ()]
    requests = [Instance("loglikelihood", {}, pair, i) for i, pair in enumerate(pairs)]
    values = iter(value for value, _ in model.loglikelihood(requests, disable_tqdm=True))
    return [tuple(next(values) for _ in row.choices or ()) for row in rows]


def timed(side: str, work: Work, rows: Sequence[Row], settings: Settings, pipe: Any) -> None:
    """Runs one side in this process; sends (answers, seconds, peak bytes)."""
    loaded = load_model(ModelSpec(id=settings.model), Path(), "float32", settings.device)
    sample = rows[:: max(1, len(rows) // 16)]
    if side == "peer":
        seconds = {}
        for size in BATCH_SIZES:
            start = time.perf_counter()
            peer(loaded, sample, work.generated, size)
            seconds[size] = time.perf_counter() - start
        best = min(seconds, key=seconds.__getitem__)
    else:
        ours(loaded, sample, work.generated, settings)
    cuda = settings.device == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    if side == "peer":
        answers = peer(loaded, rows, work.generated, best)
    else:
        answers = ours(loaded, rows, work.generated, settings)
    if cuda:
        torch.cuda.synchronize()
    seconds_taken = time.perf_counter() - start
    unit = 1 if sys.platform == "darwin" else 1024
    peak = torch.cuda.max_memory_allocated() if cuda else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    pipe.send((answers, seconds_taken, peak))


def in_own_process(side: str, work: Work, rows: Sequence[Row], settings: Settings) -> tuple[Answers, float, int]:
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=timed, args=(side, work, rows, settings, sender))
    process.start()
    sender.close()
    try:
        result: tuple[Answers, float, int] = receiver.recv()
    except EOFError as error:
        raise RuntimeError(f"{side} ended without a result") from error
    finally:
        process.join()
    return result


def largest_difference(left: Answers, right: Answers) -> float:
    """In nats; for generated text the share of items whose text differs."""
    if left and isinstance(left[0], str):
        return sum(a != b for a, b in zip(left, right, strict=True)) / len(left)
    pairs = (pair for a, b in zip(left, right, strict=True) for pair in zip(a, b, strict=True))
    return max(abs(float(a) - float(b)) for a, b in pairs)


def measure(work: Work, folder: Path, quick: bool, settings: Settings) -> dict[str, Any]:
    row: dict[str, Any] = {"work": f"{work.name} ({settings.device}, fp32)", "peer": "lm-eval hf"}
    names = ("ours_seconds", "peer_seconds", "ratio", "ours_peak_bytes", "peer_peak_bytes", "max_difference")
    row |= dict.fromkeys(names) | {"machine": f"{platform.machine()}, {torch.get_num_threads()} threads"}
    if settings.device == "cuda" and not torch.cuda.is_available():
        return row | {"reason": "not measured: no CUDA device"}
    if not (folder / work.file).is_file():
        return row | {"reason": f"not measured: no file {work.file}"}
    rows = read_rows(folder, work, quick)
    our_answers, our_seconds, our_peak = in_own_process("ours", work, rows, settings)
    answers, seconds, peak = in_own_process("peer", work, rows, settings)
    return row | {
        "ours_seconds": our_seconds,
        "peer_seconds": seconds,
        "ratio": seconds / our_seconds,
        "ours_peak_bytes": our_peak,
        "peer_peak_bytes": peak,
        "max_difference": largest_difference(our_answers, answers),
        "items": len(rows),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="16 items of each")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--model", default="bundled")
    parser.add_argument("--data", type=Path, default=Path(__file__).resolve().parents[2] / "shared" / "data")
    parser.add_argument("--token-budget", type=int, default=2048)
    arguments = parser.parse_args()
    settings = Settings(arguments.model, arguments.device, arguments.token_budget)
    rows = []
    for work in WORKS:
        row = measure(work, arguments.data, arguments.quick, settings)
        rows.append(row)
        if row["ratio"] is None:
            print(f"{row['work']}: {row['reason']}", flush=True)
            continue
        memory = f"{row['ours_peak_bytes'] / 2**20:.0f} / {row['peer_peak_bytes'] / 2**20:.0f} MiB"
        times = f"{row['ours_seconds']:.2f} s, {row['peer_seconds']:.2f} s, {row['ratio']:.1f}x"
        print(f"{row['work']}: {times}, {memory}, difference {row['max_difference']:.2g}", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
