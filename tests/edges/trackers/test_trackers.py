"""Trackers: their own readers give back what a study recorded, from when a run begins, once, after a resume too."""

from __future__ import annotations

import importlib.util
import struct
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from made_plan import RESOLVED, make_plan

from rankscope.edges.study_folder import StudyFolder
from rankscope.edges.trackers import Point, TrackedRun, Tracker, make_tracker, tracker_names, tracker_problems
from rankscope.records import Plan, Provenance, RunRecord, RunStatus, StepRecord, VerdictFile
from rankscope.results.tracking import Tracking


def write_run(store: StudyFolder, plan: Plan, index: int, state: str = "done", step_count: int = 2) -> str:
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
        for i in range(step_count)
    ]
    store.write_steps(run.run_id, steps)
    if state != "running":
        frame = pd.DataFrame({"suite": ["law", "law", "text"], "score": pd.array([1.0, 0.0, None], dtype="Float64")})
        store.write_predictions(run.run_id, frame, {})
    reason = "the loss rose" if state == "diverged" else None
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
    """What a session of `rankscope run` does; nothing is said."""
    told: list[str] = []
    session(folder, {name: partial(make_tracker, name, "made", folder)}, told)
    assert not told


def session(folder: Path, makers: Mapping[str, Callable[[], Tracker]], told: list[str]) -> None:
    store = StudyFolder.open(folder)
    plan = store.read_plan()
    assert plan is not None
    with Tracking(store, makers, told.append) as tracking:
        tracking.update(plan)


def test_mlflow_s_own_client_reads_the_runs_back(folder: Path) -> None:
    tracking = pytest.importorskip("mlflow.tracking", reason="MLflow is an extra: pip install 'rankscope[mlflow]'")
    pytest.importorskip("sqlalchemy", reason="MLflow's SQLite store is an extra: pip install 'rankscope[mlflow]'")
    store, plan = StudyFolder.open(folder), make_plan()
    write_run(store, plan, 0, "running", 1)
    track(folder, "mlflow")
    client = tracking.MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}")
    (running,) = client.search_runs([client.get_experiment_by_name("made").experiment_id], "params.rank = '1'")
    assert running.info.status == "RUNNING"
    assert [m.value for m in client.get_metric_history(running.info.run_id, "loss_nats_per_token")] == [2.0]
    first = write_run(store, plan, 0)
    track(folder, "mlflow")
    second = write_run(store, plan, 1, "diverged")
    track(folder, "mlflow")  # the first run is there already
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
    write_run(StudyFolder.open(folder), make_plan(), 0, "running", 1)
    track(folder, "tensorboard")
    run_id = write_run(StudyFolder.open(folder), make_plan(), 0)
    track(folder, "tensorboard")
    track(folder, "tensorboard")
    events = reader.EventAccumulator(str(folder / "tensorboard" / run_id))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss_nats_per_token")] == [(0, 2.0), (1, 1.0)]
    assert [e.value for e in events.Scalars("accuracy.law")] == [0.5]


def wandb_records(file: Path) -> Iterator[Any]:
    """The records of a .wandb file: LevelDB's log format (blocks of 32 KiB; checksum, length and type of each piece)
    of W&B's protocol buffers, after a header of 7 bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, whole = file.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
        length, kind = struct.unpack("<HB", data[at + 4 : at + 7])
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a whole record, or the last piece of one
            yield Record.FromString(whole)
            whole = b""


def test_wandb_s_offline_files_have_the_curves_and_the_end(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="W&B is an extra: pip install 'rankscope[wandb]'")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_CACHE_DIR", str(folder / "cache"))
    store, plan = StudyFolder.open(folder), make_plan()
    write_run(store, plan, 0, "running", 1)
    track(folder, "wandb")
    write_run(store, plan, 0)
    track(folder, "wandb")
    records = [record for file in sorted(folder.glob("wandb/*/*.wandb")) for record in wandb_records(file)]
    history = [
        {item.key or "/".join(item.nested_key): item.value_json for item in record.history.item}
        for record in records
        if record.WhichOneof("record_type") == "history"
    ]
    assert [(row["step"], row["loss_nats_per_token"]) for row in history] == [("0", "2"), ("1", "1")]
    runs = Counter(r.run.display_name for r in records if r.WhichOneof("record_type") == "run" and r.run.display_name)
    assert set(runs) == {"lora-r1 on medical, seed 0", "made: the verdict"}
    config = {item.key: item.value_json for r in records for item in r.run.config.update}
    assert (config["rank"], config["budget.epochs"]) == ("1", "2")
    summary = {item.key: item.value_json for r in records for item in r.summary.update}
    assert (summary["accuracy.law"], summary["state"]) == ("0.5", '"done"')
    assert not [r for r in records if r.WhichOneof("record_type") == "environment"], "nothing of the machine"


def test_trackio_s_own_reader_reads_the_curves_back(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if importlib.util.find_spec("trackio") is None:  # it reads TRACKIO_DIR when it is imported
        pytest.skip("trackio is an extra: pip install 'rankscope[trackio]'")
    monkeypatch.setenv("TRACKIO_DIR", str(folder / "trackio"))
    store, plan = StudyFolder.open(folder), make_plan()
    write_run(store, plan, 0, "running", 1)
    track(folder, "trackio")
    run_id = write_run(store, plan, 0)
    track(folder, "trackio")
    track(folder, "trackio")
    from trackio.sqlite_storage import SQLiteStorage

    logs = SQLiteStorage.get_logs("made", run_id)
    assert [(log["step"], log["loss_nats_per_token"]) for log in logs[:2]] == [(0, 2.0), (1, 1.0)]
    assert [log["accuracy.law"] for log in logs[2:]] == [0.5]
    assert (folder / "trackio").is_dir()


class Fails:
    """A tracker whose server is gone when a run ends."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def begin(self, run: TrackedRun, *, anew: bool) -> None:
        self.calls.append(f"begin {anew}")

    def log(self, run_id: str, points: Sequence[Point]) -> None:
        self.calls.append(f"log {[point.step for point in points]}")

    def end(self, run: TrackedRun, last_step: int) -> None:
        raise ConnectionError("the server\nat https://user:pw@there is gone")

    def log_outcome(self, texts: Mapping[str, str], files: Sequence[Path]) -> None:
        raise AssertionError("no outcome after a failure")

    def close(self) -> None:
        self.calls.append("close")


def test_a_tracker_that_fails_is_one_line_and_what_it_lacks_comes_next_time(folder: Path) -> None:
    store, plan = StudyFolder.open(folder), make_plan()
    write_run(store, plan, 0)
    tracker, told = Fails(), []
    session(folder, {"fails": lambda: tracker}, told)
    (line,) = told
    assert line.startswith("the tracker fails failed (ConnectionError: the server at https://")
    assert line.endswith("the study goes on, and it is tried again")
    assert "pw" not in line
    assert "\n" not in line
    assert tracker.calls[:2] == ["begin True", "log [0, 1]"]
    assert store.read_handed_on("fails").ended == []

    monkey = Fails()
    monkey.end = lambda run, last_step: monkey.calls.append(f"end {last_step} {run.metrics['accuracy.law']}")  # type: ignore[method-assign]
    monkey.log_outcome = lambda texts, files: monkey.calls.append("outcome")  # type: ignore[method-assign]
    session(folder, {"fails": lambda: monkey}, [])
    assert monkey.calls == ["begin True", "log [0, 1]", "end 1 0.5", "outcome", "close"]
    assert store.read_handed_on("fails").ended == [plan.runs[0].run_id]


def test_a_tracker_that_cannot_be_made_stops_nothing(folder: Path) -> None:
    def broken() -> Tracker:
        raise RuntimeError("no such project")

    told: list[str] = []
    session(folder, {"broken": broken}, told)
    assert len(told) == 1


def test_trackers_are_what_lies_in_their_folder() -> None:
    assert tracker_names() == ["mlflow", "tensorboard", "trackio", "wandb"]


def test_a_tracker_that_is_not_installed_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    (problem,) = tracker_problems(("mlflow",), "study.yaml")
    assert str(problem).startswith("study.yaml: track: found mlflow without its packages, expected pip install")
    assert tracker_problems((), "study.yaml") == []
