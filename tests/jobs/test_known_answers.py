"""What the base wrote is a draft for its arms, what a run wrote for its dials."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from test_pipeline import run
from tiny_study import tiny_study

from rankscope.edges.study_folder import StudyFolder
from rankscope.jobs import dial_scoring, score_job
from rankscope.jobs.known_answers import base_answers, run_answers
from rankscope.model.sharding.team import SOLO
from rankscope.records import Grading, Item, Suite

WRITTEN = Suite("sums", None, "reasoning", (Item("a", "number", (3,), answers=("1",)),))


def frame(**predicted: str | None) -> pd.DataFrame:
    columns = {"suite": ["sums", "sums", "facts"], "item_id": ["a", "b", "a"]}
    return pd.DataFrame({**columns, "predicted": [predicted.get("a"), predicted.get("b"), "of another suite"]})


def context(later: dict[str, pd.DataFrame] = {}, **frames: pd.DataFrame) -> Any:  # noqa: B006
    """`later`: what is there once the base's lock was waited for."""

    def read(run_id: str, columns: list[str]) -> pd.DataFrame | None:
        return frames[run_id][columns] if run_id in frames else None

    @contextmanager
    def wait_lock(name: str, should_stop: Any, *, quietly: bool) -> Iterator[bool]:
        waited.append(name)
        frames.update(later)
        yield True

    waited: list[str] = []
    folder = SimpleNamespace(read_predictions=read, wait_lock=wait_lock)
    plan = SimpleNamespace(base_ids={"m": "base"})
    return SimpleNamespace(team=SOLO, plan=plan, folder=folder, stop_requested=lambda: False, waited=waited)


def test_those_of_the_base_and_of_the_run_where_it_has_any() -> None:
    both = context(base=frame(a="1", b="2"), mine=frame(a="3"))
    mine: Any = SimpleNamespace(run_id="mine", model="m")
    other: Any = SimpleNamespace(run_id="other", model="m")
    assert base_answers(both, "m", WRITTEN) == {"a": "1", "b": "2"}
    assert run_answers(both, mine, WRITTEN) == {"a": "3"}
    assert run_answers(both, other, WRITTEN) == {"a": "1", "b": "2"}
    assert run_answers(context(), mine, WRITTEN) == {}
    assert both.waited == []


def test_a_base_that_is_being_scored_is_waited_for() -> None:
    soon = context(later={"base": frame(a="1")})
    assert base_answers(soon, "m", WRITTEN) == {"a": "1"}
    assert soon.waited == ["base"]
    nothing = context(base=frame())  # scored, and nothing was written: a base that asks itself would wait for ever
    assert base_answers(nothing, "m", WRITTEN) == {}
    assert nothing.waited == []


def test_nothing_is_read_where_nothing_is_written_or_a_task_grades() -> None:
    unread: Any = SimpleNamespace(plan=SimpleNamespace(base_ids={"m": "base"}))
    choices = Suite("sums", None, "recall", (Item("a", "choices", (3,), ((4,), (5,))),))
    assert base_answers(unread, "m", choices) == {}
    grading: Any = SimpleNamespace(spec=Grading)
    assert base_answers(unread, "m", replace(WRITTEN, grading=grading)) == {}


def test_a_study_hands_them_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The base's first scoring knows none, all others do."""
    given: list[tuple[str, dict[str, str] | None]] = []
    for module in (score_job, dial_scoring):

        def noted(*rest: Any, _real: Any = module.score_suite, _name: str = module.__name__, **named: Any) -> Any:
            given.append((_name.rpartition(".")[2], named["answers"]))
            return _real(*rest, **named)

        monkeypatch.setattr(module, "score_suite", noted)
    study = tiny_study(
        tmp_path / "input", arms={"lora": {"ranks": [2], "learning_rate": 1e-2}}, seeds=[0],
        dial=[0.5, 1], selection={"min_items": 8},
        analysis={"enabled": False}, budget={"epochs": 1, "batch_size": 8, "max_sequence_tokens": 128},
    )  # fmt: skip
    run(study, tmp_path / "out")
    folder = StudyFolder.open(tmp_path / "out")
    written = folder.read_predictions("base", ["suite", "predicted"])
    assert written is not None
    with_answers = [answers for _, answers in given if answers]
    assert with_answers, "the tiny study has no written suite"
    assert given[0] == ("score_job", None)
    assert {name for name, answers in given if answers} == {"score_job", "dial_scoring"}
