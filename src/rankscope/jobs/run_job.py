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
from rankscope.jobs.gang import GangFailed
from rankscope.jobs.gang_work import score_in_gang
from rankscope.jobs.job_context import JobContext, job_context
from rankscope.jobs.packing_job import groups_of
from rankscope.jobs.run_failures import (
    DERIVES,
    DIALS,
    LOOKS,
    Finishing,
    RunsFailed,
    end_activity,
    has_failed_at,
    is_finishing,
    label,
    label_run,
    labelling,
    told,
    try_again,
)  # fmt: skip
from rankscope.jobs.run_training import rate_of, train_missing
from rankscope.jobs.score_job import NOTHING, Known, came_through, missing_suites, score_missing
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
            failed: list[str] = []
            try:
                train_missing(context, runs)
            except Exception as error:  # what one arm of a pack could not do is no reason to leave the others unscored
                _finish_where_it_fits(context, runs, failed)
                if not failed:
                    raise
                for run in runs:
                    if run.run_id not in failed and not came_through(context.folder, context.plan, run):
                        label(context, run, error)
                        failed.append(run.run_id)
            else:
                _finish_where_it_fits(context, runs, failed)
            if failed:
                raise RunsFailed(failed)

    def mark_failed(self, folder: StudyFolder, error: str, details: str) -> dict[str, str]:
        """Label the runs that did not come through, or that were still being looked into, unless they are labelled
        already; what failed, and why, by run id."""
        plan = folder.read_plan()
        runs = [run for run in plan.runs if run.run_id in self.run_ids] if plan is not None else []
        if own := RunsFailed.named_in(error):
            return {run.run_id: told(folder.read_status(run.run_id)) for run in runs if run.run_id in own}
        found: dict[str, str] = {}
        for run in runs:
            scored = came_through(folder, plan, run)
            if not scored or is_finishing(folder, run):
                status = label_run(folder, run, (error, details), scored=scored, write=folder.write_status)
                found[run.run_id] = told(status)
        return found


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


def _finish_where_it_fits(context: JobContext, runs: Sequence[PlannedRun], failed: list[str]) -> None:
    """Score and look inside here, or in a gang where one device does not hold the largest of the runs. `failed` gets
    the ids of those of which something failed; each has its own error in its status then."""
    for run in runs:
        if not context.stop_requested():
            try_again(context, run)
    largest = max(runs, key=lambda run: (run.scoring.size, run.scoring.offload))
    if largest.scoring.alone:
        finish_runs(context, runs, failed)
    else:
        _finish_in_gang(context, runs, largest, failed)
    for run in runs:
        if is_finishing(context.folder, run) and not _left(context, run):
            end_activity(context.folder, run)


def _finish_in_gang(context: JobContext, runs: Sequence[PlannedRun], largest: PlannedRun, failed: list[str]) -> None:
    """All in one gang; where that fails each in its own, as nobody says whose error it was. A run with scores is
    finished without what failed of it."""
    left = [run for run in runs if _left(context, run)]
    if context.stop_requested() or not left:
        return
    try:
        score_in_gang(context, largest, work="score", run_ids=[run.run_id for run in left])
        return
    except GangFailed as error:
        if len(left) == 1:
            goes_on = is_finishing(context.folder, left[0])
            # Written as the gang left it: its processes have made attempts of their own since this job began.
            status = label(context, left[0], error, write=context.folder.write_status)
            failed.append(left[0].run_id)
            left = left if goes_on and status.state == "done" else []
    for run in left:
        _finish_in_gang(context, [run], largest, failed)


def finish_runs(context: JobContext, runs: Sequence[PlannedRun], failed: list[str]) -> None:
    """Score the trained ones of these and look inside, as far as it is missing: each by itself, and what fails of one
    is in its own status, its id in `failed`.

    Of a gang all processes call this, and an error ends it; NotGraded is raised when the others are done.
    """
    known = {} if context.stop_requested() else _known_logprobs(context, runs)
    at_dials = {} if context.stop_requested() else _known_at_dials(context, runs)
    ungraded: list[NotGraded] = []
    for run in runs:
        if not context.stop_requested():
            with noting(ungraded) if context.in_gang else labelling(context, run, failed):
                _finish(context, run, known.get(run.run_id, NOTHING), at_dials.get(run.run_id, {}), failed)
    for error in ungraded[:1]:
        raise error


def _left(context: JobContext, run: PlannedRun) -> bool:
    """Whether anything is left to do of a trained run whose weights are there."""
    status = context.folder.read_status(run.run_id)
    if status is None or status.state == "diverged" or weights_of(context, run) is None:
        return False
    return not _scored(context, run, status) or any(
        is_missing and not has_failed_at(status, activity)
        for activity, is_missing in (
            (LOOKS, analysis_missing(context, run)),
            (DIALS, anything_missing(context, run)),
            (DERIVES, bool(whole_derivations(context, run))),
        )
    )


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


def _finish(context: JobContext, run: PlannedRun, known: Known, at_dials: KnownAt, failed: list[str]) -> None:
    """Score a trained run, of which some log-likelihoods may be known, at every dial, and look inside it."""
    status = context.folder.read_status(run.run_id)
    if status is None or status.state == "diverged":
        return
    if context.folder.read_run(run.run_id) is None:
        context.write_run(run.run_id, run.model, run, rate_of(context, run))
    weights = weights_of(context, run)
    if weights is None or not _left(context, run):
        return
    scored, status = _scored(context, run, status), status.model_copy(update={"activity": None})
    left = Finishing(context, run, status, failed)
    with _trained(context, run, weights) as trained:
        if not scored:
            with trained.summed():
                left.status = score_missing(context, trained.model, run.model, status, known)
        if left.wants(LOOKS) and analysis_missing(context, run):
            with left.part(LOOKS):
                look_inside(context, run, trained)
        if run.arm.traits.dial_by != "factors":
            _score_dials(left, at_its_dials(context, run, trained.model, trained.off), at_dials)
    if run.arm.traits.dial_by == "factors":  # put on once more: side by side at every dial
        _score_dials(left, factors_at_dials(context, run, weights), at_dials)
    if left.wants(DERIVES) and whole_derivations(context, run):
        with left.part(DERIVES):
            derive_whole(context, run, weights)
    ended = left.status.state == "done" and left.status.reason is None and not context.stop_requested()
    if run.arm.traits.whole and context.study.keep.full == "none" and ended:
        context.folder.remove_weights(run.run_id)


def _score_dials(left: Finishing, sides: AbstractContextManager[list[AtDial]], known: KnownAt) -> None:
    """Score a finished run at the dials that are missing; what is there costs nothing."""
    if left.wants(DIALS) and anything_missing(left.context, left.run):
        with left.part(DIALS), sides as found:
            score_at_dials(left.context, left.run, found, known)


@contextmanager
def _trained(context: JobContext, run: PlannedRun, weights: Path) -> Iterator[Trained]:
    """The run's trained model as saved, so that a resumed study scores the same bits as one that was never stopped."""
    if run.arm.traits.whole:
        yield Trained(context.fine_tuned(run.model, weights), None, weights)
        return
    base = context.base(run.model)
    with attach(base, SavedAdapter(weights, run.arm)) as pack:
        yield Trained(base, pack.members[0].off, weights, pack.summed)
