"""Studies whose quality is a loss or a grade, from the file to the answer, at tiny scale."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from tiny_study import tiny_study, write_rows

from rankscope.edges.executors.this_machine import InProcess
from rankscope.edges.machine import look_at_machine
from rankscope.edges.study_folder import StudyFolder
from rankscope.jobs.planning import StudyPlanner
from rankscope.pipeline import Outcome, run_study
from rankscope.records import VerdictFile
from rankscope.study.problems import InputProblems
from rankscope.study.read_study import read_study


def run(study: Path, out: Path) -> Outcome:
    return run_study(
        StudyPlanner(read_study(study), study.parent),
        StudyFolder.open(out),
        machine=look_at_machine(out, measure=False),
        make_executor=lambda plan: InProcess(1),
    )


def verdicts_of(out: Path) -> VerdictFile:
    found = StudyFolder.open(out).read_verdicts()
    assert found is not None
    return found


LOSS = {"kind": "recall", "metric": "loss"}
LOSSES = {
    "taught": {"path": "taught.jsonl", "domain": "trees", **LOSS},
    "other": {"path": "other.jsonl", "domain": "stones", **LOSS},
    "sums": {"path": "sums.jsonl", **LOSS},
    "talk": {"path": "talk.jsonl", **LOSS},
    "text": {"path": "text.jsonl", **LOSS},
}


def loss_study(folder: Path, **changes: object) -> Path:
    study = tiny_study(folder, **{"suites": LOSSES, **changes})
    talk = [
        {"messages": [{"role": "user", "content": f"Is {i} a tree?"}, {"role": "assistant", "content": "It is not."}]}
        for i in range(5)
    ]
    write_rows(folder / "talk.jsonl", talk)
    return study


def test_a_study_of_losses_ends_with_an_answer(tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run(loss_study(tmp_path / "input"), out) == Outcome()
    (verdict,) = verdicts_of(out).verdicts
    assert verdict.headline
    base = pd.read_parquet(out / "base" / "predictions.parquet")
    assert base["score"].isna().all()
    assert (base["loss_nats"] > 0).all()
    assert set(base["suite"]) == set(LOSSES)
    scores = pd.read_parquet(out / "tables" / "scores.parquet")
    assert scores["loss_nats_per_token"].notna().all()
    assert scores["accuracy"].isna().all()


def test_points_and_nats_stand_in_one_study(tmp_path: Path) -> None:
    suites = {
        "taught": {"path": "taught.jsonl", "domain": "trees", "kind": "recall"},
        "other": {"path": "other.jsonl", "domain": "stones", "kind": "recall"},
        "talk": LOSSES["talk"],
    }
    out = tmp_path / "out"
    assert run(loss_study(tmp_path / "input", suites=suites), out) == Outcome()
    assert verdicts_of(out).verdicts[0].headline


def test_another_metric_of_rows_is_refused_with_its_line(tmp_path: Path) -> None:
    study = tiny_study(tmp_path, suites={"taught": {"path": "taught.jsonl", "domain": "trees", "metric": "rouge"}})
    with pytest.raises(InputProblems) as error:
        read_study(study)
    assert 'metric: found "rouge", expected loss; other metrics are those of a task' in str(error.value)


def test_a_loss_of_no_kind_is_refused(tmp_path: Path) -> None:
    suites = {**LOSSES, "text": {"path": "text.jsonl", "metric": "loss"}}
    study = loss_study(tmp_path / "input", suites=suites)
    with pytest.raises(InputProblems) as error:
        run(study, tmp_path / "out")
    assert str(error.value) == "text.jsonl: suites.text.kind: found nothing, expected recall or reasoning"
