"""The job that trains runs, together where they form a pack, scores them and looks inside."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from rankscope.edges.executors import WorkPlace
from rankscope.edges.study_folder import StudyFolder
from rankscope.evaluate.adapter_scoring import suites_logprobs
from rankscope.jobs.analysis import Trained, analysis_missing, look_inside
from rankscope.jobs.job_context import JobContext, job_context
from rankscope.jobs.score_job import NOTHING, Known, label_runs, missing_suites, score_missing
from rankscope.jobs.training import train_missing, weights_of
from rankscope.model.methods.attach import SavedAdapter, attach
from rankscope.records import Plan, PlannedRun


@dataclass(frozen=True)
class TrainRuns:
    """Train the runs that are not trained, as one pack where there are several, and score what is not scored."""

    folder: str
    run_ids: tuple[str, ...]
    seconds: float = 0.0

    def run(self, place: WorkPlace) -> None:
        context = job_context(self.folder, place)
        runs = [context.runs[run_id] for run_id in self.run_ids]
        with ExitStack() as held:
            # In one order everywhere, so that no two processes wait for each other.
            locks = [context.folder.wait_lock(run_id, place.stop_requested) for run_id in sorted(self.run_ids)]
            mine = [held.enter_context(lock) for lock in locks]
            if not all(mine):
                return
            try:
                train_missing(context, runs)
            finally:  # what one arm of a pack could not do is no reason to leave the others unscored
                known = {} if place.stop_requested() else _known_logprobs(context, runs)
                for run in runs:
                    if not place.stop_requested():
                        _finish(context, run, known.get(run.run_id, NOTHING))

    def mark_failed(self, folder: StudyFolder, error: str, details: str) -> dict[str, str]:
        """Label the runs that did not come through; what failed, and why, by run id."""
        plan = folder.read_plan()
        runs = [run for run in plan.runs if run.run_id in self.run_ids] if plan is not None else []
        failed = [run.run_id for run in runs if not _came_through(folder, plan, run)]
        return label_runs(folder, tuple(failed), error, details)


def _came_through(folder: StudyFolder, plan: Plan | None, run: PlannedRun) -> bool:
    """Whether a run needs nothing more: it diverged, or is done and has predictions on every suite of the plan.

    A finished run of a study that has gained a suite is `done` while that suite is being scored.
    """
    status = folder.read_status(run.run_id)
    if status is None or status.state not in ("done", "diverged") or plan is None:
        return False
    scored = folder.scored_suites(run.run_id)
    wanted = {suite.name: suite.content_sha256 for suite in plan.suites if suite.model == run.model}
    return status.state == "diverged" or all(scored.get(name) == sha256 for name, sha256 in wanted.items())


def _known_logprobs(context: JobContext, runs: Sequence[PlannedRun]) -> dict[str, Known]:
    """By run, of runs that trained together, what one forward for all of them gives. All that were saved take part,
    whichever are asked for: so an interrupted study gives the bits of one that never stopped."""
    status = context.folder.read_status(runs[0].run_id)
    pack = [context.runs[i] for i in status.trained_with if i in context.runs] if status is not None else []
    saved = [(run, weights) for run in pack if (weights := weights_of(context, run)) is not None]
    missing = {suite for run in runs for suite in missing_suites(context, run.run_id, run.model)}
    if len(saved) < 2 or not missing:
        return {}
    model = saved[0][0].model
    plans = [context.suite_plan(model, suite) for suite in sorted(missing)]
    base, start = context.base(model), time.perf_counter()
    found = suites_logprobs(base, [run.arm for run, _ in saved], [weights for _, weights in saved], plans)
    share = (time.perf_counter() - start) / len(saved)
    return {run.run_id: Known(own, share) for (run, _), own in zip(saved, found, strict=True)}


def _finish(context: JobContext, run: PlannedRun, known: Known) -> None:
    """Score a trained run, of which some log-likelihoods may be known, and look inside it."""
    status, weights = context.folder.read_status(run.run_id), weights_of(context, run)
    if status is None or status.state == "diverged" or weights is None:
        return
    scored = status.state == "done" and not missing_suites(context, run.run_id, run.model)
    if scored and not analysis_missing(context, run):
        return
    with _trained(context, run, weights) as trained:
        if not scored:
            status = score_missing(context, trained.model, run.model, status, known)
        if status.state == "done" and analysis_missing(context, run):
            look_inside(context, run, trained)
    if run.arm.traits.whole and context.study.keep.full == "none" and status.state == "done":
        context.folder.remove_weights(run.run_id)


@contextmanager
def _trained(context: JobContext, run: PlannedRun, weights: Path) -> Iterator[Trained]:
    """The run's trained model as saved, so that a resumed study scores the same bits as one that was never stopped."""
    if run.arm.traits.whole:
        yield Trained(context.fine_tuned(run.model, weights), None, weights)
        return
    base = context.base(run.model)
    with attach(base, SavedAdapter(weights, run.arm)) as pack:
        yield Trained(base, pack.members[0].off, weights)
