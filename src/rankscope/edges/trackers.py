"""Where a study's runs are shown beside others: TensorBoard, MLflow; another place would be another class."""

from __future__ import annotations

import importlib.util
import logging
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from rankscope.study.problems import Problem, show

_PACKAGES: dict[str, tuple[str, ...]] = {
    "tensorboard": ("tensorboard",),
    "mlflow": ("mlflow", "sqlalchemy", "alembic"),
}
_BATCH = 1000
"""MLflow takes at most this many metrics in one call."""


@dataclass(frozen=True)
class TrackedRun:
    """A run that ended. `curves` maps a metric to its (step, value) pairs, `metrics` to its last value.

    `params` are settings, `tags` say where it came from; a value that was not measured is left out.
    """

    run_id: str
    name: str
    state: str
    params: Mapping[str, Any]
    metrics: Mapping[str, float]
    curves: Mapping[str, Sequence[tuple[int, float]]]
    tags: Mapping[str, str] = field(default_factory=dict)


class Tracker(Protocol):
    """Takes each run once it has ended, and then the study's outcome. What it has already is not taken twice."""

    def has(self, run_id: str) -> bool: ...

    def log_run(self, run: TrackedRun) -> None: ...

    def log_outcome(self, texts: Mapping[str, str], files: Sequence[Path]) -> None: ...


def missing_packages(names: Sequence[str], file: str) -> list[Problem]:
    """A problem for each tracker that is not known or whose packages are not installed."""
    known = " or ".join(_PACKAGES)
    return [Problem(file, "track", show(name), known) for name in names if name not in _PACKAGES] + [
        Problem(file, "track", f"{name} without its packages", f"pip install 'rankscope[{name}]'")
        for name in names
        if name in _PACKAGES and any(importlib.util.find_spec(package) is None for package in _PACKAGES[name])
    ]


def make_tracker(name: str, study: str, folder: Path) -> Tracker:
    """A tracker that writes below the study's `folder`, or where MLFLOW_TRACKING_URI says."""
    return TensorBoard(folder / "tensorboard") if name == "tensorboard" else MLflow(study, folder)


class TensorBoard:
    """One folder of events for each run: `tensorboard --logdir STUDY_FOLDER/tensorboard`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def has(self, run_id: str) -> bool:
        return (self._folder / run_id).is_dir()

    def log_run(self, run: TrackedRun) -> None:
        writer = self._writer(run.run_id)
        for name, curve in run.curves.items():
            for step, value in curve:
                writer.add_scalar(name, value, step)
        last = max((step for curve in run.curves.values() for step, _ in curve), default=0)
        for name, value in run.metrics.items():
            writer.add_scalar(name, value, last)
        lines = [f"| {key} | {value} |" for key, value in {**run.params, "state": run.state, **run.tags}.items()]
        writer.add_text("settings", "\n".join(["| setting | value |", "|---|---|", *lines]))
        writer.close()

    def log_outcome(self, texts: Mapping[str, str], files: Sequence[Path]) -> None:
        writer = self._writer("study")
        for name, text in texts.items():
            writer.add_text(name, text)
        writer.close()

    def _writer(self, name: str) -> Any:
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(str(self._folder / name))


class MLflow:
    """A parent run for the study and a child for each of its runs; in `STUDY_FOLDER/mlflow.db` by default."""

    def __init__(self, study: str, folder: Path) -> None:
        logging.getLogger("mlflow").setLevel(logging.WARNING)  # how it builds its tables is nobody's concern here
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # nothing phones home
        from mlflow.tracking import MlflowClient

        folder = folder.resolve()
        own = f"sqlite:///{folder / 'mlflow.db'}"
        uri = os.environ.get("MLFLOW_TRACKING_URI", own)
        self._client = MlflowClient(tracking_uri=uri)
        found = self._client.get_experiment_by_name(study)
        if found is not None:
            self._experiment = found.experiment_id
        else:
            place = (folder / "mlartifacts").as_uri() if uri == own else None
            self._experiment = self._client.create_experiment(study, artifact_location=place)
        self._parent = self._find("rankscope.study_folder", str(folder)) or self._create(
            study, {"rankscope.study_folder": str(folder)}
        )

    def has(self, run_id: str) -> bool:
        found = self._find("rankscope.run_id", run_id)
        return found is not None and self._client.get_run(found).info.status != "RUNNING"

    def log_run(self, run: TrackedRun) -> None:
        from mlflow.entities import Metric, Param

        begun = self._find("rankscope.run_id", run.run_id)
        if begun is not None:
            self._client.delete_run(begun)  # it was not written to its end
        child = self._create(run.name, {"mlflow.parentRunId": self._parent, "rankscope.run_id": run.run_id, **run.tags})
        now = int(1000 * time.time())
        metrics = [Metric(name, value, now, step) for name, curve in run.curves.items() for step, value in curve]
        metrics += [Metric(name, value, now, 0) for name, value in run.metrics.items()]
        params = [Param(name, str(value)) for name, value in run.params.items()]
        self._client.log_batch(child, params=params)
        for start in range(0, len(metrics), _BATCH):
            self._client.log_batch(child, metrics=metrics[start : start + _BATCH])
        self._client.set_terminated(child, "FINISHED" if run.state == "done" else "FAILED")

    def log_outcome(self, texts: Mapping[str, str], files: Sequence[Path]) -> None:
        for name, text in texts.items():
            self._client.set_tag(self._parent, name, text)
        for file in files:
            self._client.log_artifact(self._parent, str(file))
        self._client.set_terminated(self._parent, "FINISHED")

    def _find(self, tag: str, value: str) -> str | None:
        runs = self._client.search_runs([self._experiment], filter_string=f"tags.`{tag}` = '{value}'", max_results=1)
        return runs[0].info.run_id if runs else None

    def _create(self, name: str, tags: Mapping[str, str]) -> str:
        created = self._client.create_run(self._experiment, tags={"mlflow.runName": name, **tags}, run_name=name)
        return str(created.info.run_id)
