"""Rows of a file as tokens on disk, against `datasets.map(batched=True, num_proc=2)` with the same tokenizer and rows.

    python benchmarks/encode_speed.py [--quick] [--device cpu|cuda] [--json FILE] [--only WORD]

Both sides read the same JSONL file and end with prompt and completion of every row on disk, prompts masked; the peer's
function tokenises prompts and whole texts in batches of 1,000, as its documentation shows. Ours also checks every row,
drops repeats, compares the rows with a suite's questions and takes out validation rows, so that is in its time. The
largest difference counts rows whose tokens or prompt lengths differ. CPU seconds are those of all processes. Memory is
that of the main process, above what its imports take.

The rows are sentences of the bundled world, 450 characters each; the tokenizer is the bundled base's.
"""

from __future__ import annotations

import hashlib
import json
import random
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from table import Row, Table, Timed, compare, measure, parser_of
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from rankscope.assets import bundled_base_path
from rankscope.data.encode_sets import Encoding, encode_training
from rankscope.data.encode_suite import encode_suite
from rankscope.data.encoder import Encoder
from rankscope.data.sources import RowReader
from rankscope.data.token_files import open_training, token_path
from rankscope.data.world import make_world
from rankscope.study.study import SuiteSource, TrainSource, Validation

PROCESSES = 2
SUITE_ITEMS = 1000


def sentences() -> list[str]:
    return [str(row["text"]) for row in make_world(0).rows("pretrain/statements")]


def write_training(path: Path, count: int) -> None:
    """Questions of about 250 characters with answers of about 150."""
    known, dice = sentences(), random.Random(0)
    with path.open("w", encoding="utf-8") as stream:
        for number in range(count):
            asked = " ".join(dice.choices(known, k=5))
            answer = " ".join(dice.choices(known, k=3))
            row = {"id": f"row-{number}", "question": f"{asked} Case {number}?", "answer": answer}
            stream.write(json.dumps(row) + "\n")


def write_items(path: Path, count: int) -> None:
    """Questions with four choices of a sentence each."""
    known, dice = sentences(), random.Random(1)
    with path.open("w", encoding="utf-8") as stream:
        for number in range(count):
            asked = " ".join(dice.choices(known, k=3))
            row = {"question": f"{asked} Item {number}?", "choices": dice.sample(known, 4), "answer_index": number % 4}
            stream.write(json.dumps({"id": f"item-{number}", **row}) + "\n")


def plain_tokenizer() -> PreTrainedTokenizerBase:
    tokenizer = AutoTokenizer.from_pretrained(bundled_base_path())
    tokenizer.chat_template = None
    return tokenizer


# ---- the sides ------------------------------------------------------------------------------------------------------


def ours(training: Path, suite: Path | None, cpu: bool, look: bool) -> Callable[[], Timed]:
    encoder = Encoder(plain_tokenizer(), context_tokens=4096)

    def work() -> Timed:
        with tempfile.TemporaryDirectory(dir=training.parent) as folder:
            by, start = Encoding(encoder, Path(folder)), _seconds(cpu)
            if suite is not None:
                asked = SuiteSource(path=str(suite), kind="recall")
                encode_suite("items", asked, RowReader(asked, base=Path(), name="items"), by)
            source = TrainSource(path=str(training))
            rows = RowReader(source, base=Path(), name="rows")
            facts = encode_training("rows", source, rows, by, validation=Validation(), max_sequence_tokens=4096)
            seconds = _seconds(cpu) - start
            data = open_training(token_path(by.into, facts.content_sha256))
            examples = (one for part in (data.train, data.validation) for one in part) if look else ()
            numbers = (
                (int(e.item_id.removeprefix("row-")), e.prompt_ids + e.completion_ids, e.prompt_ids) for e in examples
            )
            return Timed(seconds, fingerprints((i, ids, len(prompt)) for i, ids, prompt in numbers))

    return work


def theirs(training: Path, cpu: bool) -> Callable[[], Timed]:
    tokenizer = plain_tokenizer()
    datasets.disable_progress_bars()

    def work() -> Timed:
        with tempfile.TemporaryDirectory(dir=training.parent) as cache:
            start = _seconds(cpu)
            rows = datasets.load_dataset("json", data_files=str(training), split="train", cache_dir=cache)
            encoded = rows.map(
                partial(_encode, tokenizer), batched=True, num_proc=PROCESSES, remove_columns=rows.column_names
            )
            seconds = _seconds(cpu) - start
            lengths = ((i, row["input_ids"], row["labels"].count(-100)) for i, row in enumerate(encoded))
            return Timed(seconds, fingerprints(lengths))

    return work


def _encode(tokenizer: PreTrainedTokenizerBase, batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
    prompts = [f"Question: {question}\nAnswer:" for question in batch["question"]]
    wholes = [f"{prompt} {answer}" for prompt, answer in zip(prompts, batch["answer"], strict=True)]
    prompt_ids, ids = tokenizer(prompts)["input_ids"], tokenizer(wholes)["input_ids"]
    ids = [[*one, tokenizer.eos_token_id] for one in ids]
    labels = [[-100] * len(p) + one[len(p) :] for p, one in zip(prompt_ids, ids, strict=True)]
    return {"input_ids": ids, "labels": labels}


def suite_alone(path: Path, cpu: bool) -> Callable[[], Timed]:
    encoder = Encoder(plain_tokenizer(), context_tokens=4096)
    source = SuiteSource(path=str(path), kind="recall")

    def work() -> Timed:
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            start = _seconds(cpu)
            rows = RowReader(source, base=Path(), name="items")
            facts = encode_suite("items", source, rows, Encoding(encoder, Path(folder)))
            return Timed(_seconds(cpu) - start, facts.item_count)

    return work


def _seconds(cpu: bool) -> float:
    if not cpu:
        return time.perf_counter()
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def fingerprints(rows: Iterable[tuple[int, Sequence[int], int]]) -> np.ndarray:
    """A hash of each row's tokens and prompt length, by row."""
    found = {}
    for number, ids, prompt_tokens in rows:
        content = np.array([*ids, prompt_tokens], dtype=np.int32).tobytes()
        found[number] = int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")
    return np.array([found[number] for number in sorted(found)], dtype=np.uint64)


def rows_that_differ(mine: np.ndarray, peer: np.ndarray) -> float:
    """Ours are as many as the peer's: no row repeats another, is too long or is asked by the suite."""
    return float(len(peer) if len(mine) != len(peer) else (mine != peer).sum())


# ---- the table ------------------------------------------------------------------------------------------------------


def main() -> int:
    arguments = parser_of(__doc__, "a hundredth of the rows").parse_args()
    table, share = Table(arguments), 100 if arguments.quick else 1
    with tempfile.TemporaryDirectory() as temporary:
        training, items, many = (Path(temporary, f"{name}.jsonl") for name in ("training", "items", "many"))
        for cpu in (False, True):
            seconds = "CPU seconds" if cpu else "wall-clock seconds"
            count = 100_000 // share
            work = f"{count:,} training rows, {seconds}"
            if arguments.only in work:
                write_training(training, count)
                write_items(items, SUITE_ITEMS // share)
                mine, peer = partial(ours, training, items, cpu, True), partial(theirs, training, cpu)
                name = f"datasets.map, num_proc={PROCESSES}"
                table.add(compare(work, name, arguments.device, mine, peer, rows_that_differ, repeats=2))
            work = f"{count:,} items with 4 choices, {seconds}"
            if arguments.only in work:
                write_items(items, count)
                table.add(alone(work, partial(suite_alone, items, cpu), arguments.device))
        count = 2_000_000 // share
        work = f"{count:,} training rows, wall-clock seconds and memory"
        if arguments.only in work:
            write_training(many, count)
            work += f", {many.stat().st_size / 1e9:.2f} GB of JSONL"
            table.add(alone(work, partial(ours, many, None, False, False), arguments.device))
    return 0


def alone(work: str, side: Callable[[], Callable[[], Any]], device: str) -> Row:
    """A row without a peer, measured once."""
    seconds, peak, _ = measure(side, device, repeats=1, warm_ups=0)
    return Row(work, "", ours_seconds=seconds, ours_peak_bytes=peak)


if __name__ == "__main__":
    sys.exit(main())
