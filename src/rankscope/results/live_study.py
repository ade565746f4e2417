"""A study at this moment, as the live page shows it: arms, curves, items scored, time left. Only reads."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rankscope.edges.study_folder import StudyFolder
from rankscope.records import Plan, PlannedRun, SettingsFile
from rankscope.report.study_progress import Progress, activities, counts, look, seconds_left
from rankscope.results.live_items import scored_items
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
        self._rates: dict[str, float | None] = {}
        self._done: list[str] = []
        self._items: tuple[str, list[dict[str, Any]]] = ("", [])

    def state(self) -> dict[str, Any]:
        """What the page needs, as JSON values. Raises InputProblems for a damaged record."""
        plan = self._folder.planned()
        progress = look(plan, self._folder.read_status, self._folder.read_rungs)
        worked_on = self._is_worked_on()
        said = activities(plan, progress, self._folder.read_stage(), time.time()) if worked_on else []
        verdicts, chosen = self._folder.read_verdicts(), self._folder.read_settings()
        return {
            "study": plan.study,
            "worked_on": worked_on,
            "unfinished": progress.is_unfinished,
            "counts": counts(progress),
            "seconds_left": self._left(plan, progress) if worked_on else None,
            "doing": said,
            "runs": [self._run(plan, run, progress, chosen) for run in plan.runs],
            "verdicts": [
                {"name": v.name, "tone": v.tone, "answers": [{"headline": a[0], "sentence": a[1]} for a in v.answers]}
                for v in (verdicts.verdicts if verdicts is not None else [])
            ],
            "scored": self._last_scored(plan, progress),
        }

    def _is_worked_on(self) -> bool:
        """Asked every few seconds only: of a study in an object store that is a request."""
        if time.monotonic() >= self._ask_again:
            self._worked_on, self._ask_again = self._folder.is_worked_on(), time.monotonic() + _ASK_SECONDS
        return self._worked_on

    def _left(self, plan: Plan, progress: Progress) -> float | None:
        """Seconds, from how the work since this page began to look compared with its plan."""
        if self._before is None or progress.shares == self._before.shares:
            self._before, self._moved = self._before or progress, time.monotonic()
        elapsed = time.monotonic() - self._moved
        return seconds_left(plan, progress.shares, self._before.shares, elapsed, progress.optional)

    def _run(self, plan: Plan, run: PlannedRun, progress: Progress, chosen: SettingsFile | None) -> dict[str, Any]:
        status = progress.statuses[run.run_id]
        setting = None if chosen is None else chosen.of(run.model, run.train_set, run.arm.label)
        return {
            "id": run.run_id,
            "arm": run.arm.label,
            "model": run.model,
            "train_set": run.train_set,
            "seed": run.seed,
            "rate": self._rate(run, status.state),
            "dial": None if setting is None else setting.dial,
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

    def _rate(self, run: PlannedRun, state: str) -> float | None:
        """The learning rate of a run: the study's own, or the one that was searched, known once the run has begun."""
        if state != "planned" and self._rates.get(run.run_id) is None:
            record = self._folder.read_run(run.run_id)
            self._rates[run.run_id] = None if record is None else record.learning_rate
        given = run.arm.learning_rate
        return self._rates.get(run.run_id) or (given if isinstance(given, float) else None)

    def _last_scored(self, plan: Plan, progress: Progress) -> dict[str, Any] | None:
        """Some items of what was seen to end last: a run, or before any the base."""
        bases = [(f"the base {m}", m, plan.base_ids[m]) for m, s in progress.bases.items() if s.state == "done"]
        runs = [(f"{r.arm.label}, seed {r.seed}", r.model, r.run_id) for r in plan.runs]
        ended = [one for one in runs if progress.statuses[one[2]].state == "done"]
        self._done += [name for *_, name in [*bases, *ended] if name not in self._done]
        last = next((one for one in [*bases, *ended] if one[2] == self._done[-1]), None) if self._done else None
        if last is None:
            return None
        who, model, run_id = last
        if self._items[0] != run_id:
            self._items = (run_id, scored_items(self._folder, plan, model, run_id))
        return {"who": who, "items": self._items[1]} if self._items[1] else None

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
