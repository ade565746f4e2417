"""From a study folder to its trackers: every run once it has ended, then the verdict."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

from rankscope.edges.study_folder import StudyFolder
from rankscope.edges.trackers import TrackedRun, Tracker, make_tracker, tracker_problems
from rankscope.records import Plan, PlannedRun, RunStatus
from rankscope.study.problems import InputProblems
from rankscope.study.study import Study

_LOOK_SECONDS = 5.0
_ENDED = ("done", "diverged", "failed")
_MEASURED = (
    "trainable_parameters", "final_train_loss", "validation_loss", "train_seconds", "evaluate_seconds",
    "peak_memory_bytes", "adapter_bytes",
)  # fmt: skip
_CURVES = ("loss_nats_per_token", "learning_rate", "gradient_norm")


def tracking_of(study: Study, folder: StudyFolder, file: str) -> Tracking:
    """What hands a study's runs to its trackers. Raises InputProblems where a tracker is not installed."""
    problems = tracker_problems(study.track, file)
    if problems:
        raise InputProblems(problems)

    def maker(name: str) -> Callable[[], Tracker]:
        return lambda: make_tracker(name, study.name, folder.local_folder())

    return Tracking(folder, [maker(name) for name in study.track])


class Tracking:
    """Hands each run of a study to every tracker, once; called often, it looks at the folder every few seconds.

    The trackers are made at the first look, when the study has been found to be right: they write into its folder.
    """

    def __init__(self, folder: StudyFolder, makers: Sequence[Callable[[], Tracker]]) -> None:
        self._folder, self._makers = folder, makers
        self._logged: set[str] = set()
        self._next = 0.0

    @cached_property
    def _trackers(self) -> list[Tracker]:
        return [make() for make in self._makers]

    def update(self, plan: Plan, *, now: bool = False) -> None:
        """Log what has ended since the last time; `now`: without waiting for the next look."""
        if not self._makers or (time.monotonic() < self._next and not now):
            return
        for run in plan.runs:
            if run.run_id in self._logged:
                continue
            status = self._folder.read_status(run.run_id)
            if status is not None and status.state in _ENDED:
                self._log(plan, run, status)
                self._logged.add(run.run_id)
        self._next = time.monotonic() + _LOOK_SECONDS

    def finish(self) -> None:
        """The verdict in words and its files, where the study has come to one."""
        verdicts, plan = self._folder.read_verdicts(), self._folder.read_plan()
        if plan is not None:
            self.update(plan, now=True)
        if verdicts is None or not self._makers:
            return
        texts = {
            f"verdict {v.name}": " ".join(f"{a.headline}. {a.sentence}" for a in v.answers) for v in verdicts.verdicts
        }
        files = self._folder.outcome_files()
        for tracker in self._trackers:
            tracker.log_outcome(texts, files)

    def _log(self, plan: Plan, run: PlannedRun, status: RunStatus) -> None:
        wanting = [tracker for tracker in self._trackers if not tracker.has(run.run_id)]
        if wanting:
            tracked = tracked_run(self._folder, plan, run, status)
            for tracker in wanting:
                tracker.log_run(tracked)


def tracked_run(folder: StudyFolder, plan: Plan, run: PlannedRun, status: RunStatus) -> TrackedRun:
    """A run with its settings, its curves, what it cost, and its share correct on every suite."""
    record = folder.read_run(run.run_id)
    settings = run.arm.model_dump(exclude_none=True) | {
        "seed": run.seed,
        "model": run.model,
        "train_set": run.train_set,
    }
    params: dict[str, Any] = {key: v for key, v in settings.items() if v not in ("", None) and key != "given"}
    if record is not None:
        if run.arm.given is None:
            params["learning_rate"] = record.learning_rate
        params |= {f"{g}.{key}": v for g, values in record.settings.items() for key, v in values.items()}
    metrics = {name: float(value) for name in _MEASURED if (value := getattr(status, name)) is not None}
    metrics |= accuracies(folder, run.run_id)
    commit = record.provenance.commit if record is not None else None
    tags = {"rankscope.state": status.state} | ({"rankscope.commit": commit} if commit else {})
    tags |= {"rankscope.reason": status.reason} if status.reason else {}
    name = f"{run.arm.label} on {run.train_set}, seed {run.seed}"
    return TrackedRun(run.run_id, name, status.state, params, metrics, _curves(folder.read_steps(run.run_id)), tags)


def accuracies(folder: StudyFolder, run_id: str) -> dict[str, float]:
    """`accuracy.SUITE`: the mean score of each suite's items; a suite of plain text has none."""
    frame = folder.read_predictions(run_id)
    if frame is None:
        return {}
    means = frame.groupby("suite")["score"].mean().dropna()
    return {f"accuracy.{suite}": float(value) for suite, value in means.items()}


def _curves(steps: Sequence[dict[str, Any]]) -> dict[str, list[tuple[int, float]]]:
    return {name: [(step["step"], step[name]) for step in steps] for name in _CURVES} if steps else {}
