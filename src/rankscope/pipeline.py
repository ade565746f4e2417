"""OPEN FIRST: a study, stage by stage.

study -> plan -> tokens -> train -> evaluate -> analyse -> decide -> report. Every stage's result is a file in the study
folder before the next begins, so a study that was stopped anywhere goes on from what is there.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from tempfile import TemporaryDirectory

from rankscope.edges.executors import Executor, Job
from rankscope.edges.folder_upkeep import keep_best, set_aside_damaged
from rankscope.edges.machine import stop_requested
from rankscope.edges.study_folder import StudyFolder
from rankscope.jobs.derive_job import Derive, derivations, derived_sources
from rankscope.jobs.earlier_plan import same_work, unscorable, why_unscored
from rankscope.jobs.measure_job import Measure, measured_runs
from rankscope.jobs.packing_job import packing_jobs
from rankscope.jobs.planning import StudyPlanner
from rankscope.jobs.replay_job import samples_to_write
from rankscope.jobs.run_job import TrainRuns, training_jobs
from rankscope.jobs.score_job import base_jobs, came_through, split_base_scoring
from rankscope.jobs.search_job import further_jobs, search_waves
from rankscope.records import MachineFacts, MeasuredSpeed, Plan, PlannedRun, RunStatus, Stage
from rankscope.results.evidence import mark_unneeded, wanted_runs
from rankscope.results.searched_settings import further_rates, runs_with_a_rate, set_aside_other_rates, settle_searched
from rankscope.results.write_results import write_results
from rankscope.study.problems import InputProblems, Problem
from rankscope.study.study import Study

__all__ = ["Outcome", "StudyPlanner", "measure_study", "run_study"]


@dataclass(frozen=True)
class Outcome:
    """How a study's execution ended. `failed` maps a run to why; `stopped`: a signal came, run again to go on.

    `left_out` maps a run that was asked for by its id and does not fit, or that lacks a suite and can no longer be
    scored, to why.
    """

    failed: dict[str, str] = field(default_factory=dict)
    stopped: bool = False
    left_out: dict[str, str] = field(default_factory=dict)


def measure_study(
    planner: StudyPlanner, plan: Plan, make_executor: Callable[[Plan], Executor]
) -> tuple[list[MeasuredSpeed], dict[str, str]]:
    """Time a few real steps of each kind of arm of `plan`, in the workers that runs have; nothing is left on disk.

    The second is why a run could not be measured, by its label.
    """
    with TemporaryDirectory() as temporary:
        folder = StudyFolder.open(temporary)
        planner.settle(folder, plan)
        runs = {run.run_id: run for run in measured_runs(plan)}
        executor = make_executor(plan)
        failed: dict[str, str] = {}
        try:
            for outcome in executor.run([Measure(folder.url, run_id) for run_id in runs], lambda: None):
                if outcome.error is not None:
                    failed |= outcome.job.mark_failed(folder, outcome.error, outcome.details)
        finally:
            executor.close()
        found = folder.read_measured()
    return found, {runs[run_id].arm.label: why for run_id, why in failed.items()}


def run_study(
    planner: StudyPlanner,
    folder: StudyFolder,
    *,
    machine: MachineFacts,
    make_executor: Callable[[Plan], Executor],
    only: Sequence[str] = (),
    retrain: bool = False,
    progress: Callable[[Plan], None] = lambda _: None,
    notice: Callable[[str], None] = lambda _: None,
) -> Outcome:
    """Do what is missing of a study, then decide and report. Raises InputProblems and Busy.

    `only` names runs (for array jobs): several processes may then share the folder. Each run, search and base is done
    by whoever comes first; who needs it waits. Deciding and reporting is left to `write_results`. `retrain`: finished
    runs that lack a suite and whose weights are gone are trained again. `notice` is told what a user must know.
    """
    if not only:
        _set_aside_damaged(planner, folder, notice)
    first = planner.plan(machine, folder)  # before anything is written: a wrong study leaves nothing behind
    _check_only(only, first)
    for run_id in planner.no_longer_wanted(folder, first):
        notice(f"{run_id} is finished and does not belong to the study as it is now; it stays in {folder.url}")
    folder.claim(planner.study.name, planner.text(first))

    def plan_again() -> Plan:
        """What another process decided in the meantime (dtype, micro-batches) holds for this one too."""
        before = folder.read_plan()
        agree = before is None or before.resolved == first.resolved
        return first if agree else planner.plan(machine, folder)

    def work(plan: Plan) -> Outcome:
        executor, idle = make_executor(plan), lambda: progress(plan)
        return _do_all(_Work(folder, planner.study, plan, executor, set(only), idle, notice))

    if not only:
        with folder.lock():
            folder.remove_drafts()
            plan = plan_again()
            planner.settle(folder, plan)
            return _to_the_end(folder, plan, work, retrain=retrain)
    with contextlib.ExitStack() as shared:
        with folder.wait_lock("plan", stop_requested) as mine:
            if not mine:
                return Outcome(stopped=True)
            plan = plan_again()
            _check_only(only, plan)
            before = folder.read_plan()
            if before is None or not same_work(before, plan) or folder.read_study_text() != planner.text(plan):
                with folder.lock():  # nobody works by the old plan
                    planner.settle(folder, plan)
            shared.enter_context(folder.lock(shared=True))
        return work(plan)


def _to_the_end(folder: StudyFolder, plan: Plan, work: Callable[[Plan], Outcome], *, retrain: bool) -> Outcome:
    """All runs of a settled plan, then tables, verdict and report. Call it under the study's lock."""
    lacking = unscorable(folder, plan)
    for run_id in lacking if retrain else ():
        folder.write_status(RunStatus(run_id=run_id, state="planned"))
    outcome = work(plan)
    if not retrain:
        outcome = replace(outcome, left_out={**outcome.left_out, **why_unscored(lacking)})
    if not outcome.stopped:
        folder.write_stage(Stage(what="deciding and reporting", done=0, total=1, began_at=time.time()))
        write_results(folder)
    folder.write_stage(None)
    return outcome


def _set_aside_damaged(planner: StudyPlanner, folder: StudyFolder, notice: Callable[[str], None]) -> None:
    """What an earlier session left and can no longer be read is renamed, told of, and made again."""
    marker = folder.read_marker()
    plan = folder.read_plan() if marker is not None and marker.study == planner.study.name else None
    if plan is not None:
        with folder.lock():
            for told in set_aside_damaged(folder, plan, list(plan.base_ids.values())):
                notice(told)


def _check_only(only: Sequence[str], plan: Plan) -> None:
    known = {run.run_id for run in plan.runs}
    expected = "a run id that `rankscope plan` prints"
    problems = [Problem("--only", run_id, "no such run", expected) for run_id in only if run_id not in known]
    if problems:
        raise InputProblems(problems)


_REFRESH_SECONDS = 15.0
"""How old what this machine knows of a store may be, while jobs that run elsewhere end well."""


@dataclass(frozen=True)
class _Work:
    """One process's work on a study by its plan. `only` names its runs, else it does all; `failed` and `ended`
    (runs whose jobs ended) fill as it goes."""

    folder: StudyFolder
    study: Study
    plan: Plan
    executor: Executor
    only: set[str]
    idle: Callable[[], None]
    notice: Callable[[str], None] = lambda _: None
    failed: dict[str, str] = field(default_factory=dict)
    ended: set[str] = field(default_factory=set)

    def do(self, what: str, jobs: Sequence[Job], first: Sequence[Job] = (), last: Sequence[Job] = ()) -> None:
        """`first`, then the others, longest first, then `last`; what fails is labelled, and the rest goes on. `what` is
        how the progress calls the others, which it counts."""
        began = time.time()
        ordered = [*first, *sorted(jobs, key=lambda job: -job.seconds), *last]
        self.tell(what, counted := 0, len(jobs), began)
        for done, outcome in enumerate(self.executor.run(ordered, self.idle), start=1):
            if outcome.elsewhere:
                self.folder.refresh(_REFRESH_SECONDS if outcome.error is None and done < len(ordered) else 0.0)
            counted += outcome.job in jobs
            self.tell(what, counted, len(jobs), began)
            if outcome.error is not None:
                details = outcome.details or outcome.error
                self.failed.update(outcome.job.mark_failed(self.folder, outcome.error, details))
            if isinstance(outcome.job, TrainRuns):
                self.ended.update(outcome.job.run_ids)
                self.drop_weights()

    def drop_weights(self) -> None:
        """Leave of each arm the best full model, if the study asks for that: of runs whose jobs have ended here, or,
        with `only`, which cannot know of other processes' jobs, of runs whose scores are there."""
        if self.study.keep.full == "best" and not stop_requested():
            keep_best(self.folder, self.plan, self._is_finished)

    def _is_finished(self, run: PlannedRun) -> bool:
        return (bool(self.only) or run.run_id in self.ended) and came_through(self.folder, self.plan, run)

    def tell(self, what: str, done: int, total: int, began: float) -> None:
        """Say in the folder what is being worked on; with `only` nobody does, as several processes would."""
        if total and not self.only:
            self.folder.write_stage(Stage(what=what, done=done, total=total, began_at=began))


def _do_all(work: _Work) -> Outcome:
    try:
        outcome = _execute(work)
    finally:
        work.executor.close()
    work.drop_weights()  # a run that was still locked when its job ended, as another node sees it
    work.idle()
    return outcome


def _execute(work: _Work) -> Outcome:
    """Rounds of runs, until the verdict asks for no more (with a fixed list of seeds one round), then derived runs."""
    folder, study, plan, only = work.folder, work.study, work.plan, work.only
    asked: set[str] = set()
    more = _next(work, asked)
    while True:
        asked |= {run.run_id for run in more}
        _round(work, [run for run in more if run.fits])
        more = _next(work, asked)
        if stop_requested() or not more:
            break
    if not only and not stop_requested():
        if plan.looks:
            mark_unneeded(folder, study, plan, asked)
        work.do(
            "derived runs",
            [
                Derive(folder.url, run.run_id, wanted.name, slots=run.scoring.size)
                for run in derived_sources(study, folder, plan)
                for wanted in derivations(study, plan, run)
            ],
        )
    left_out = {run.run_id: f"does not fit: {run.reason}" for run in plan.runs if run.run_id in only and not run.fits}
    return Outcome(failed=work.failed, stopped=stop_requested(), left_out=left_out)


def _next(work: _Work, asked: set[str]) -> list[PlannedRun]:
    """The runs to do next: of `only` all at once, else what the verdict still asks for."""
    if work.only:
        return [run for run in work.plan.runs if run.run_id in work.only and run.run_id not in asked]
    return wanted_runs(work.folder, work.study, work.plan, asked)


def _round(work: _Work, runs: Sequence[PlannedRun]) -> None:
    """Bases, and how many arms train together; then searches, and beside the first of them the runs that wait for none;
    then the runs whose rate was searched. Where nothing waits for the bases or is measured, runs begin beside them; the
    bases' second scoring, which nothing waits for, fills up the end of that where it keeps all workers busy.

    With `only` nothing is timed, and the bases come last where no search waits for them: another process may have
    scored them by then.
    """
    plan, folder = work.plan, work.folder
    runs = sorted(runs, key=lambda r: -r.seconds)
    searched = [r for r in runs if isinstance(r.arm.learning_rate, str)]
    waves = search_waves(folder, plan, searched)
    packs = packing_jobs(folder, plan, runs, work.study.execution.arms_together, timed=not work.only)
    samples = samples_to_write(folder, plan, runs)
    beside = bool(runs) and not (work.only or packs or searched or samples)
    ready = [r for r in runs if r not in searched]
    first = waves[0] if waves else []
    once, again = split_base_scoring(base_jobs(folder, plan), plan, len(first) + len(ready))
    before = once if searched or not (work.only or beside) else []
    said = [*["scoring the base"] * bool(before), *["deciding how many arms train together"] * bool(packs)]
    work.do(" and ".join(said), [*before, *packs])
    work.do("writing samples to replay", samples)
    what = "searching rates, training" if waves else "training"
    training: list[Job] = [*first, *training_jobs(folder, ready)]
    work.do(what, training, first=once if beside else (), last=again if beside or before else ())
    for wave in waves[1:]:
        work.do("searching rates", [job for job in wave if not work.failed.keys() & set(job.waits_for(plan))])
    if searched and not stop_requested():
        _settle(work, searched)
        work.do("training", training_jobs(folder, runs_with_a_rate(folder, searched)))
    if work.only and not searched:
        work.do("scoring the base", base_jobs(folder, plan))


def _settle(work: _Work, searched: Sequence[PlannedRun]) -> None:
    """Choose the settings of the arms whose searches are done, after a further rate for those that need one."""
    plan, folder = work.plan, work.folder
    work.do("searching rates", further_jobs(folder, plan, further_rates(folder, plan)))
    with folder.wait_lock("settings", stop_requested) as mine:
        if mine:
            settle_searched(folder, plan)
            for told in set_aside_other_rates(folder, searched):
                work.notice(told)
