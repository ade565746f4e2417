"""Arms that were trained elsewhere, beside a share of the rows that is held out: judged as the same weights were that a
study trained, and never trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from tiny_study import tiny_study

from rankscope.edges.executors.this_machine import InProcess
from rankscope.edges.machine import look_at_machine
from rankscope.edges.study_folder import StudyFolder
from rankscope.jobs.planning import StudyPlanner
from rankscope.pipeline import Outcome, run_study
from rankscope.records import Plan, PlannedRun
from rankscope.records.arm_record import NOT_TRAINED_HERE, TRAINED_ELSEWHERE
from rankscope.results.export_arm import export_arm
from rankscope.study.problems import InputProblems
from rankscope.study.read_study import read_study

pytestmark = pytest.mark.slow

SUITES = {
    "mine": {"held_out": "trees", "share": 0.2},
    "other": {"path": "other.jsonl", "domain": "stones", "kind": "recall"},
}
BUDGET = {"epochs": 1, "batch_size": 8, "max_sequence_tokens": 128}
ANALYSIS = {"enabled": True, "probe_items": 4, "derived": False}
SELECTION = {"min_items": 4}


def run(study: Path, out: Path) -> Outcome:
    with StudyPlanner(read_study(study), study.parent) as planner:
        return run_study(
            planner, StudyFolder.open(out), machine=look_at_machine(out, measure=False),
            make_executor=lambda plan: InProcess(1),
        )  # fmt: skip


def plan_of(out: Path) -> Plan:
    plan = StudyFolder.open(out).read_plan()
    assert plan is not None
    return plan


def runs_of(out: Path, label: str) -> list[PlannedRun]:
    return [run for run in plan_of(out).runs if run.arm.label == label]


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """A study that trained, one that was given what came out of it, and the file of the second."""
    folder = tmp_path_factory.mktemp("given")
    first = tiny_study(folder / "a", suites=SUITES, budget=BUDGET, keep={"full": "all"})
    trained, given = folder / "trained", folder / "given"
    assert run(first, trained) == Outcome()
    folders = {
        label: [str(trained / "runs" / run.run_id / kind) for run in runs_of(trained, label)]
        for label, kind in (("lora-r2", "adapter"), ("full", "model"))
    }
    arms: dict[str, Any] = {
        "theirs": {"adapters": folders["lora-r2"]},
        "full-theirs": {"models": folders["full"], "dial": 0.7},
        "lora": {"ranks": [1], "learning_rate": 1e-2},
    }
    second = tiny_study(folder / "b", suites=SUITES, budget=BUDGET, arms=arms, analysis=ANALYSIS, selection=SELECTION)
    assert run(second, given) == Outcome()
    return trained, given, second


def predictions(out: Path, run: PlannedRun) -> pd.DataFrame:
    return pd.read_parquet(out / "runs" / run.run_id / "predictions.parquet").drop(columns=["run_id", "role"])


def test_they_are_judged_as_the_study_judged_that_trained_them(studies: tuple[Path, Path, Path]) -> None:
    trained, given, _ = studies
    for theirs, ours in (("theirs", "lora-r2"), ("full-theirs", "full")):
        for taken, made in zip(runs_of(given, theirs), runs_of(trained, ours), strict=True):
            pd.testing.assert_frame_equal(predictions(given, taken), predictions(trained, made))
            statuses = [StudyFolder.open(out).read_status(r.run_id) for out, r in ((given, taken), (trained, made))]
            assert statuses[0] is not None
            assert statuses[1] is not None
            assert statuses[0].validation_loss == pytest.approx(statuses[1].validation_loss, abs=1e-6)
            assert statuses[0].train_seconds is None
            assert (taken.step_count, taken.train_tokens, taken.train_flops) == (0, 0, 0.0)
            assert not (given / "runs" / taken.run_id / "train.jsonl").exists()
    arm = runs_of(given, "theirs")[0].arm
    assert (arm.rank, arm.alpha, arm.targets, arm.learning_rate) == (2, 4.0, "all-linear", None)
    assert runs_of(given, "theirs")[0].trainable_parameters == runs_of(trained, "lora-r2")[0].trainable_parameters


def test_they_stand_in_the_verdict_with_what_nobody_knows_of_them(studies: tuple[Path, Path, Path]) -> None:
    _, given, _ = studies
    (verdict,) = json.loads((given / "verdict.json").read_text())["verdicts"]
    rows = {row["label"]: row for row in verdict["arms"]}
    assert set(rows) == {"theirs", "full-theirs", "lora-r1"}
    for label, known in (("theirs", False), ("full-theirs", False), ("lora-r1", True)):
        assert rows[label]["gain"]["mean"] is not None
        assert rows[label]["seeds"] == [0, 1]
        assert rows[label]["cost"]["trained_here"] is known
        assert (rows[label]["learning_rate"] is not None) is known
    assert rows["full-theirs"]["dial"] == 0.7
    assert verdict["best_bet"] is not None
    page = (given / "report.html").read_text()
    assert TRAINED_ELSEWHERE in page
    assert NOT_TRAINED_HERE in page
    assert "held out for suite mine" in page
    points = pd.read_parquet(given / "tables" / "operating_points.parquet")
    theirs = points[points["arm"] == "theirs"]
    assert theirs["learning_rate"].isna().all()
    assert theirs["gain"].notna().all()
    assert sorted(theirs["dial"]) == [0.5, 0.7, 0.85, 1.0]
    spectra = pd.read_parquet(given / "tables" / "spectra.parquet")
    assert {"theirs", "full-theirs", "lora-r1"} <= set(spectra["arm"])


def test_going_on_does_nothing_twice_and_a_changed_folder_is_noticed(
    studies: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    trained, given, second = studies
    before = {path: path.stat().st_mtime_ns for path in given.glob("runs/*/predictions.parquet")}
    assert run(second, given) == Outcome()
    assert {path: path.stat().st_mtime_ns for path in given.glob("runs/*/predictions.parquet")} == before
    adapter = trained / "runs" / runs_of(trained, "lora-r2")[0].run_id / "adapter"
    config = adapter / "adapter_config.json"
    kept = config.read_text()
    config.write_text(json.dumps(json.loads(kept) | {"lora_alpha": 8}))
    for path in (given / "runs").glob("lora-r1-*/status.json"):  # something is left to do
        path.unlink()
    try:
        with pytest.raises(InputProblems) as caught:
            run(second, given)
    finally:
        config.write_text(kept)
    (problem,) = caught.value.problems
    assert problem.found == "another content"
    assert problem.place == "arms.theirs[0]"


def test_an_arm_of_theirs_is_exported_with_a_card(studies: tuple[Path, Path, Path], tmp_path: Path) -> None:
    _, given, _ = studies
    folder = StudyFolder.open(given)
    told = export_arm(folder, tmp_path / "out", arm="theirs", merged=False)
    assert told.startswith("the adapter of theirs")
    assert (tmp_path / "out" / "adapter_model.safetensors").is_file()
    card = (tmp_path / "out" / "README.md").read_text()
    assert "trained elsewhere" in card
    assert "learning rate: not known" in card
    assert NOT_TRAINED_HERE in card
    assert "epochs" not in card
