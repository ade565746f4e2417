"""MLflow: a parent run for the study and a child for each of its runs, in SQLite by default."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from rankscope.edges.trackers import Point, TrackedRun, Tracker

NAME = "mlflow"
PACKAGES = ("mlflow", "sqlalchemy", "alembic")

_BATCH = 1000
"""MLflow takes at most this many metrics in one call."""


def make(study: str, folder: Path) -> Tracker:
    """`mlflow.db` in the study's folder, or where MLFLOW_TRACKING_URI says."""
    return MLflow(study, folder)


class MLflow:
    """A parent run for the study and a child for each of its runs; in `STUDY_FOLDER/mlflow.db` by default."""

    def __init__(self, study: str, folder: Path) -> None:
        logging.getLogger("mlflow").setLevel(logging.WARNING)  # how it builds its tables is nobody's concern here
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # nothing phones home
        from mlflow.tracking import MlflowClient

        self._children: dict[str, str] = {}
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

    def begin(self, run: TrackedRun, *, anew: bool) -> None:
        from mlflow.entities import Param

        found = self._find("rankscope.run_id", run.run_id)
        if found is not None and anew:
            self._client.delete_run(found)  # it was not written to its end
        if found is not None and not anew:
            self._children[run.run_id] = found
            return
        tags = {"mlflow.parentRunId": self._parent, "rankscope.run_id": run.run_id, **run.tags}
        child = self._children[run.run_id] = self._create(run.name, tags)
        self._client.log_batch(child, params=[Param(name, str(value)) for name, value in run.params.items()])

    def log(self, run_id: str, points: Sequence[Point]) -> None:
        self._log(run_id, [(name, value, step) for step, values in points for name, value in values.items()])

    def end(self, run: TrackedRun, last_step: int) -> None:
        self._log(run.run_id, [(name, value, last_step) for name, value in run.metrics.items()])
        child = self._children.pop(run.run_id)
        for name, text in run.tags.items():
            self._client.set_tag(child, name, text)
        self._client.set_terminated(child, "FINISHED" if run.came_through else "FAILED")

    def log_outcome(self, texts: Mapping[str, str], files: Sequence[Path]) -> None:
        for name, text in texts.items():
            self._client.set_tag(self._parent, name, text)
        for file in files:
            self._client.log_artifact(self._parent, str(file))
        self._client.set_terminated(self._parent, "FINISHED")

    def close(self) -> None:
        """Runs that have not ended stay `RUNNING`, and are found again."""

    def _log(self, run_id: str, measured: Sequence[tuple[str, float, int]]) -> None:
        """Metric, value, step."""
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        metrics = [Metric(name, value, now, step) for name, value, step in measured]
        for start in range(0, len(metrics), _BATCH):
            self._client.log_batch(self._children[run_id], metrics=metrics[start : start + _BATCH])

    def _find(self, tag: str, value: str) -> str | None:
        runs = self._client.search_runs([self._experiment], filter_string=f"tags.`{tag}` = '{value}'", max_results=1)
        return runs[0].info.run_id if runs else None

    def _create(self, name: str, tags: Mapping[str, str]) -> str:
        created = self._client.create_run(self._experiment, tags={"mlflow.runName": name, **tags}, run_name=name)
        return str(created.info.run_id)
