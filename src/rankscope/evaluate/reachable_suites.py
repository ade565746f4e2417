"""Suites that are ready by name, and which of them this machine can reach."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rankscope.data.hub_data import HUB_ERRORS, hub_revision
from rankscope.evaluate.lm_eval.load_task import load_task
from rankscope.study.problems import InputProblems
from rankscope.study.study import SuiteSource

READY_SUITES: dict[str, SuiteSource] = {
    "mmlu": SuiteSource(
        hub="cais/mmlu", bad_rows="drop", config="all", split="test", kind="recall", choices="letters",
        columns={"question": "question", "choices": "choices", "answer_index": "answer", "cluster": "subject"},
    ),
    "commonsense_qa": SuiteSource(
        hub="tau/commonsense_qa", bad_rows="drop", split="validation", kind="recall",
        columns={"id": "id", "question": "question", "choices": "choices.text", "answer_index": "answerKey"},
    ),
    "gsm8k": SuiteSource(
        hub="openai/gsm8k", bad_rows="drop", config="main", split="test", kind="reasoning",
        columns={"question": "question", "answer": "answer"},
    ),
    "openbookqa": SuiteSource(
        hub="allenai/openbookqa", bad_rows="drop", config="main", split="test", kind="recall",
        columns={"id": "id", "question": "question_stem", "choices": "choices.text", "answer_index": "answerKey"},
    ),
    "arc_easy": SuiteSource(harness="arc_easy", kind="recall"),
    "hellaswag": SuiteSource(harness="hellaswag", kind="recall"),
    "winogrande": SuiteSource(harness="winogrande", kind="recall"),
}  # fmt: skip
"""Tried in this order."""

MOST_SUITES = 4
"""So many are taken."""

_PROBE_SECONDS = 5.0


@dataclass(frozen=True)
class Reachable:
    """The ready suites that can be had, and why the others before them cannot, in one line."""

    suites: dict[str, SuiteSource]
    why_not: str


def reachable_suites(place: str) -> Reachable:
    """The first of the ready suites whose data can be had; `place` is the setting that problems name."""
    found: dict[str, SuiteSource] = {}
    why: dict[str, None] = {}
    with _offline_where_no_hub_answers():
        for key, source in READY_SUITES.items():
            try:
                _reach(source, place)
            except InputProblems as error:
                why[error.problems[0].found] = None
                continue
            found[key] = source
            if len(found) == MOST_SUITES:
                break
    return Reachable(found, "; ".join(why))


def _reach(source: SuiteSource, place: str) -> None:
    """Raises InputProblems where a suite cannot be had: of a data set only its description is fetched."""
    if source.harness is not None:
        load_task(source, base=Path(), name=place)
    else:
        hub_revision(source, place)


@contextmanager
def _offline_where_no_hub_answers() -> Iterator[None]:
    """Where the hub does not answer, the libraries look in their caches only, and do not try for half a minute each."""
    import datasets
    from huggingface_hub import constants, get_session

    try:
        get_session().head(constants.ENDPOINT, timeout=_PROBE_SECONDS)
        offline = False
    except HUB_ERRORS:
        offline = True
    before = constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE
    if offline:
        constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE = before
