"""Study and facts -> every run with its id and its cost. Pure arithmetic: no model, no row and no file is opened."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rankscope.config.advice import study_warnings
from rankscope.config.cost import (
    disk_bytes,
    evaluate_flops,
    evaluate_seconds,
    rows_seen,
    search_share,
    step_count,
    train_flops,
    train_seconds,
    trainable_parameters,
)
from rankscope.config.identity import SEARCH_SEED, rate_grid, run_id, search_arms, search_id
from rankscope.config.problems import InputProblems, Problem
from rankscope.config.resolve import Dtype, available_bytes, dtype_of, resolve, run_memory_parts
from rankscope.config.study import Arm, Study
from rankscope.config.support import check_support
from rankscope.config.targets import check_ranks
from rankscope.records import (
    MachineFacts,
    ModelFacts,
    Plan,
    PlannedRun,
    PlannedSearch,
    Resolved,
    SuiteFacts,
    TrainFacts,
)

__all__ = ["check_ranks", "describe_plan", "dtype_of", "make_plan", "plan_totals", "rate_grid", "run_id"]

NOMINAL_FLOPS_PER_SECOND = {"cpu": 3e10, "cuda": 1e14}
"""Stands in where the speed was not measured (on CPU of one thread); the plan then says so."""


@dataclass(frozen=True)
class _Setting:
    """One training set on one base model, with all that its runs have in common."""

    study: Study
    facts: ModelFacts
    train: TrainFacts
    suites: list[SuiteFacts]
    machine: MachineFacts
    resolved: Resolved
    dtype: Dtype

    @property
    def flops_per_second(self) -> float:
        """Of one worker: a CPU's speed is measured on one thread, a GPU's on the whole device."""
        speed = self.machine.flops_per_second or NOMINAL_FLOPS_PER_SECOND[self.resolved.device]
        return speed * (self.resolved.thread_count if self.resolved.device == "cpu" else 1)


def make_plan(
    study: Study,
    models: Sequence[ModelFacts],
    train_sets: dict[str, list[TrainFacts]],
    suites: dict[str, list[SuiteFacts]],
    machine: MachineFacts,
    *,
    previous: Resolved | None = None,
    file: str = "study",
) -> Plan:
    """Every search and run of the study, by model, training set, arm and seed in the file's order.

    `train_sets` and `suites` are by model name, since every tokenizer counts otherwise. `previous` is what an earlier
    plan of the same study folder decided; it is kept. A run that does not fit into memory or on the disk says so.
    Raises InputProblems (naming `file`) for targets that do not exist, for ranks that no target can use, for settings
    that this machine or a model cannot do, and where two runs would be the same.
    """
    problems: list[Problem] = []
    warnings: list[str] = []
    for facts in models:
        found, advice = check_ranks(study, facts, file)
        problems += found
        warnings += advice
    problems += check_support(study, models, previous.device if previous is not None else machine.device, machine, file)
    if problems:
        raise InputProblems(problems)
    resolved = resolve(study, study.expand_arms(), models, train_sets, machine, previous, file)
    specs = {spec.name: spec for spec in study.models}
    searches: list[PlannedSearch] = []
    runs: list[PlannedRun] = []
    for facts in models:
        for train in train_sets[facts.name]:
            dtype = dtype_of(specs[facts.name], resolved)
            setting = _Setting(study, facts, train, suites[facts.name], machine, resolved, dtype)
            found_searches, found_runs = _setting_runs(setting)
            searches += found_searches
            runs += found_runs
    _check_ids(runs, file)
    plan = Plan(
        study=study.name,
        resolved=resolved,
        models=list(models),
        train_sets=[t.model_copy(update={"model": f.name}) for f in models for t in train_sets[f.name]],
        suites=[s.model_copy(update={"model": f.name}) for f in models for s in suites[f.name]],
        searches=searches,
        runs=runs,
        looks=list(study.looks),
    )
    return plan.model_copy(update={"warnings": [*warnings, *study_warnings(study, plan, machine, plan_totals(plan))]})


def _setting_runs(setting: _Setting) -> tuple[list[PlannedSearch], list[PlannedRun]]:
    searches: dict[str, PlannedSearch] = {}
    runs: list[PlannedRun] = []
    for key in setting.study.arms:
        entry = setting.study.arms_of(key)
        for arm in entry:
            own = [_run(setting, arm, entry, seed) for seed in setting.study.all_seeds]
            runs += own
            search = _search(setting, arm, search_arms(arm, entry))
            if search is not None and own[0].fits:
                searches.setdefault(search.search_id, search)
    return list(searches.values()), runs


def _run(setting: _Setting, arm: Arm, entry: Sequence[Arm], seed: int) -> PlannedRun:
    study, facts, train, resolved = setting.study, setting.facts, setting.train, setting.resolved
    searching = search_arms(arm, entry)
    parts = run_memory_parts(study, arm, facts, train, setting.dtype, resolved)
    at_most, kept = disk_bytes(
        arm, facts, setting.dtype, setting.suites, keep_full=_stays(study, seed), optimizer=study.optimizer.name
    )
    training, scoring = train_flops(arm, facts, train, study.budget), evaluate_flops(arm, facts, setting.suites)
    steps = step_count(train.row_count, study.budget)
    seconds = train_seconds(training, steps, facts, setting.flops_per_second, resolved.device)
    seconds += evaluate_seconds(scoring, setting.suites, facts, setting.flops_per_second, resolved.device)
    reason = _does_not_fit(sum(parts.values()), at_most, setting)
    return PlannedRun(
        run_id=run_id(arm, seed, study, facts, train, setting.dtype, searching),
        model=facts.name,
        train_set=train.name,
        arm=arm,
        seed=seed,
        trainable_parameters=trainable_parameters(arm, facts),
        step_count=steps,
        train_tokens=round(train.token_count * sum(rows_seen(train.row_count, study.budget.epochs)) / train.row_count),
        train_flops=training,
        evaluate_flops=scoring,
        memory_bytes=sum(parts.values()),
        memory_parts_bytes=parts,
        disk_bytes=at_most,
        kept_disk_bytes=kept,
        seconds=seconds,
        fits=reason is None,
        reason=reason,
        dtype=setting.dtype,
        search_id=search_id(searching, study, facts, train, setting.dtype) if searching else None,
    )


def _stays(study: Study, seed: int) -> bool:
    """Whether this run's full checkpoint counts as kept: of `keep: {full: best}` one for each arm."""
    return study.keep.full == "all" or (study.keep.full == "best" and seed == study.all_seeds[0])


def _does_not_fit(memory: int, disk: int, setting: _Setting) -> str | None:
    available = available_bytes(setting.machine, setting.resolved.device)
    if memory > available:
        return f"needs {_gigabytes(memory)} of memory, this machine has {_gigabytes(available)} to use"
    if disk > setting.machine.disk_free_bytes:
        return f"needs {_gigabytes(disk)} of disk, {_gigabytes(setting.machine.disk_free_bytes)} are free"
    return None


def _search(setting: _Setting, arm: Arm, searching: tuple[Arm, ...]) -> PlannedSearch | None:
    """The search for this arm's rate; arms that share one have the same search."""
    if not searching:
        return None
    study, facts, train = setting.study, setting.facts, setting.train
    rates = rate_grid(arm.method)
    share = search_share(len(rates))
    flops = share * sum(train_flops(a, facts, train, study.budget) for a in searching)
    steps = step_count(train.row_count, study.budget)
    updates = round(steps * share * len(searching))
    return PlannedSearch(
        search_id=search_id(searching, study, facts, train, setting.dtype),
        model=facts.name,
        train_set=train.name,
        arms=list(searching),
        rates=rates,
        seed=SEARCH_SEED,
        step_count=steps,
        train_flops=flops,
        seconds=train_seconds(flops, updates, facts, setting.flops_per_second, setting.resolved.device),
    )


def _check_ids(runs: Sequence[PlannedRun], file: str) -> None:
    counts = Counter(run.run_id for run in runs)
    problems = []
    for id_ in [id_ for id_, count in counts.items() if count > 1]:
        same = [f"{run.model}, {run.train_set}, {run.arm.label}" for run in runs if run.run_id == id_]
        problems.append(
            Problem(file, "runs", f"the same run twice ({' and '.join(same)})", "models, data or arms that differ")
        )
    if problems:
        raise InputProblems(problems)


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.3g} GB"


# ---- for people -----------------------------------------------------------------------------------------------------


def describe_plan(plan: Plan) -> list[dict[str, Any]]:
    """One row for each run, in the plan's order; FLOPs in 10^12, all else in the units that the names say."""
    return [
        {
            "run_id": run.run_id,
            "model": run.model,
            "train_set": run.train_set,
            "arm": run.arm.label,
            "seed": run.seed,
            "trainable_parameters": run.trainable_parameters,
            "steps": run.step_count,
            "train_tokens": run.train_tokens,
            "teraflops": (run.train_flops + run.evaluate_flops) / 1e12,
            "memory_bytes": run.memory_bytes,
            "disk_bytes": run.disk_bytes,
            "seconds": run.seconds,
            "fits": run.fits,
            "reason": run.reason,
        }
        for run in plan.runs
    ]


def plan_totals(plan: Plan) -> dict[str, Any]:
    """Sums over the runs that fit and the searches. Time is shared out over workers; each has a checkpoint on disk.

    With adaptive seeds these are the most that there can be; `first_runs` and `first_seconds` are those of the first
    seeds, which every arm gets, and the searches.
    """
    runs = [run for run in plan.runs if run.fits]
    first = [run for run in runs if not plan.looks or run.seed < plan.looks[0]]
    workers = plan.resolved.worker_count
    kept = sum(run.kept_disk_bytes for run in runs)
    temporary = sorted((run.disk_bytes - run.kept_disk_bytes for run in runs), reverse=True)[:workers]
    flops = sum(run.train_flops + run.evaluate_flops for run in runs) + sum(s.train_flops for s in plan.searches)
    return {
        "runs": len(runs),
        "first_runs": len(first),
        "runs_that_do_not_fit": len(plan.runs) - len(runs),
        "searches": len(plan.searches),
        "train_tokens": sum(run.train_tokens for run in runs),
        "teraflops": flops / 1e12,
        "memory_bytes": sum(sorted((run.memory_bytes for run in runs), reverse=True)[:workers]),
        "disk_bytes": kept + sum(temporary),
        "first_seconds": (sum(run.seconds for run in first) + sum(s.seconds for s in plan.searches)) / workers,
        "seconds": (sum(run.seconds for run in runs) + sum(s.seconds for s in plan.searches)) / workers,
    }
