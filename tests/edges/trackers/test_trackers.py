"""Trackers: MLflow's and TensorBoard's own readers give back what a study recorded, once, after a resume too."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pandas as pd
import pytest
from made_plan import RESOLVED, make_plan

from rankscope.edges.study_folder import StudyFolder
from rankscope.edges.trackers import make_tracker, tracker_problems
from rankscope.records import Plan, Provenance, RunRecord, RunStatus, StepRecord, VerdictFile
from rankscope.results.tracking import Tracking


def write_run(store: StudyFolder, plan: Plan, index: int, state: str = "done") -> str:
    run = plan.runs[index]
    store.write_run(
        RunRecord(
            run_id=run.run_id, model=run.model, train_set=run.train_set, arm=run.arm, seed=run.seed, learning_rate=3e-3,
            resolved=RESOLVED, settings={"budget": {"epochs": 2}},
            provenance=Provenance(
                commit="abc", versions={}, machine="here", model_sha256="0", train_sha256=None, suites_sha256={}
            ),
        )
    )  # fmt: skip
    steps = [
        StepRecord(step=i, loss_nats_per_token=2.0 - i, learning_rate=1e-3, gradient_norm=1.0, completion_tokens=4)
        for i in range(2)
    ]
    store.write_steps(run.run_id, steps)
    frame = pd.DataFrame({"suite": ["law", "law", "text"], "score": pd.array([1.0, 0.0, None], dtype="Float64")})
    store.write_predictions(run.run_id, frame, {})
    reason = None if state == "done" else "the loss rose"
    store.write_status(RunStatus(run_id=run.run_id, state=state, validation_loss=0.5, reason=reason))
    return run.run_id


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    store = StudyFolder.open(tmp_path / "study")
    store.write_study("", make_plan())
    store.write_report("made")
    store.write_verdicts(VerdictFile(verdicts=[]))
    return tmp_path / "study"


def track(folder: Path, name: str) -> None:
    """What a session of `rankscope run` does."""
    store = StudyFolder.open(folder)
    tracking = Tracking(store, [partial(make_tracker, name, "made", folder)])  # type: ignore[arg-type]
    plan = store.read_plan()
    assert plan is not None
    tracking.update(plan)
    tracking.finish()


def test_mlflow_s_own_client_reads_the_runs_back(folder: Path) -> None:
    tracking = pytest.importorskip("mlflow.tracking", reason="MLflow is an extra: pip install 'rankscope[mlflow]'")
    pytest.importorskip("sqlalchemy", reason="MLflow's SQLite store is an extra: pip install 'rankscope[mlflow]'")
    store, plan = StudyFolder.open(folder), make_plan()
    first = write_run(store, plan, 0)
    track(folder, "mlflow")
    second = write_run(store, plan, 1, "diverged")
    track(folder, "mlflow")  # the first run is there already
    client = tracking.MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("made")
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert set(runs) == {"made", "lora-r1 on medical, seed 0", "lora-r1 on medical, seed 1"}
    parent, child = runs["made"], runs["lora-r1 on medical, seed 0"]
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert (child.data.tags["rankscope.run_id"], child.data.tags["rankscope.commit"]) == (first, "abc")
    assert child.data.params["rank"] == "1"
    assert child.data.params["learning_rate"] == "0.003"
    assert child.data.params["budget.epochs"] == "2"
    assert child.data.metrics["validation_loss"] == 0.5
    assert child.data.metrics["accuracy.law"] == 0.5
    assert "accuracy.text" not in child.data.metrics, "plain text has no accuracy: missing stays missing"
    history = client.get_metric_history(child.info.run_id, "loss_nats_per_token")
    assert [(metric.step, metric.value) for metric in history] == [(0, 2.0), (1, 1.0)]
    other = runs["lora-r1 on medical, seed 1"]
    assert (other.data.tags["rankscope.run_id"], other.info.status) == (second, "FAILED")
    assert other.data.tags["rankscope.reason"] == "the loss rose"
    assert {file.path for file in client.list_artifacts(parent.info.run_id)} >= {"verdict.json", "report.html"}
    assert parent.info.status == "FINISHED"


def test_tensorboard_s_own_reader_reads_the_scalars_back(folder: Path) -> None:
    reader = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="TensorBoard is an extra"
    )
    run_id = write_run(StudyFolder.open(folder), make_plan(), 0)
    track(folder, "tensorboard")
    track(folder, "tensorboard")
    events = reader.EventAccumulator(str(folder / "tensorboard" / run_id))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss_nats_per_token")] == [(0, 2.0), (1, 1.0)]
    assert [e.value for e in events.Scalars("accuracy.law")] == [0.5]


def test_a_tracker_that_is_not_installed_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    (problem,) = tracker_problems(("mlflow",), "study.yaml")
    assert str(problem).startswith("study.yaml: track: found mlflow without its packages, expected pip install")
    assert tracker_problems((), "study.yaml") == []
