"""The job that trains runs, together where they form a pack, saves and scores them, and looks inside."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from rankscope.edges.executors import WorkPlace
from rankscope.edges.study_folder import StudyFolder
from rankscope.evaluate.adapter_scoring import dialled_logprobs, suites_logprobs
from rankscope.evaluate.answer_grading import NotGraded, noting
from rankscope.jobs.analysis import Trained, analysis_missing, look_inside
from rankscope.jobs.derive_whole import derive_whole, whole_derivations
from rankscope.jobs.dial_scoring import (
    AtDial,
    KnownAt,
    anything_missing,
    at_its_dials,
    factors_at_dials,
    score_at_dials,
)  # fmt: skip
from rankscope.jobs.gang_work import score_in_gang
from rankscope.jobs.job_context import JobContext, job_context
from rankscope.jobs.packing_job import groups_of
from rankscope.jobs.run_training import rate_of, train_missing
from rankscope.jobs.score_job import NOTHING, Known, came_through, label_runs, missing_suites, score_missing
from rankscope.model.methods.attach import SavedAdapter, attach
from rankscope.records import PlannedRun, RunStatus


def weights_of(context: JobContext, run: PlannedRun) -> Path | None:
    """The local folder of the run's adapter or model; None where it is not saved (yet, or any more)."""
    return context.folder.weights(run.run_id, whole=run.arm.traits.whole)


@dataclass(frozen=True)
class TrainRuns:
    """Train the runs that are not trained, as one pack where there are several, and score what is not scored."""

    folder: str
    run_ids: tuple[str, ...]
    seconds: float = 0.0
    slots: int = 1
    host_bytes: int = 0

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
                _finish_where_it_fits(context, runs)

    def mark_failed(self, folder: StudyFolder, error: str, details: str) -> dict[str, str]:
        """Label the runs that did not come through; what failed, and why, by run id."""
        plan = folder.read_plan()
        runs = [run for run in plan.runs if run.run_id in self.run_ids] if plan is not None else []
        failed = [run.run_id for run in runs if not came_through(folder, plan, run)]
        return label_runs(folder, tuple(failed), error, details)


def training_jobs(folder: StudyFolder, runs: Sequence[PlannedRun]) -> list[TrainRuns]:
    """A job for each of these runs, or for each pack of them."""
    known = {run.run_id: run for run in runs}
    packs = [[known[run_id] for run_id in ids] for ids in groups_of(folder, runs)]
    return [
        TrainRuns(
            folder.url, tuple(run.run_id for run in own), sum(run.seconds for run in own), slots=own[0].devices,
            host_bytes=max(run.host_bytes for run in own),
        )
        for own in packs
    ]  # fmt: skip


def _finish_where_it_fits(context: JobContext, runs: Sequence[PlannedRun]) -> None:
    """Score and look inside here, or in a gang where one device does not hold the largest of the runs."""
    largest = max(runs, key=lambda run: (run.scoring.size, run.scoring.offload))
    if largest.scoring.alone:
        finish_runs(context, runs)
    elif not context.stop_requested() and any(_left(context, run) for run in runs):
        score_in_gang(context, largest, work="score", run_ids=[run.run_id for run in runs])


def finish_runs(context: JobContext, runs: Sequence[PlannedRun]) -> None:
    """Score the trained ones of these and look inside, as far as it is missing; of a gang all processes call this.

    Raises NotGraded for the first that could not be graded, when the others are done.
    """
    known = {} if context.stop_requested() else _known_logprobs(context, runs)
    at_dials = {} if context.stop_requested() else _known_at_dials(context, runs)
    ungraded: list[NotGraded] = []
    for run in runs:
        if not context.stop_requested():
            with noting(ungraded):
                _finish(context, run, known.get(run.run_id, NOTHING), at_dials.get(run.run_id, {}))
    for error in ungraded[:1]:
        raise error


def _left(context: JobContext, run: PlannedRun) -> bool:
    """Whether anything is left to do of a trained run whose weights are there."""
    status = context.folder.read_status(run.run_id)
    if status is None or status.state == "diverged" or weights_of(context, run) is None:
        return False
    looked = not analysis_missing(context, run) and not whole_derivations(context, run)
    return not (_scored(context, run, status) and looked and not anything_missing(context, run))


def _scored(context: JobContext, run: PlannedRun, status: RunStatus) -> bool:
    return status.state == "done" and not missing_suites(context, run.run_id, run.model)


def _known_logprobs(context: JobContext, runs: Sequence[PlannedRun]) -> dict[str, Known]:
    """By run, of runs that trained together, what one forward for all of them gives."""
    saved = _trained_together(context, runs)
    missing = {suite for run in runs for suite in missing_suites(context, run.run_id, run.model)}
    if len(saved) < 2 or not missing:
        return {}
    model = saved[0][0].model
    plans = [context.suite_plan(model, suite) for suite in sorted(missing)]
    base, start = context.base(model), time.perf_counter()
    found = suites_logprobs(base, [run.arm for run, _ in saved], [weights for _, weights in saved], plans)
    share = (time.perf_counter() - start) / len(saved)
    return {run.run_id: Known(own, share) for (run, _), own in zip(saved, found, strict=True)}


def _known_at_dials(context: JobContext, runs: Sequence[PlannedRun]) -> dict[str, KnownAt]:
    """By run and dial below 1 what one forward for the dials of a run gives."""
    found: dict[str, KnownAt] = {}
    missing = any(anything_missing(context, run) for run in runs)
    for run, weights in _trained_together(context, runs) if missing else []:
        dials = [dial for dial in run.dials if dial < 1]
        plans = [context.suite_plan(run.model, suite) for suite in context.suite_hashes(run.model)]
        known = dialled_logprobs(context.base(run.model), run.arm, weights, dials, plans)
        found[run.run_id] = dict(zip(dials, known, strict=True))
    return found


def _trained_together(context: JobContext, runs: Sequence[PlannedRun]) -> list[tuple[PlannedRun, Path]]:
    """The runs of a pack that were saved, whichever are asked for, with their weights: all take part in one forward, so
    that an interrupted study gives the bits of one that never stopped."""
    status = context.folder.read_status(runs[0].run_id)
    pack = [context.runs[i] for i in status.trained_with if i in context.runs] if status is not None else []
    return [(run, weights) for run in pack if (weights := weights_of(context, run)) is not None]


def _finish(context: JobContext, run: PlannedRun, known: Known, at_dials: KnownAt) -> None:
    """Score a trained run, of which some log-likelihoods may be known, at every dial, and look inside it."""
    status = context.folder.read_status(run.run_id)
    if status is None or status.state == "diverged":
        return
    if context.folder.read_run(run.run_id) is None:
        context.write_run(run.run_id, run.model, run, rate_of(context, run))
    weights = weights_of(context, run)
    if weights is None or not _left(context, run):
        return
    scored = _scored(context, run, status)
    with _trained(context, run, weights) as trained:
        if not scored:
            status = score_missing(context, trained.model, run.model, status, known)
        if status.state == "done" and analysis_missing(context, run):
            context.write_status(status.model_copy(update={"activity": "looking inside"}))
            look_inside(context, run, trained)
            context.write_status(status)
        if run.arm.traits.dial_by != "factors":
            _score_dials(context, run, status, at_its_dials(context, run, trained.model, trained.off), at_dials)
    if run.arm.traits.dial_by == "factors":  # put on once more: side by side at every dial
        _score_dials(context, run, status, factors_at_dials(context, run, weights), at_dials)
    if status.state == "done":
        derive_whole(context, run, weights)
    ended = status.state == "done" and not context.stop_requested()
    if run.arm.traits.whole and context.study.keep.full == "none" and ended:
        context.folder.remove_weights(run.run_id)


def _score_dials(
    context: JobContext,
    run: PlannedRun,
    status: RunStatus,
    sides: AbstractContextManager[list[AtDial]],
    known: KnownAt,
) -> None:
    """Score a finished run at the dials that are missing; what is there costs nothing."""
    if status.state != "done" or not anything_missing(context, run):
        return
    context.write_status(status.model_copy(update={"activity": "scoring at other dials"}))
    with sides as found:
        score_at_dials(context, run, found, known)
    context.write_status(status)


@contextmanager
def _trained(context: JobContext, run: PlannedRun, weights: Path) -> Iterator[Trained]:
    """The run's trained model as saved, so that a resumed study scores the same bits as one that was never stopped."""
    if run.arm.traits.whole:
        yield Trained(context.fine_tuned(run.model, weights), None, weights)
        return
    base = context.base(run.model)
    with attach(base, SavedAdapter(weights, run.arm)) as pack:
        yield Trained(base, pack.members[0].off, weights)
