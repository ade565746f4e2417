"""Scoring against lm-eval's `hf` model on the same items: seconds, peak memory, and the largest difference.

    python benchmarks/score_speed.py [--quick] [--device cpu|cuda] [--json FILE] [--only WORD]

Both sides start from strings, tokenise them and use the same weights in fp32, each in a process of its own, in turns.
lm-eval has the best of several batch sizes, found beforehand on a part of the items. The difference is in nats; of
generated text it is the share of items whose text differs. Items that the two answer differently are named on stderr.
Questions come from ../shared/data beside the checkout. Two models: the bundled base (2.5 million parameters), and a
random Llama of 27 million, with a tenth of the items.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from score_work import CONTEXT_TOKENS, NEW_TOKENS, WORKS, Asked, Work, asked, sample, save_random_model
from table import NotMeasured, Row, Table, compare, measure, parser_of

from rankscope.data.encoder import Encoder
from rankscope.edges.freed_memory import keep_freed_memory
from rankscope.evaluate.adapter_scoring import suites_logprobs
from rankscope.evaluate.choice_scoring import choice_logprobs
from rankscope.evaluate.score_suites import SuitePlan, generate_answers
from rankscope.model.load import LoadedModel, load_model
from rankscope.model.methods.attach import NewAdapter, SavedAdapter, attach
from rankscope.model.model_source import model_path
from rankscope.plan.run_time import SCORING_BATCH_TOKENS
from rankscope.records import Suite
from rankscope.study.study import Arm, ModelSpec

BATCH_SIZES = (4, 8, 16, 32, 64, 128)
ADAPTERS = 8
LORA = Arm(label="lora-r8", method="lora", rank=8, alpha=16.0, targets="all-linear", learning_rate=1e-3)
TUNED_ON = {"text": 24, "letters": 48, "generated": 64}
Answers = list[tuple[float, ...]] | list[str]


@cache
def loaded(model: str, device: str) -> LoadedModel:
    return load_model(ModelSpec(id=model), Path(), "float32", device)


def ours(question: Asked, model: str, device: str) -> Callable[[], Answers]:
    keep_freed_memory()
    base = loaded(model, device)

    def work() -> Answers:
        encoder = Encoder(base.tokenizer, context_tokens=CONTEXT_TOKENS, chat=False)
        items = encoder.items(question.rows, question.source, "rows")
        budget = SCORING_BATCH_TOKENS[device]
        if question.style == "generated":
            return generate_answers(base.model, base.tokenizer, items, "number", NEW_TOKENS, budget)
        return choice_logprobs(base.model, items, token_budget=budget)

    return work


def peer(question: Asked, model: str, device: str, batch_size: int) -> Callable[[], Answers]:
    return partial(peer_answers, question, loaded(model, device), batch_size)


def peer_answers(question: Asked, base: LoadedModel, batch_size: int) -> Answers:
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    logging.disable(logging.WARNING)
    model = HFLM(
        pretrained=base.model, tokenizer=base.tokenizer, batch_size=batch_size, max_length=CONTEXT_TOKENS,
        device=str(base.model.device),
    )  # fmt: skip
    if question.style == "generated":
        rules = {"until": ["\nQuestion:"], "do_sample": False, "max_gen_toks": NEW_TOKENS}
        asked_of = [
            Instance("generate_until", {}, (prompt, rules), i) for i, (prompt, _) in enumerate(question.strings)
        ]
        return [text.strip() for text in model.generate_until(asked_of, disable_tqdm=True)]
    return peer_choices(question, model)


def peer_choices(question: Asked, model: Any) -> list[tuple[float, ...]]:
    from lm_eval.api.instance import Instance

    pairs = [(prompt, choice) for prompt, choices in question.strings for choice in choices]
    requests = [Instance("loglikelihood", {}, pair, i) for i, pair in enumerate(pairs)]
    values = iter(value for value, _ in model.loglikelihood(requests, disable_tqdm=True))
    return [tuple(next(values) for _ in choices) for _, choices in question.strings]


# ---- several adapters on one base -----------------------------------------------------------------------------------


def save_adapters(folder: Path, model: str, device: str) -> tuple[Path, ...]:
    """Random LoRA adapters in PEFT's format."""
    base = loaded(model, device)
    folders = tuple(folder / f"{model.replace('/', '_')}-{seed}" for seed in range(ADAPTERS))
    for seed, path in enumerate(folders):
        with attach(base, NewAdapter(LORA, seed), packed=False) as pack:
            for name, parameter in pack.model.named_parameters():
                if "lora_B" in name:
                    torch.nn.init.normal_(parameter, std=0.02, generator=torch.Generator().manual_seed(seed))
            path.mkdir()
            pack.members[0].save(path)
    return folders


def our_adapters(question: Asked, model: str, device: str, folders: Sequence[Path]) -> Callable[[], Answers]:
    """As `rankscope score`: one base, loaded once, on which the adapters take turns, or run together where the device
    is for that; the suite is tokenised and planned once."""
    keep_freed_memory()

    def work() -> Answers:
        base = load_model(ModelSpec(id=model), Path(), "float32", device)
        encoder = Encoder(base.tokenizer, context_tokens=CONTEXT_TOKENS, chat=False)
        items = encoder.items(question.rows, question.source, "rows")
        budget = SCORING_BATCH_TOKENS[device]
        plan = SuitePlan(Suite("rows", "domain", "recall", tuple(items)), budget)
        known = suites_logprobs(base, [LORA] * len(folders), folders, [plan])
        found: list[tuple[float, ...]] = []
        for folder, own in zip(folders, known, strict=True):
            if "rows" in own:
                found += own["rows"]
                continue
            with attach(base, SavedAdapter(folder)):
                found += choice_logprobs(base.model, items, token_budget=budget, plan=plan.choices)
        return found

    return work


def peer_adapters(
    question: Asked, model: str, device: str, folders: Sequence[Path], batch_size: int
) -> Callable[[], Answers]:
    """lm-eval loads the base and an adapter, one after another."""

    def work() -> Answers:
        from lm_eval.models.huggingface import HFLM

        logging.disable(logging.WARNING)
        path = model_path(ModelSpec(id=model), Path())
        found: list[tuple[float, ...]] = []
        for folder in folders:
            evaluated = HFLM(
                pretrained=path, peft=str(folder), dtype="float32", device=device, batch_size=batch_size,
                max_length=CONTEXT_TOKENS,
            )  # fmt: skip
            found += peer_choices(question, evaluated)
        return found

    return work


def tune(question: Asked, model: str, device: str) -> Callable[[], int]:
    """The peer's fastest batch size on these questions."""
    base = loaded(model, device)

    def work() -> int:
        peer_answers(question, base, BATCH_SIZES[0])
        seconds = {}
        for size in BATCH_SIZES:
            start = time.perf_counter()
            peer_answers(question, base, size)
            seconds[size] = time.perf_counter() - start
        return min(seconds, key=seconds.__getitem__)

    return work


def difference(question: Asked, mine: Answers, theirs: Answers) -> float:
    """In nats; for generated text the share of items whose text differs."""
    if question.style == "generated":
        return sum(a != b for a, b in zip(mine, theirs, strict=True)) / len(mine)
    other = [row.item_id for row, a, b in zip(question.rows, mine, theirs, strict=True) if _best(a) != _best(b)]
    if other:
        print(f"answered differently: {', '.join(other)}", file=sys.stderr)
    pairs = (pair for a, b in zip(mine, theirs, strict=True) for pair in zip(a, b, strict=True))
    return max(abs(float(a) - float(b)) for a, b in pairs)


def _best(values: Sequence[Any]) -> int:
    return max(range(len(values)), key=values.__getitem__)


def row_of(work: Work, label: str, model: str, count: int, device: str, folder: Path | None = None) -> Row:
    """The work's row; with a `folder` to keep them in, that of eight adapters on it."""
    name = f"{work.name}, {count} items; {label}, fp32, {device}"
    if folder is not None:
        name = f"{ADAPTERS} adapters, {name}"
    try:
        question = asked(work, model, count)
        part = sample(question, TUNED_ON[work.style])
        _, _, best = measure(partial(tune, part, model, device), device, repeats=1, warm_ups=0)
    except FileNotFoundError as missing:
        return Row(name, "lm-eval hf", reason=f"not measured: no file {Path(missing.filename).name} in ../shared/data")
    except NotMeasured as reason:
        return Row(name, "lm-eval hf", reason=f"not measured: {reason}")
    if folder is None:
        sides = partial(ours, question, model, device), partial(peer, question, model, device, best)
        return compare(name, f"lm-eval hf, batch {best}", device, *sides, partial(difference, question))
    folders = save_adapters(folder, model, device)
    many = replace(question, rows=question.rows * len(folders))
    ways = (
        partial(our_adapters, question, model, device, folders),
        partial(peer_adapters, question, model, device, folders, best),
    )
    return compare(name, f"lm-eval hf with peft=, batch {best}", device, *ways, partial(difference, many))


def main() -> None:
    parser = parser_of(__doc__, "24 items of each, on the bundled base only")
    arguments: argparse.Namespace = parser.parse_args()
    table = Table(arguments)
    with tempfile.TemporaryDirectory() as folder:
        models = [("bundled base", "bundled", 1)]
        if not arguments.quick:
            models.append(("random Llama 27M", save_random_model(Path(folder)), 10))
        for label, model, share in models:
            for work in WORKS:
                count = 24 if arguments.quick else work.items // share
                if arguments.only in f"{work.name} {label}":
                    table.add(row_of(work, label, model, count, arguments.device))
                if work is WORKS[0] and arguments.only in f"{ADAPTERS} adapters {work.name} {label}":
                    table.add(row_of(work, label, model, count, arguments.device, Path(folder)))


if __name__ == "__main__":
    main()
