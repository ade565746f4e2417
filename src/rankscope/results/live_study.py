"""A study at this moment, as the live page shows it: arms, curves, items scored, time left. Only reads."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rankscope.edges.study_folder import StudyFolder
from rankscope.records import Plan, PlannedRun
from rankscope.report.study_progress import Progress, activities, counts, look, seconds_left
from rankscope.results.tracked_runs import accuracies
from rankscope.study.problems import InputProblems

CURVE_POINTS = 150
"""A curve on the page has about so many points; the last one, and each validation loss, stay."""

_ASK_SECONDS = 5.0

_DEPTH = 2
"""How far below the folder that was named a study may lie."""


@dataclass(frozen=True)
class Listed:
    """A study folder that was found, its name below the folder that was named, and the study's own."""

    key: str
    name: str
    folder: StudyFolder


def find_studies(url: str) -> list[Listed]:
    """The study at this folder or URL, or the planned studies in the folders below it, by their path. Raises
    InputProblems for a URL or a study that cannot be read."""
    itself = StudyFolder.open(url)
    if (marker := itself.read_marker()) is not None:
        return [Listed(".", marker.study, itself)] if itself.read_plan() is not None else []
    return list(_below(Path(url), Path(url), _DEPTH)) if "://" not in url else []


def _below(top: Path, folder: Path, depth: int) -> Iterator[Listed]:
    try:
        inside = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError:  # a folder of somebody else's
        return
    for path in inside:
        study = StudyFolder.open(path)
        try:
            marker = study.read_marker()
            planned = marker is not None and study.read_plan() is not None
        except (InputProblems, OSError):  # damaged: `rankscope status` says how
            continue
        if marker is not None and planned:
            yield Listed(path.relative_to(top).as_posix(), marker.study, study)
        elif marker is None and depth > 1:
            yield from _below(top, path, depth - 1)


class LiveStudy:
    """Follows one study; asked often, it reads again only what has changed."""

    def __init__(self, folder: StudyFolder) -> None:
        self._folder = folder
        self._before: Progress | None = None
        self._moved = time.monotonic()
        self._worked_on, self._ask_again = False, float("-inf")
        self._curves: dict[str, tuple[int, dict[str, Any]]] = {}
        self._scores: dict[str, dict[str, float]] = {}

    def state(self) -> dict[str, Any]:
        """What the page needs, as JSON values. Raises InputProblems for a damaged record."""
        plan = self._folder.planned()
        progress = look(plan, self._folder.read_status, self._folder.read_rungs)
        worked_on = self._is_worked_on()
        said = activities(plan, progress, self._folder.read_stage(), time.time()) if worked_on else []
        verdicts = self._folder.read_verdicts()
        return {
            "study": plan.study,
            "worked_on": worked_on,
            "unfinished": progress.is_unfinished,
            "counts": counts(progress),
            "seconds_left": self._left(plan, progress) if worked_on else None,
            "doing": said,
            "runs": [self._run(plan, run, progress) for run in plan.runs],
            "verdicts": [
                {"name": v.name, "text": " ".join(f"{a.headline}. {a.sentence}" for a in v.answers)}
                for v in (verdicts.verdicts if verdicts is not None else [])
            ],
        }

    def _is_worked_on(self) -> bool:
        """Asked seldom: who asks holds the study's lock for a moment, which whoever begins to work just then meets."""
        if time.monotonic() >= self._ask_again:
            self._worked_on, self._ask_again = self._folder.is_worked_on(), time.monotonic() + _ASK_SECONDS
        return self._worked_on

    def _left(self, plan: Plan, progress: Progress) -> float | None:
        """Seconds, from how the work since this page began to look compared with its plan."""
        if self._before is None or progress.shares == self._before.shares:
            self._before, self._moved = self._before or progress, time.monotonic()
        elapsed = time.monotonic() - self._moved
        return seconds_left(plan, progress.shares, self._before.shares, elapsed, progress.optional)

    def _run(self, plan: Plan, run: PlannedRun, progress: Progress) -> dict[str, Any]:
        status = progress.statuses[run.run_id]
        return {
            "id": run.run_id,
            "arm": run.arm.label,
            "model": run.model,
            "train_set": run.train_set,
            "seed": run.seed,
            "state": "may run" if run.run_id in progress.optional else status.state,
            "reason": status.reason,
            "share": round(progress.shares[run.run_id], 4),
            "steps_done": status.steps_done,
            "steps_total": status.steps_total or run.step_count,
            "items_scored": status.items_scored,
            "items_total": plan.item_count(run.model),
            "loss": status.final_train_loss,
            "activity": status.activity,
            "curve": self._curve(run.run_id, status.steps_done),
            "scores": self._accuracies(run.run_id, status.state),
        }

    def _curve(self, run_id: str, steps_done: int) -> dict[str, Any]:
        """`train` and `validation`, lists of (step, nats per token)."""
        known = self._curves.get(run_id)
        if known is None or known[0] != steps_done:
            known = self._curves[run_id] = (steps_done, curve(self._folder.read_steps(run_id)) if steps_done else {})
        return known[1]

    def _accuracies(self, run_id: str, state: str) -> dict[str, float]:
        if state == "done" and run_id not in self._scores:
            found = accuracies(self._folder, run_id)
            self._scores[run_id] = {name.removeprefix("accuracy."): value for name, value in found.items()}
        return self._scores.get(run_id, {})


def curve(steps: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A run's loss curves, thinned to what a small chart shows."""
    stride = len(steps) // CURVE_POINTS + 1
    kept = list(steps[::-1][::stride])[::-1]
    held_out = "validation_loss_nats_per_token"
    return {
        "train": [(step["step"], step["loss_nats_per_token"]) for step in kept],
        "validation": [(step["step"], step[held_out]) for step in steps if step.get(held_out) is not None],
    }
