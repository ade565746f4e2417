"""What a base model can before it is trained: each suite's chance level, the base's score, and lm-eval's answers.

    python benchmarks/base_suites.py [--quick] [--study FILE] [--model FOLDER] [--limit N] [--compared N]
                                     [--dtype float32|bfloat16] [--only WORD] [--device cpu|cuda] [--json FILE]

Suites and model are those of a study file (studies/gemma.yaml), read and asked as `rankscope run` does, in plain text.
The interval of a score is Clopper and Pearson's at 95 %. A suite outside a training set's domain is part of what an arm
forgets where the base is surely above chance, by the test that the verdict uses (docs/measures.md).

`--compared` items of each suite, spread over it, are answered by lm-eval's `hf` model too, from the same strings and
the same weights, always in fp32: in bf16 rounding alone moves answers that are near to one another. Of plain text each
row's beginning is compared. The difference is the largest of any choice or text, in nats; seconds are those of one
pass, in one process. A suite whose rows are not there says so, and so does every suite without lm-eval. `--only` takes
several words with commas between them.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from lm_eval_side import Answer, lm_eval_answers
from scipy.stats import binomtest
from table import Row, Table, parser_of

from rankscope.data.encode_sets import Encoding
from rankscope.data.encode_study import open_suite_rows
from rankscope.data.encode_suite import encode_suite
from rankscope.data.encoder import Encoder
from rankscope.data.token_files import open_suite, token_path
from rankscope.decide.chance_level import chance_of, knows_nothing
from rankscope.edges.freed_memory import keep_freed_memory
from rankscope.evaluate.lm_eval.load_task import load_task
from rankscope.evaluate.score_suites import SuitePlan, predictions_frame, score_suite
from rankscope.model.load import LoadedModel, inspect_model, load_model
from rankscope.plan.run_time import SCORING_BATCH_TOKENS
from rankscope.records import Item, Prediction, Suite, SuiteFacts
from rankscope.study.problems import InputProblems
from rankscope.study.read_study import read_study
from rankscope.study.study import ModelSpec, SuiteSource

Dtype = Literal["float32", "bfloat16"]
Device = Literal["cpu", "cuda"]
STUDY = Path(__file__).resolve().parents[1] / "studies" / "gemma.yaml"
CONFIDENCE = 0.95
QUICK_ITEMS = 24
BEGINNING_CHARACTERS = 2000
"""Of a plain text so much is compared: lm-eval holds the logits of a whole row at once."""

HEAD = """\
| suite | items | chance | base | 95 % interval | surely above chance | compared | same answers | largest difference, nats | ours, s | lm-eval, s |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"""  # noqa: E501


@dataclass(frozen=True)
class SuiteRow(Row):
    """A row of the JSON file, with what the base has right. `base` is a share of items, or of plain text a loss in nats
    per token, which has neither a chance level nor an interval."""

    suite: str = ""
    form: str = ""
    items: int = 0
    chance: float | None = None
    base: float | None = None
    low: float | None = None
    high: float | None = None
    above_chance: bool | None = None
    compared: int = 0
    same_answers: int | None = None


@dataclass(frozen=True)
class Bench:
    """Where the study stands, its model, how items become tokens, and the model in the dtype of the scores and in fp32
    (one and the same where that is the dtype)."""

    folder: Path
    encoder: Encoder
    scoring: LoadedModel
    exact: LoadedModel
    device: Device
    context_tokens: int


def bench_of(spec: ModelSpec, folder: Path, dtype: Dtype, device: Device) -> Bench:
    """The model, loaded. Raises InputProblems where it cannot be."""
    facts = inspect_model(spec, folder, device=device)
    exact = load_model(spec, folder, "float32", device)
    scoring = exact if dtype == "float32" else load_model(spec, folder, dtype, device)
    encoder = Encoder(
        exact.tokenizer, context_tokens=facts.context_tokens, chat=False, vocabulary_size=facts.vocab_size
    )  # fmt: skip
    return Bench(folder, encoder, scoring, exact, device, facts.context_tokens)


def suite_row(name: str, source: SuiteSource, bench: Bench, compared: int) -> SuiteRow:
    """The suite measured; where its rows are not there, or lm-eval is not, with the reason."""
    with tempfile.TemporaryDirectory() as scratch:
        by = Encoding(bench.encoder, Path(scratch), base=bench.folder)
        try:
            facts = encode_suite(name, source, open_suite_rows(source, bench.folder, f"suites.{name}", load_task), by)
        except InputProblems as error:
            return SuiteRow(name, "lm-eval hf", suite=name, reason=f"not measured: {error.problems[0]}")
        suite = open_suite(token_path(by.into, facts.content_sha256), facts)
        row = scored(suite, facts, predictions_of(bench.scoring, suite, bench.device))
        return with_lm_eval(row, suite, source, bench, compared)


def predictions_of(loaded: LoadedModel, suite: Suite, device: str) -> list[Prediction]:
    """As a study scores a suite."""
    plan = SuitePlan(suite, SCORING_BATCH_TOKENS[device])
    return score_suite(loaded.model, loaded.tokenizer, plan, token_budget=plan.token_budget)


def scored(suite: Suite, facts: SuiteFacts, found: Sequence[Prediction]) -> SuiteRow:
    """What the base has right, and whether that is more than guessing has."""
    row = SuiteRow(suite.name, "lm-eval hf", suite=suite.name, form=facts.form, items=len(found))
    if facts.form == "text":
        tokens = sum(one.scored_tokens or 0 for one in found)
        return replace(row, base=sum(one.loss_nats or 0.0 for one in found) / tokens)
    scores = np.array([one.score for one in found], dtype=float)
    chance = chance_of(predictions_frame("base", found), facts.form)
    right = binomtest(int((scores >= 1).sum()), len(scores)).proportion_ci(CONFIDENCE, method="exact")
    return replace(
        row, chance=chance, base=float(scores.mean()), low=float(right.low), high=float(right.high),
        above_chance=not knows_nothing(scores, chance),
    )  # fmt: skip


# ---- the same items by lm-eval --------------------------------------------------------------------------------------


def with_lm_eval(row: SuiteRow, suite: Suite, source: SuiteSource, bench: Bench, compared: int) -> SuiteRow:
    """The row with how far `compared` of the items are answered as lm-eval answers them."""
    items = [shortened(item, bench.encoder) for item in spread(suite.items, compared)]
    if not items:
        return row
    start = time.perf_counter()
    mine = [answer_of(one) for one in predictions_of(bench.exact, replace(suite, items=items), bench.device)]
    between = time.perf_counter()
    try:
        theirs = lm_eval_answers(bench.exact, items, source, bench.context_tokens)
    except ImportError:
        return replace(row, reason="not compared: lm-eval is not installed")
    seconds, peer_seconds = between - start, time.perf_counter() - between
    same = sum(a.said == b.said for a, b in zip(mine, theirs, strict=True))
    return replace(
        row, work=f"{suite.name}, {len(items)} items, fp32", ours_seconds=seconds, peer_seconds=peer_seconds,
        ratio=peer_seconds / seconds, max_difference=largest_difference(mine, theirs), compared=len(items),
        same_answers=None if row.form == "text" else same,
    )  # fmt: skip


def spread(items: Sequence[Item], count: int) -> list[Item]:
    """`count` of the items, evenly spread, or all where there are no more."""
    count = min(count, len(items))
    return [items[place * len(items) // count] for place in range(count)]


def shortened(item: Item, encoder: Encoder) -> Item:
    """A plain text's beginning as an item of its own; any other item as it is."""
    if item.form != "text":
        return item
    text = encoder.tokenizer.decode(list(item.choices_ids[0]))[:BEGINNING_CHARACTERS]
    ((prefix, ids),) = encoder.text_ids([text])
    return replace(item, prompt_ids=prefix, choices_ids=(ids,), text_bytes=len(text.encode()), prompt_text=text)


def answer_of(one: Prediction) -> Answer:
    """What a prediction says, and its log-likelihoods in nats."""
    if one.loss_nats is not None:
        return Answer("", (-one.loss_nats,))
    return Answer(one.predicted or "", one.choice_logprobs or ())


def largest_difference(mine: Sequence[Answer], theirs: Sequence[Answer]) -> float | None:
    """Of all log-likelihoods, in nats; None where answers are written."""
    pairs = [pair for a, b in zip(mine, theirs, strict=True) for pair in zip(a.nats, b.nats, strict=True)]
    return max((abs(a - b) for a, b in pairs), default=None)


# ---- the table ------------------------------------------------------------------------------------------------------


def line(row: Row) -> str:
    """The row in Markdown."""
    assert isinstance(row, SuiteRow)
    if not row.items:
        return f"| {row.suite} | {row.reason} |" + " |" * 9
    if row.form == "text":
        level = ["", f"{row.base:.3f} nats a token", "", "reported only"]
    else:
        assert row.chance is not None
        interval = f"{row.low:.1%} to {row.high:.1%}"
        level = [f"{row.chance:.1%}", f"{row.base:.1%}", interval, "yes" if row.above_chance else "no"]
    if row.compared:
        seconds = [f"{row.ours_seconds:.3g}", f"{row.peer_seconds:.3g}"]
        difference = "" if row.max_difference is None else f"{row.max_difference:.1g}"
        same = "" if row.same_answers is None else str(row.same_answers)
        beside = [str(row.compared), same, difference, *seconds]
    else:
        beside = [row.reason or "", "", "", "", ""]
    return f"| {' | '.join([row.suite, str(row.items), *level, *beside])} |"


def main() -> None:
    parser = parser_of(__doc__, f"{QUICK_ITEMS} items of each suite, on the bundled base")
    parser.add_argument("--study", type=Path, default=STUDY, metavar="FILE", help="whose suites and model are taken")
    parser.add_argument("--model", metavar="FOLDER", help="this model in place of the study's")
    parser.add_argument("--limit", type=int, metavar="N", help="so many items of each suite at most")
    parser.add_argument("--compared", type=int, default=100, metavar="N", help="items of each that lm-eval answers too")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="in which it is scored")
    arguments: argparse.Namespace = parser.parse_args()
    keep_freed_memory()
    study, folder = read_study(arguments.study, files=False), arguments.study.resolve().parent
    spec, limit, compared = study.models[0], arguments.limit, arguments.compared
    if arguments.model or arguments.quick:
        model, folder_of_model = arguments.model or "bundled", Path.cwd()
        spec = ModelSpec(id=str(folder_of_model / model) if (folder_of_model / model).exists() else model, chat="never")
    if arguments.quick:
        limit = compared = QUICK_ITEMS
    bench = bench_of(spec, folder, arguments.dtype, arguments.device)
    table = Table(arguments, HEAD, line)
    for name, source in study.suites.items():
        if any(word in name for word in arguments.only.split(",")):
            most = [count for count in (source.limit, limit) if count]
            table.add(suite_row(name, source.model_copy(update={"limit": min(most, default=None)}), bench, compared))


if __name__ == "__main__":
    main()
