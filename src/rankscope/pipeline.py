"""OPEN FIRST: a study, stage by stage.

study -> plan -> data -> model -> train -> evaluate -> decide -> report. Every stage's result is a file in the study
folder before the next begins, so a study that was stopped anywhere goes on from what is there.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from rankscope.data.encode_study import Prepared, prepare
from rankscope.decide.statistical_power import planned_power
from rankscope.edges.local_executor import Executor, Job, stop_requested
from rankscope.edges.study_folder import FolderStore, is_planned, keep_best, remove_leftovers, write_plan
from rankscope.jobs.crash import label_crash
from rankscope.jobs.derive_job import derive, derived_ids, derived_sources
from rankscope.jobs.measure_job import FOLDER as MEASURED_FOLDER
from rankscope.jobs.measure_job import measure, measured_runs
from rankscope.jobs.packing_job import choose_packing, groups_of, undecided
from rankscope.jobs.run_job import score_base, train_and_score
from rankscope.jobs.search_job import search_rate
from rankscope.model.load import inspect_model, load_tokenizer
from rankscope.plan.make_plan import make_plan
from rankscope.records import MachineFacts, MeasuredSpeed, Plan, PlannedRun
from rankscope.results.adaptive_seeds import mark_unneeded, wanted_runs
from rankscope.results.write_results import base_ids, write_results
from rankscope.study.problems import InputProblems, Problem
from rankscope.study.resolved_study import absolute, dump_study, pinned
from rankscope.study.study import Study


@dataclass(frozen=True)
class Outcome:
    """How a study's execution ended. `failed` maps a run to why; `stopped`: a signal came, run again to go on.

    `left_out` maps a run that was asked for by its id, and does not fit, to why.
    """

    failed: dict[str, str] = field(default_factory=dict)
    stopped: bool = False
    left_out: dict[str, str] = field(default_factory=dict)


def plan_study(
    study: Study, folder: Path, machine: MachineFacts, out: Path, measured: Sequence[MeasuredSpeed] = ()
) -> Plan:
    """Look at models, rows and machine, and calculate every run; trains nothing. Raises InputProblems.

    `folder` is what relative paths in the study are relative to; `out` the study's folder, whose earlier plan decides
    what must stay as it was (dtype, workers, micro-batches). `measured` is what `measure_study` found.
    """
    models = [inspect_model(spec, folder, device=machine.device) for spec in study.models]
    prepared: dict[str, Prepared] = {}
    for spec, facts in zip(study.models, models, strict=True):
        room = facts.context_tokens - study.virtual_tokens
        tokenizer = load_tokenizer(spec, folder)
        prepared[spec.name] = prepare(study, folder, tokenizer, room, spec.system_prompt)
    previous = FolderStore(out).read_plan()
    plan = make_plan(
        study,
        models,
        {name: [training.facts for training in data.training.values()] for name, data in prepared.items()},
        {name: [facts for _, facts in data.suites.values()] for name, data in prepared.items()},
        machine,
        previous=previous.resolved if previous is not None else None,
        measured=measured,
    )
    return plan.model_copy(update={"power": planned_power(plan, study.decision)})


def measure_study(
    study: Study, folder: Path, plan: Plan, make_executor: Callable[[Plan], Executor]
) -> tuple[list[MeasuredSpeed], dict[str, str]]:
    """Time a few real steps of each kind of arm of `plan`, in the workers that runs have; nothing is left on disk.

    The second is why a run could not be measured, by its label. `folder` is what relative paths are relative to.
    """
    with TemporaryDirectory() as temporary:
        store = FolderStore(Path(temporary))
        write_plan(store, dump_study(pinned(absolute(study, folder), plan)), plan)
        runs = {run.run_id: run for run in measured_runs(plan)}
        executor = make_executor(plan)
        try:
            outcomes = list(executor.run([Job(measure, temporary, (run_id,)) for run_id in runs], lambda: None))
        finally:
            executor.close()
        failed = {runs[o.job.run_ids[0]].arm.label: o.error for o in outcomes if o.error is not None}
        found = [path.read_text("utf-8") for path in sorted((store.folder / MEASURED_FOLDER).glob("*.json"))]
    return [MeasuredSpeed.model_validate_json(text) for text in found], failed


def run_study(
    study: Study,
    folder: Path,
    out: Path,
    *,
    machine: MachineFacts,
    make_executor: Callable[[Plan], Executor],
    only: Sequence[str] = (),
    progress: Callable[[Plan], None] = lambda _: None,
) -> Outcome:
    """Do what is missing of a study, then decide and report. Raises InputProblems and Busy.

    `only` names runs (for array jobs): several processes may then share the folder. Each run, search and base is done
    by whoever comes first; who needs it waits. Deciding and reporting is left to `write_results`.
    """
    store = FolderStore(out)
    first = plan_study(study, folder, machine, out)  # before anything is written: a wrong study leaves nothing behind
    _check_only(only, first)

    def plan_again() -> Plan:
        """What another process decided in the meantime (dtype, micro-batches) holds for this one too."""
        before = store.read_plan()
        agree = before is None or before.resolved == first.resolved
        return first if agree else plan_study(study, folder, machine, out)

    def text(plan: Plan) -> str:
        return dump_study(pinned(absolute(study, folder), plan))

    def work(plan: Plan) -> Outcome:
        return _do_all(_Work(store, study, plan, make_executor(plan), set(only), lambda: progress(plan)))

    if not only:
        with store.lock():
            remove_leftovers(out)
            plan = plan_again()
            write_plan(store, text(plan), plan)
            outcome = work(plan)
            if not outcome.stopped:
                write_results(out)
        return outcome
    with contextlib.ExitStack() as shared:
        with store.wait_lock("plan", stop_requested) as mine:
            if not mine:
                return Outcome(stopped=True)
            plan = plan_again()
            _check_only(only, plan)
            if not is_planned(store, plan, text(plan)):
                with store.lock():  # nobody works by the old plan
                    write_plan(store, text(plan), plan)
            shared.enter_context(store.lock(shared=True))
        return work(plan)


def _check_only(only: Sequence[str], plan: Plan) -> None:
    known = {run.run_id for run in plan.runs}
    expected = "a run id that `rankscope plan` prints"
    problems = [Problem("--only", run_id, "no such run", expected) for run_id in only if run_id not in known]
    if problems:
        raise InputProblems(problems)


@dataclass(frozen=True)
class _Work:
    """One process's work on a study by its plan. `only` names its runs, else it does all; `failed` fills as it goes."""

    store: FolderStore
    study: Study
    plan: Plan
    executor: Executor
    only: set[str]
    idle: Callable[[], None]
    failed: dict[str, str] = field(default_factory=dict)

    def do(self, jobs: Sequence[Job]) -> None:
        for outcome in self.executor.run(jobs, self.idle):
            self.failed.update(label_crash(self.store, outcome))
            if self.study.keep.full == "best" and outcome.job.function is train_and_score:
                keep_best(self.store, self.plan)


def _do_all(work: _Work) -> Outcome:
    try:
        outcome = _execute(work)
    finally:
        work.executor.close()
    work.idle()
    return outcome


def _execute(work: _Work) -> Outcome:
    """Rounds of runs, until the verdict asks for no more (with a fixed list of seeds one round), then derived runs."""
    store, study, plan, only = work.store, work.study, work.plan, work.only
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
            mark_unneeded(store, study, plan, asked)
        sources = derived_sources(study, store, plan)
        names = [name for run in sources for name in derived_ids(study, plan, run)]
        work.do([Job(derive, str(store.folder), (name,)) for name in names])
    left_out = {run.run_id: run.reason or "" for run in plan.runs if run.run_id in only and not run.fits}
    return Outcome(failed=work.failed, stopped=stop_requested(), left_out=left_out)


def _next(work: _Work, asked: set[str]) -> list[PlannedRun]:
    """The runs to do next: of `only` all at once, else what the verdict still asks for."""
    if work.only:
        return [run for run in work.plan.runs if run.run_id in work.only and run.run_id not in asked]
    return wanted_runs(work.store, work.study, work.plan, asked)


def _round(work: _Work, runs: Sequence[PlannedRun]) -> None:
    """Bases, and how many arms train together; then searches and the runs that wait for none; then the runs whose rate
    was searched. Longest first.

    With `only` nothing is measured, and the bases come last: nothing waits for them, and another process may have
    scored them by then.
    """
    plan, folder = work.plan, str(work.store.folder)
    runs = sorted(runs, key=lambda r: -r.seconds)
    wanted = {(r.model, r.train_set, r.arm.label) for r in runs}
    searches = [s for s in plan.searches if any((s.model, s.train_set, a.label) in wanted for a in s.arms)]
    searched = [r for r in runs if isinstance(r.arm.learning_rate, str)]
    bases = [Job(score_base, folder, (base,)) for base in base_ids(plan).values()]

    def training(runs: Sequence[PlannedRun]) -> list[Job]:
        return [Job(train_and_score, folder, ids) for ids in groups_of(work.store, runs)]

    if not work.only:
        work.do([*bases, *(Job(choose_packing, folder, ids) for ids in undecided(work.store, runs))])
    work.do(
        [
            *(Job(search_rate, folder, (s.search_id,)) for s in searches),
            *training([r for r in runs if r not in searched]),
        ]
    )
    lost = {(s.model, s.train_set, a.label) for s in searches if s.search_id in work.failed for a in s.arms}
    work.do(training([r for r in searched if (r.model, r.train_set, r.arm.label) not in lost]))
    if work.only:
        work.do(bases)
