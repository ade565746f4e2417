"""What fails of one run is its own: the others of its pack are finished, and scores that it has count."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from test_pipeline import plan_of, run
from tiny_study import tiny_study
from typer import Exit

from rankscope.cli import study_commands
from rankscope.edges.executors import JobOutcome, WorkPlace, perform
from rankscope.edges.executors.this_machine import InProcess
from rankscope.edges.folder_upkeep import keep_best
from rankscope.edges.study_folder import StudyFolder
from rankscope.jobs import run_job
from rankscope.jobs.analysis import TABLES, look_inside
from rankscope.jobs.gang import GangFailed
from rankscope.jobs.gang_context import GangContext
from rankscope.jobs.job_context import JobContext
from rankscope.jobs.run_job import TrainRuns
from rankscope.model import load
from rankscope.pipeline import Outcome
from rankscope.records import PlannedRun, RunStatus

LORA: dict[str, Any] = {"lora": {"ranks": [2, 4], "learning_rate": 1e-2}}
SETTINGS: dict[str, Any] = {
    "seeds": [0], "budget": {"epochs": 1, "batch_size": 8, "max_sequence_tokens": 128},
    "analysis": {"enabled": True, "derived": False, "probe_items": 4},
    "execution": {"arms_together": 2, "micro_batch_tokens": 4096},
}  # fmt: skip
ERROR = "RuntimeError: no inside"
NOTE = f"the look inside failed: {ERROR}"


def by_label(out: Path) -> dict[str, PlannedRun]:
    return {planned.arm.label: planned for planned in plan_of(out).runs}


def status_of(out: Path, planned: PlannedRun) -> RunStatus:
    status = StudyFolder.open(out).read_status(planned.run_id)
    assert status is not None
    return status


def is_looked_into(out: Path, planned: PlannedRun) -> bool:
    return all(StudyFolder.open(out).has_analysis(planned.run_id, name) for name in TABLES)


def failing(patch: pytest.MonkeyPatch, name: str, label: str, place: int = 1, words: str = "no inside") -> None:
    """A step of the job that fails for one arm; `place`: of the run among its arguments."""
    real: Callable[..., Any] = getattr(run_job, name)

    def step(*given: Any, **named: Any) -> Any:
        if label in (given[place].run_id, getattr(getattr(given[place], "arm", None), "label", None)):
            raise RuntimeError(words)
        return real(*given, **named)

    patch.setattr(run_job, name, step)


def said(outcome: Outcome, out: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """What the command says at its end, which is with exit code 1."""
    capsys.readouterr()
    with pytest.raises(Exit) as ended:
        study_commands._tell(outcome, StudyFolder.open(out), [])
    assert ended.value.exit_code == 1
    return capsys.readouterr().err.splitlines()


def test_a_look_inside_that_fails_is_told_of_its_own_run_and_the_rest_of_its_pack_is_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    study, out = tiny_study(tmp_path / "input", arms=LORA, **SETTINGS), tmp_path / "out"
    with monkeypatch.context() as patch:
        failing(patch, "look_inside", "lora-r4")
        outcome = run(study, out)
    runs = by_label(out)
    bad, good = runs["lora-r4"], runs["lora-r2"]
    assert status_of(out, bad).trained_with == (bad.run_id, good.run_id)
    assert outcome == Outcome(failed={bad.run_id: f"scored, but {NOTE}"})
    first, second = status_of(out, bad), status_of(out, good)
    assert (first.state, first.reason, first.activity) == ("done", NOTE, None)
    assert (second.state, second.reason, second.activity) == ("done", None, None)
    assert (is_looked_into(out, bad), is_looked_into(out, good)) == (False, True)
    assert ERROR in (out / "runs" / bad.run_id / "error.txt").read_text()
    assert not (out / "runs" / good.run_id / "error.txt").exists()
    (verdict,) = StudyFolder.open(out).verdicts().verdicts
    assert {arm.label: arm.seeds for arm in verdict.arms} == {"lora-r2": [0], "lora-r4": [0]}, "its scores count"
    assert f"lora-r4 on trees, seed 0: scored, but {NOTE}" in (out / "report.html").read_text()
    lines = said(outcome, out, capsys)
    place = f"runs/{bad.run_id}/error.txt"
    assert lines[0] == f"lora-r4 on trees, seed 0: scored, but {NOTE} (traceback: {place})"
    assert lines[-1].startswith("1 other run is done; to try again what failed: ")

    looked: list[str] = []

    def look(context: Any, planned: PlannedRun, trained: Any) -> None:
        looked.append(planned.run_id)
        look_inside(context, planned, trained)

    def forbidden(*_: object) -> None:
        raise AssertionError("it is scored")

    monkeypatch.setattr(run_job, "look_inside", look)
    monkeypatch.setattr(run_job, "score_missing", forbidden)
    assert run(study, out) == Outcome()
    assert looked == [bad.run_id]
    assert is_looked_into(out, bad)
    again = status_of(out, bad)
    assert (again.state, again.reason, again.activity) == ("done", None, None)


def test_a_run_of_a_pack_that_cannot_be_scored_has_its_own_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    study, out = tiny_study(tmp_path / "input", arms=LORA, **SETTINGS), tmp_path / "out"
    ids = by_label(planned_only(study, tmp_path / "plan"))
    with monkeypatch.context() as patch:
        failing(patch, "score_missing", ids["lora-r2"].run_id, 3, "no scores")
        failing(patch, "look_inside", "lora-r4")
        outcome = run(study, out)
    runs = by_label(out)
    bad, noted = runs["lora-r2"], runs["lora-r4"]
    assert outcome.failed == {bad.run_id: "RuntimeError: no scores", noted.run_id: f"scored, but {NOTE}"}
    assert (status_of(out, bad).state, status_of(out, bad).reason) == ("failed", "RuntimeError: no scores")
    assert (status_of(out, noted).state, status_of(out, noted).reason) == ("done", NOTE)
    first = said(outcome, out, capsys)[0]
    assert first == f"{bad.run_id} failed: RuntimeError: no scores (its traceback: error.txt in its folder)"
    assert run(study, out) == Outcome()


def planned_only(study: Path, out: Path) -> Path:
    """A folder with the study's plan, whose jobs are not done."""

    class Idle(InProcess):
        def run(self, jobs: Any, idle: Any) -> Any:
            return iter(())

    run(study, out, executor=Idle(1))
    return out


def test_training_that_fails_leaves_each_run_its_own_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pack was trained but for one arm; of the other the look inside fails."""
    study, out = tiny_study(tmp_path / "input", arms=LORA, **SETTINGS), tmp_path / "out"
    assert run(study, out) == Outcome()
    runs, folder = by_label(out), StudyFolder.open(out)
    bad, noted = runs["lora-r2"], runs["lora-r4"]
    shutil.rmtree(out / "runs" / bad.run_id / "adapter")
    folder.write_status(status_of(out, bad).model_copy(update={"state": "running"}))
    (out / "runs" / noted.run_id / "analysis" / "neurons.parquet").unlink()
    failing(monkeypatch, "look_inside", "lora-r4")

    def train(*_: object) -> None:
        raise RuntimeError("no training")

    monkeypatch.setattr(run_job, "train_missing", train)
    job = TrainRuns(str(out), (bad.run_id, noted.run_id))
    outcome = perform(job, WorkPlace(lambda: False))
    assert outcome.error is not None
    assert job.mark_failed(folder, outcome.error, outcome.details) == {
        bad.run_id: "RuntimeError: no training", noted.run_id: f"scored, but {NOTE}",
    }  # fmt: skip
    assert (status_of(out, bad).state, status_of(out, noted).state) == ("failed", "done")


def test_a_run_alone_whose_look_inside_fails_is_scored_at_its_dials_and_keeps_its_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a derived run that fails is noted beside it."""
    full: dict[str, Any] = {"full": {"learning_rate": 1e-3}}
    settings = {**SETTINGS, "dial": [0.5, 1], "selection": {"min_items": 8, "share": 0.4}}
    settings["analysis"] = {"enabled": True, "probe_items": 4}
    study, out = tiny_study(tmp_path / "input", arms=full, **settings), tmp_path / "out"
    with monkeypatch.context() as patch:
        failing(patch, "look_inside", "full")
        failing(patch, "derive_whole", "full", words="none made")
        outcome = run(study, out)
    (planned,) = plan_of(out).runs
    folder = StudyFolder.open(out)
    both = f"{NOTE}; making derived runs failed: RuntimeError: none made"
    assert outcome.failed == {planned.run_id: f"scored, but {both}"}
    status = status_of(out, planned)
    assert (status.state, status.reason, status.activity) == ("done", both, None)
    error = (out / "runs" / planned.run_id / "error.txt").read_text()
    assert ERROR in error
    assert "RuntimeError: none made" in error
    assert folder.suites_at_dial(planned.run_id, 0.5)
    assert folder.has_weights(planned.run_id, whole=True), "to look inside later, though the study keeps none"
    assert run(study, out) == Outcome()
    assert is_looked_into(out, planned)
    assert folder.derived_names(planned.run_id)
    assert not folder.has_weights(planned.run_id, whole=True)
    assert status_of(out, planned).reason is None


def test_weights_of_a_run_that_is_still_to_be_looked_into_are_kept(tmp_path: Path) -> None:
    full: dict[str, Any] = {"full": {"learning_rate": 1e-3}}
    settings = {**SETTINGS, "seeds": [0, 1], "keep": {"full": "all"}, "analysis": {"enabled": False}}
    out = tmp_path / "out"
    assert run(tiny_study(tmp_path / "input", arms=full, **settings), out) == Outcome()
    folder, plan = StudyFolder.open(out), plan_of(out)
    worse = max(plan.runs, key=lambda planned: status_of(out, planned).validation_loss or 0.0)
    folder.write_status(status_of(out, worse).model_copy(update={"reason": NOTE}))
    keep_best(folder, plan, lambda _: True)
    assert folder.has_weights(worse.run_id, whole=True)
    folder.write_status(status_of(out, worse).model_copy(update={"reason": None}))
    keep_best(folder, plan, lambda _: True)
    assert not folder.has_weights(worse.run_id, whole=True)


def test_a_worker_that_dies_while_it_looks_inside_leaves_a_note(tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run(tiny_study(tmp_path / "input", arms=LORA, **SETTINGS), out) == Outcome()
    folder, runs = StudyFolder.open(out), by_label(out)
    one, other = runs["lora-r2"], runs["lora-r4"]
    folder.write_status(status_of(out, one).model_copy(update={"activity": "looking inside"}))
    job = TrainRuns(str(out), (one.run_id, other.run_id))
    assert job.mark_failed(folder, "killed", "") == {one.run_id: "scored, but the look inside failed: killed"}
    assert status_of(out, one).activity is None


def test_a_gang_that_fails_is_tried_for_each_run_and_without_what_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gang's processes are played: one run cannot be looked into; all but that is done in the gangs after."""
    out = tmp_path / "out"
    dials = {"dial": [0.5, 1], "selection": {"min_items": 8, "share": 0.4}}
    assert run(tiny_study(tmp_path / "input", arms=LORA, **SETTINGS, **dials), out) == Outcome()
    folder, runs = StudyFolder.open(out), by_label(out)
    bad, good = runs["lora-r2"], runs["lora-r4"]
    for planned in (bad, good):
        (out / "runs" / planned.run_id / "analysis" / "neurons.parquet").unlink()
        (out / "runs" / planned.run_id / "dials.json").unlink()
    gangs: list[list[str]] = []

    def gang(context: Any, of: PlannedRun, *, work: str, run_ids: list[str]) -> None:
        gangs.append(run_ids)
        for run_id in run_ids:
            status = folder.read_status(run_id)
            assert status is not None
            if run_id == bad.run_id and status.reason is None:
                folder.write_status(status.model_copy(update={"activity": "looking inside"}))
                raise GangFailed(ERROR)
        run_job.finish_runs(context, [context.runs[run_id] for run_id in run_ids], [])

    in_gangs(folder, out)
    monkeypatch.setattr(run_job, "score_in_gang", gang)
    job = TrainRuns(str(out), (bad.run_id, good.run_id))
    outcome: JobOutcome = perform(job, WorkPlace(lambda: False))
    assert outcome.error is not None
    why = f"scored, but the look inside failed: GangFailed: {ERROR}"
    assert job.mark_failed(folder, outcome.error, outcome.details) == {bad.run_id: why}
    assert gangs == [[bad.run_id, good.run_id], [bad.run_id], [bad.run_id], [good.run_id]]
    assert (is_looked_into(out, bad), is_looked_into(out, good)) == (False, True)
    assert folder.read_dial_losses(bad.run_id) is not None
    assert status_of(out, bad).state == "done"


def failed_inside(tmp_path: Path) -> tuple[Path, StudyFolder, PlannedRun]:
    """A finished study, its folder, and a run of it that is scored and whose look inside failed."""
    out = tmp_path / "out"
    assert run(tiny_study(tmp_path / "input", arms=LORA, **SETTINGS), out) == Outcome()
    folder, bad = StudyFolder.open(out), by_label(out)["lora-r2"]
    (out / "runs" / bad.run_id / "analysis" / "neurons.parquet").unlink()
    folder.write_status(status_of(out, bad).model_copy(update={"reason": NOTE}))
    return out, folder, bad


def in_gangs(folder: StudyFolder, out: Path) -> None:
    """The plan as of runs that are scored in gangs of two."""
    ganged = [p.model_copy(update={"scoring": p.scoring.model_copy(update={"size": 2})}) for p in plan_of(out).runs]
    folder.write_study(folder.read_study_text() or "", plan_of(out).model_copy(update={"runs": ganged}))


def test_a_gang_that_fails_at_other_dials_is_not_begun_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    dials = {"dial": [0.5, 1], "selection": {"min_items": 8, "share": 0.4}}
    assert run(tiny_study(tmp_path / "input", arms=LORA, **SETTINGS, **dials), out) == Outcome()
    folder, bad = StudyFolder.open(out), by_label(out)["lora-r2"]
    (out / "runs" / bad.run_id / "dials.json").unlink()
    shutil.rmtree(out / "runs" / bad.run_id / "dials")
    gangs: list[list[str]] = []

    def gang(context: Any, of: PlannedRun, *, work: str, run_ids: list[str]) -> None:
        gangs.append(run_ids)
        assert len(gangs) < 5
        folder.write_status(status_of(out, bad).model_copy(update={"activity": "scoring at other dials"}))
        raise GangFailed(ERROR)

    in_gangs(folder, out)
    monkeypatch.setattr(run_job, "score_in_gang", gang)
    outcome: JobOutcome = perform(TrainRuns(str(out), (bad.run_id,)), WorkPlace(lambda: False))
    assert outcome.error is not None
    assert gangs == [[bad.run_id]]
    assert status_of(out, bad).state == "failed"


def test_a_gangs_own_attempts_do_not_supersede_the_job_that_began_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, folder, bad = failed_inside(tmp_path)

    def gang(context: Any, of: PlannedRun, *, work: str, run_ids: list[str]) -> None:
        status = status_of(out, bad)
        folder.write_status(status.model_copy(update={"activity": "looking inside", "attempt": status.attempt + 1}))
        raise GangFailed(ERROR)

    in_gangs(folder, out)
    monkeypatch.setattr(run_job, "score_in_gang", gang)
    outcome: JobOutcome = perform(TrainRuns(str(out), (bad.run_id,)), WorkPlace(lambda: False))
    assert (outcome.error or "").startswith("RunsFailed")
    assert status_of(out, bad).reason == f"the look inside failed: GangFailed: {ERROR}"


def test_an_error_in_a_process_of_a_gang_is_its_parents_to_take_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a gang of one too, whose parent halves its batches where memory runs out."""
    out, folder, bad = failed_inside(tmp_path)

    def full(*given: object) -> None:
        raise torch.OutOfMemoryError("no memory")

    monkeypatch.setattr(run_job, "look_inside", full)
    context = JobContext(folder, folder.read_study_text() or "", plan_of(out))
    monkeypatch.setattr(context, "in_gang", GangContext.in_gang, raising=False)
    run_job.try_again(context, bad)
    with pytest.raises(torch.OutOfMemoryError):
        run_job.finish_runs(context, [context.runs[bad.run_id]], [])


def test_a_job_that_dies_before_it_tries_again_what_failed_leaves_a_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, folder, bad = failed_inside(tmp_path)

    def dies(*given: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(run_job, "_trained", dies)
    job = TrainRuns(str(out), (bad.run_id,))
    with pytest.raises(KeyboardInterrupt):
        job.run(WorkPlace(lambda: False))
    assert job.mark_failed(folder, "killed", "") == {bad.run_id: "scored, but the look inside failed: killed"}


def test_a_bases_tokenizer_is_read_once_in_a_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each fully trained run loads a model of its own; a vocabulary of a quarter million tokens takes seconds."""
    read, real = [], load.load_tokenizer
    monkeypatch.setattr(load, "load_tokenizer", lambda *given: read.append(given) or real(*given))
    models, plain = [], load.AutoModelForCausalLM.from_pretrained
    monkeypatch.setattr(
        load.AutoModelForCausalLM, "from_pretrained", lambda *given, **named: models.append(1) or plain(*given, **named)
    )
    arms = {"full": {"learning_rate": 1e-3}, "lora": {"ranks": [2], "learning_rate": 1e-2}}
    run(tiny_study(tmp_path / "input", arms=arms, **SETTINGS | {"analysis": {"enabled": False}}), tmp_path / "out")
    assert len(models) > 1
    assert len(read) == 1
