"""OPEN FIRST: a study, stage by stage.

study -> plan -> data -> model -> train -> evaluate -> decide -> report. Every stage's result is a file in the study
folder before the next begins, so a study that was stopped anywhere goes on from what is there.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rankscope.config.plan import make_plan
from rankscope.config.problems import InputProblems, Problem
from rankscope.config.resolved import absolute, dump_study, pinned
from rankscope.config.study import Study
from rankscope.data.prepare import Prepared, prepare
from rankscope.edges.execute import Executor, Job, JobOutcome, stop_requested
from rankscope.edges.store import FolderStore, remove_leftovers
from rankscope.jobs.derive import derive, derived_ids
from rankscope.jobs.run import score_base, train_and_score
from rankscope.jobs.search import search_rate
from rankscope.model.load import inspect_model, load_tokenizer
from rankscope.records import MachineFacts, Plan, PlannedRun, RunStatus
from rankscope.results import base_ids, write_results


@dataclass(frozen=True)
class Outcome:
    """How a study's execution ended. `failed` maps a run to why; `stopped`: a signal came, run again to go on."""

    failed: dict[str, str] = field(default_factory=dict)
    stopped: bool = False


def plan_study(study: Study, folder: Path, machine: MachineFacts, out: Path) -> Plan:
    """Look at models, rows and machine, and calculate every run; trains nothing. Raises InputProblems.

    `folder` is what relative paths in the study are relative to; `out` the study's folder, whose earlier plan decides
    what must stay as it was (dtype, workers, micro-batches).
    """
    models = [inspect_model(spec, folder, device=machine.device) for spec in study.models]
    prepared: dict[str, Prepared] = {}
    for spec, facts in zip(study.models, models, strict=True):
        room = facts.context_tokens - study.virtual_tokens
        tokenizer = load_tokenizer(spec, folder)
        prepared[spec.name] = prepare(study, folder, tokenizer, room, spec.system_prompt)
    previous = FolderStore(out).read_plan()
    return make_plan(
        study,
        models,
        {name: [training.facts for training in data.training.values()] for name, data in prepared.items()},
        {name: [facts for _, facts in data.suites.values()] for name, data in prepared.items()},
        machine,
        previous=previous.resolved if previous is not None else None,
    )


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

    `only` names runs (for array jobs): several processes may then share the folder, each run guarded by its own lock.
    """
    store = FolderStore(out)
    plan = plan_study(study, folder, machine, out)
    unknown = [run_id for run_id in only if run_id not in {run.run_id for run in plan.runs}]
    if unknown:
        raise InputProblems(
            [Problem("--only", r, "no such run", "a run id that `rankscope plan` prints") for r in unknown]
        )
    with store.lock(shared=bool(only)):
        if not only:
            remove_leftovers(out)
        store.write_text("study.yaml", dump_study(pinned(absolute(study, folder), plan)))
        store.write_plan(plan)
        executor = make_executor(plan)
        try:
            outcome = _execute(study, store, plan, executor, set(only), lambda: progress(plan))
        finally:
            executor.close()
        progress(plan)
        if not only and not outcome.stopped:
            if study.keep.full == "best":
                keep_best(store, plan)
            write_results(out)
    return outcome


def _execute(
    study: Study, store: FolderStore, plan: Plan, executor: Executor, only: set[str], idle: Callable[[], None]
) -> Outcome:
    """Bases and searches, and the runs that wait for neither; then the runs whose rate was searched. Longest first."""
    folder = str(store.folder)
    runs = sorted((r for r in plan.runs if r.fits and (not only or r.run_id in only)), key=lambda r: -r.seconds)
    wanted = {(r.model, r.train_set, r.arm.label) for r in runs}
    searches = [s for s in plan.searches if any((s.model, s.train_set, a.label) in wanted for a in s.arms)]
    searched = [r for r in runs if isinstance(r.arm.learning_rate, str)]
    failed: dict[str, str] = {}
    first = [
        *(Job(score_base, folder, (base,)) for base in base_ids(plan).values()),
        *(Job(search_rate, folder, (s.search_id,)) for s in searches),
        *(Job(train_and_score, folder, (r.run_id,)) for r in runs if r not in searched),
    ]
    for outcome in executor.run(first, idle):
        _keep(store, outcome, failed)
    lost = {(s.model, s.train_set, a.label) for s in searches if s.search_id in failed for a in s.arms}
    ready = [r for r in searched if (r.model, r.train_set, r.arm.label) not in lost]
    for outcome in executor.run([Job(train_and_score, folder, (r.run_id,)) for r in ready], idle):
        _keep(store, outcome, failed)
    sources = [] if only or stop_requested() else derived_sources(study, store, plan)
    derived = [name for run in sources for name in derived_ids(study, plan, run)]
    for outcome in executor.run([Job(derive, folder, (name,)) for name in derived], idle):
        _keep(store, outcome, failed)
    return Outcome(failed=failed, stopped=stop_requested())


def derived_sources(study: Study, store: FolderStore, plan: Plan) -> list[PlannedRun]:
    """Of each base model and training set the first run of the largest LoRA, where the study derives runs.

    One that diverged is passed over; for one that failed or is still to do nothing else is taken, so that a study that
    was stopped derives the same as one that never was.
    """
    if not (study.analysis.enabled and study.analysis.derived):
        return []
    first: dict[tuple[str, str], tuple[PlannedRun, str]] = {}
    for run in sorted(plan.runs, key=lambda r: (-(r.arm.rank or 0), r.arm.label, r.seed)):
        status = store.read_status(run.run_id)
        state = status.state if status is not None else "planned"
        if run.arm.traits.delta == "factored" and run.fits and state != "diverged":
            first.setdefault((run.model, run.train_set), (run, state))
    return [run for run, state in first.values() if state == "done"]


def keep_best(store: FolderStore, plan: Plan) -> None:
    """Of each arm's full checkpoints leave the one with the lowest validation loss."""
    groups: dict[tuple[str, str, str], list[tuple[float, str]]] = {}
    for run in plan.runs:
        status = store.read_status(run.run_id)
        if run.arm.traits.whole and status is not None and status.validation_loss is not None:
            key = (run.model, run.train_set, run.arm.label)
            groups.setdefault(key, []).append((status.validation_loss, run.run_id))
    for group in groups.values():
        for _, run_id in sorted(group)[1:]:
            shutil.rmtree(store.model_folder(run_id), ignore_errors=True)


def _keep(store: FolderStore, outcome: JobOutcome, failed: dict[str, str]) -> None:
    """A crash is labelled as what it is; its traceback lies in the run's error.txt."""
    if outcome.error is None:
        return
    for run_id in outcome.job.run_ids:
        failed[run_id] = outcome.error
        if outcome.job.function is search_rate:
            store.write_text(f"searches/{run_id}/error.txt", outcome.details or outcome.error)
            continue
        if outcome.job.function is derive:  # the run itself is done
            store.write_text(f"runs/{run_id.replace(' ', '/derived/')}.error.txt", outcome.details or outcome.error)
            continue
        before = store.read_status(run_id) or RunStatus(run_id=run_id, state="planned")
        store.write_status(before.model_copy(update={"state": "failed", "reason": outcome.error}))
        path = store.run_folder(run_id).relative_to(store.folder) / "error.txt"
        store.write_text(str(path), outcome.details or outcome.error)
