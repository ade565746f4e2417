"""TensorBoard: one folder of events for each run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rankscope.edges.trackers import Point, TrackedRun, Tracker

NAME = "tensorboard"
PACKAGES = ("tensorboard",)


def make(study: str, folder: Path) -> Tracker:
    """Events below the study's folder; its name is the folder's."""
    return TensorBoard(folder / "tensorboard")


class TensorBoard:
    """One folder of events for each run: `tensorboard --logdir STUDY_FOLDER/tensorboard`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writers: dict[str, Any] = {}

    def begin(self, run: TrackedRun, *, anew: bool) -> None:
        # Events of an attempt that was cut off stay in their file, and TensorBoard no longer shows them.
        purge = 0 if anew and (self._folder / run.run_id).is_dir() else None
        writer = self._writers[run.run_id] = self._writer(run.run_id, purge)
        writer.add_text("settings", _table({**run.params, **run.tags}))
        writer.flush()

    def log(self, run_id: str, points: Sequence[Point]) -> None:
        writer = self._writers[run_id]
        for step, values in points:
            for name, value in values.items():
                writer.add_scalar(name, value, step)
        writer.flush()

    def end(self, run: TrackedRun, last_step: int) -> None:
        writer = self._writers.pop(run.run_id)
        for name, value in run.metrics.items():
            writer.add_scalar(name, value, last_step)
        writer.add_text("outcome", _table({"state": run.state, **run.tags}))
        writer.close()

    def log_outcome(self, texts: Mapping[str, str], files: Sequence[Path]) -> None:
        writer = self._writer("study", None)
        for name, text in texts.items():
            writer.add_text(name, text)
        writer.close()

    def close(self) -> None:
        for writer in self._writers.values():
            writer.close()

    def _writer(self, name: str, purge_step: int | None) -> Any:
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(str(self._folder / name), purge_step=purge_step)


def _table(values: Mapping[str, Any]) -> str:
    return "\n".join(["| setting | value |", "|---|---|", *(f"| {key} | {value} |" for key, value in values.items())])
