"""A tiny study whose runs two processes train, score and look into, against the same study of one process."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest
from safetensors.torch import load_file
from test_pipeline import plan_of, run
from tiny_study import tiny_study

from rankscope.edges.executors import WorkPlace
from rankscope.edges.study_folder import StudyFolder
from rankscope.jobs.candidate_scoring import ScoredCandidate, score_candidate
from rankscope.jobs.candidate_training import train_arms
from rankscope.jobs.derive_job import Derive
from rankscope.jobs.job_context import JobContext
from rankscope.pipeline import Outcome
from rankscope.records import PlannedSearch, RunStatus

pytestmark = pytest.mark.slow

FULL = {"full": {"learning_rate": 1e-3}}
SETTINGS: dict[str, Any] = {
    "seeds": [0], "budget": {"epochs": 6, "batch_size": 8, "max_sequence_tokens": 128},
    "keep": {"full": "all"}, "dial": [0.5, 1],
    "selection": {"min_items": 8, "share": 0.4}, "model": {"id": "model", "dtype": "float32"},
}  # fmt: skip
WHOLE: dict[str, Any] = {
    **SETTINGS, "arms": {**FULL, "lora": {"ranks": [2, 4], "learning_rate": 1e-2}},
    "analysis": {"enabled": True, "derived": False, "probe_items": 8},
}  # fmt: skip
PACKED = {"arms_together": 2, "micro_batch_tokens": 512}
TOLERANCE = 2e-3
"""Of numbers after thirty steps whose sums were taken in another order."""


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study in gangs."""
    folder = tmp_path_factory.mktemp("gang")
    study = tiny_study(folder / "input", **WHOLE, execution={**PACKED, "shards": 2, "scoring_shards": 2})
    assert run(study, folder / "out") == Outcome()
    return folder / "out"


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same of one process."""
    folder = tmp_path_factory.mktemp("alone")
    assert run(tiny_study(folder / "input", **WHOLE, execution=PACKED), folder / "out") == Outcome()
    return folder / "out"


def weights(out: Path) -> dict[str, dict[str, Any]]:
    return {
        path.parts[-3]: load_file(path)
        for path in sorted(out.glob("runs/*/*/*.safetensors"))
        if "analysis" not in path.parts
    }


def context_of(out: Path) -> JobContext:
    folder = StudyFolder.open(out)
    text = folder.read_study_text()
    assert text is not None
    context = JobContext(folder, text, plan_of(out))
    context.place = WorkPlace(lambda: False)
    return context


def test_two_processes_train_what_one_trains(sharded: Path, alone: Path) -> None:
    found, expected = weights(sharded), weights(alone)
    assert found.keys() == expected.keys()
    assert len(found) == 3
    for run_id, tensors in expected.items():
        for name, tensor in tensors.items():
            assert float((found[run_id][name] - tensor).abs().max()) < TOLERANCE, (run_id, name)


def test_gangs_are_recorded_and_leave_nothing(sharded: Path) -> None:
    plan, folder = plan_of(sharded), StudyFolder.open(sharded)
    statuses: list[RunStatus | None] = [folder.read_status(one.run_id) for one in plan.runs]
    assert [(one.gang, one.scoring.size) for one in plan.runs] == [(2, 2)] * 3
    assert [status.gang for status in statuses if status] == [2, 2, 2]
    assert plan.base_gang("model").size == 2
    assert not [*sharded.rglob("*.gang"), *sharded.rglob("*.gang-before"), *sharded.rglob("*-draft")]


def test_the_base_has_the_very_scores(sharded: Path, alone: Path) -> None:
    """Its weights are the same, and batches are what one process has."""
    for read in (StudyFolder.read_predictions, StudyFolder.read_second_predictions):
        ours, own = (read(StudyFolder.open(out), "base") for out in (sharded, alone))
        assert ours is not None
        pd.testing.assert_frame_equal(ours, own)


@pytest.mark.parametrize("name", ["scores", "hidden", "attention", "neurons", "cost"])
def test_tables_are_those_of_one_process(sharded: Path, alone: Path, name: str) -> None:
    """But for rounding, by which an item may tip over."""
    ours, own = (pd.read_parquet(out / "tables" / f"{name}.parquet") for out in (sharded, alone))
    assert list(ours.columns) == list(own.columns)
    assert len(ours) == len(own) > 0
    if name == "scores":
        assert float((ours["accuracy"] - own["accuracy"]).abs().max()) <= 1 / 20
    elif name != "cost":
        pd.testing.assert_frame_equal(ours, own, rtol=0.05, atol=0.02)


def test_spectra_are_those_of_the_weights(sharded: Path, alone: Path) -> None:
    """Of every arm and matrix, each once, whichever process decomposed it."""
    ours, own = (pd.read_parquet(out / "tables" / "spectra.parquet") for out in (sharded, alone))
    keys = ["arm", "module"]
    assert ours[keys].values.tolist() == own[keys].values.tolist()
    assert (ours["frobenius_norm"] / own["frobenius_norm"] - 1).abs().max() < 0.02
    assert (ours["effective_rank"] / own["effective_rank"] - 1).abs().max() < 0.02


def test_dials_and_first_tokens_are_those_of_one_process(sharded: Path, alone: Path) -> None:
    for one in plan_of(alone).runs:
        ours, own = (StudyFolder.open(out) for out in (sharded, alone))
        losses = [folder.read_dial_losses(one.run_id) for folder in (ours, own)]
        assert losses[0] is not None
        assert losses[1] is not None
        assert losses[0].validation_losses == pytest.approx(losses[1].validation_losses, abs=TOLERANCE)
        moved = [folder.read_first_tokens(one.run_id) for folder in (ours, own)]
        pd.testing.assert_frame_equal(moved[0], moved[1], rtol=0.02, atol=TOLERANCE)
        halves = [folder.read_at_dial(one.run_id, 0.5) for folder in (ours, own)]
        assert halves[0] is not None
        assert halves[0]["item_id"].tolist() == halves[1]["item_id"].tolist()  # type: ignore[index]


def test_a_derived_run_is_scored_in_a_gang(sharded: Path, alone: Path) -> None:
    run_id = next(one.run_id for one in plan_of(sharded).runs if one.arm.rank == 4)
    for out in (sharded, alone):
        Derive(str(out), run_id, "intruders-0.5").run(WorkPlace(lambda: False))
    ours, own = (StudyFolder.open(out).derived_facts(run_id, "intruders-0.5") for out in (sharded, alone))
    assert ours == own
    assert ours


def test_a_candidate_of_a_search_is_trained_and_scored_in_a_gang(sharded: Path, alone: Path) -> None:
    """Whole weights, which a second gang reads and interpolates."""
    found = [_scored_candidate(out) for out in (sharded, alone)]
    ours, own = found
    assert [(one.dial, one.learning_rate) for one in ours.losses] == [(0.5, 1e-3), (1.0, 1e-3)]
    assert [one.validation_loss for one in ours.losses] == pytest.approx(
        [one.validation_loss for one in own.losses], abs=TOLERANCE
    )
    assert ours.selection[["suite", "item_id", "dial"]].equals(own.selection[["suite", "item_id", "dial"]])
    assert ours.selection.dtypes.equals(own.selection.dtypes)
    pd.testing.assert_frame_equal(ours.moved, own.moved, rtol=0.05, atol=TOLERANCE)


def _scored_candidate(out: Path) -> ScoredCandidate:
    context = context_of(out)
    one = next(r for r in context.plan.runs if r.arm.traits.whole)
    search = PlannedSearch(
        search_id="some", model=one.model, train_set=one.train_set, arms=[one.arm], rates=[1e-3], seed=7,
        step_count=one.step_count, train_flops=0.0, seconds=0.0, gang=one.gang, scoring=one.scoring,
    )  # fmt: skip
    context.plan = context.plan.model_copy(update={"searches": [search]})
    checkpoint = context.folder.search_checkpoints("some", "full-0.001")
    if search.in_gang:  # the gang's processes read the plan
        text = context.folder.read_study_text()
        assert text is not None
        context.folder.write_study(text, context.plan)
    else:
        train_arms(context, search, [(one.arm, 1e-3)], [checkpoint], search.step_count)
    return score_candidate(context, search, one.arm, 1e-3, checkpoint)


# ---- what happens while it trains -----------------------------------------------------------------------------------


def start(study: Path, out: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "rankscope", "run", str(study), "--out", str(out)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def gang_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    try:
        children = psutil.Process(process.pid).children(recursive=True)
        return [child for child in children if "rankscope.jobs.gang_member" in child.cmdline()]
    except psutil.Error:
        return []


def wait_for_checkpoint(process: subprocess.Popen[str], out: Path, written_after: float = 0.0) -> list[psutil.Process]:
    """The processes of the gang that has saved a state of the full run since then."""
    while process.poll() is None:
        members = gang_of(process)
        states = [path.stat().st_mtime for path in out.glob("runs/full*/checkpoint.gang/state.json")]
        if members and states and max(states) > written_after:
            return members
        time.sleep(0.01)
    raise AssertionError(process.communicate())


def test_killed_then_stopped_then_run_again_is_bit_for_bit(sharded: Path, tmp_path: Path) -> None:
    """One process is killed: the gang starts again from its state. Then all are asked to stop, and go on."""
    out = tmp_path / "out"
    execution = {"micro_batch_tokens": 512, "shards": 2}
    study = tiny_study(
        tmp_path / "input", **SETTINGS, arms=FULL, execution=execution, checkpoint={"minutes": 0.001}
    )  # fmt: skip
    process = start(study, out)
    members = wait_for_checkpoint(process, out)
    members[-1].kill()
    killed = time.time()
    again = wait_for_checkpoint(process, out, killed)
    assert not {one.pid for one in again} & {one.pid for one in members}
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 1, errors
    assert [*out.glob("runs/full*/checkpoint.gang")]
    assert run(study, out) == Outcome()
    ((run_id, found),) = weights(out).items()
    for name, tensor in weights(sharded)[run_id].items():
        assert found[name].equal(tensor), name
