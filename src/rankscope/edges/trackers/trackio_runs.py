"""trackio: a run for each run of the study, in SQLite on this machine or in the user's Space."""

from __future__ import annotations

import contextvars
import io
import os
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from rankscope.edges.trackers import Point, TrackedRun, Tracker

NAME = "trackio"
PACKAGES = ("trackio",)


def make(study: str, folder: Path) -> Tracker:
    """`STUDY_FOLDER/trackio`, or where TRACKIO_DIR, TRACKIO_SPACE_ID or TRACKIO_SERVER_URL say."""
    return Trackio(study, folder)


class Trackio:
    """A project of the study's name: `TRACKIO_DIR=STUDY_FOLDER/trackio trackio show`. The names of runs are their
    ids, by which trackio finds a run that goes on. What it prints is kept out of rankscope's own output."""

    def __init__(self, study: str, folder: Path) -> None:
        os.environ.setdefault("TRACKIO_DIR", str(folder.resolve() / "trackio"))  # read when trackio is imported
        self._study = study
        self._runs: dict[str, Any] = {}

    def begin(self, run: TrackedRun, *, anew: bool) -> None:
        config = {"title": run.name, **run.params, **run.tags}
        self._runs[run.run_id] = self._init(run.run_id, config, "never" if anew else "allow")

    def log(self, run_id: str, points: Sequence[Point]) -> None:
        with redirect_stdout(io.StringIO()):
            for step, values in points:
                self._runs[run_id].log(dict(values), step=step)

    def end(self, run: TrackedRun, last_step: int) -> None:
        ended = self._runs.pop(run.run_id)
        with redirect_stdout(io.StringIO()):
            ended.log({**run.metrics, "state": run.state, **run.tags}, step=last_step)
            ended.finish()

    def log_outcome(self, texts: Mapping[str, str], files: Sequence[Path]) -> None:
        outcome = self._init("verdict", dict(texts), "allow")
        with redirect_stdout(io.StringIO()):
            outcome.log(dict(texts), step=0)
            outcome.finish()

    def close(self) -> None:
        for run in self._runs.values():
            with redirect_stdout(io.StringIO()):
                run.finish()

    def _init(self, name: str, config: Mapping[str, Any], resume: str) -> Any:
        import trackio

        def begun() -> Any:
            return trackio.init(
                project=self._study, name=name, config=dict(config), resume=resume, embed=False, auto_log_gpu=False,
                auto_log_cpu=False,
            )  # fmt: skip

        with redirect_stdout(io.StringIO()):
            # In a context of its own: trackio ends the run that its context began before.
            return contextvars.Context().run(begun)
