"""TensorBoard: one folder of events for each run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rankscope.edges.trackers import TrackedRun, Tracker

NAME = "tensorboard"
PACKAGES = ("tensorboard",)


def make(study: str, folder: Path) -> Tracker:
    """Events below the study's folder; its name is the folder's."""
    return TensorBoard(folder / "tensorboard")


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
