"""Makes the plan of a study: every run and rate search with its id, cost, memory and time.

Pure arithmetic on facts of models, data and machine: no weights, rows or files are opened.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from rankscope.plan.derived_time import derivations, seconds_within_runs
from rankscope.plan.gang_choice import ALONE, GangNeed, Room, can_shard, gang_seconds, host_bytes
from rankscope.plan.placement import Claim
from rankscope.plan.plan_checks import check_arms, check_runs, check_support, study_warnings
from rankscope.plan.resolve import (
    USABLE_MEMORY,
    available_bytes,
    dtype_of,
    resolve,
    run_id,
    search_arms,
)
from rankscope.plan.run_cost import (
    disk_bytes,
    evaluate_flops,
    replayed_rows,
    step_count,
)
from rankscope.plan.run_need import Dtype, run_need, run_scoring
from rankscope.plan.run_time import Clock, plan_totals
from rankscope.plan.schedule import Work, schedule
from rankscope.plan.search_plan import planned_searches, searched_together
from rankscope.plan.selection_split import planned_choice, split_warnings
from rankscope.plan.worker_share import device_of, narrowed
from rankscope.records import (
    Gang,
    MachineFacts,
    MeasuredSpeed,
    ModelFacts,
    Plan,
    PlannedChoice,
    PlannedRun,
    PlannedSearch,
    Resolved,
    SuiteFacts,
    TrainFacts,
)
from rankscope.records.machine_facts import Device
from rankscope.study.problems import InputProblems, Problem
from rankscope.study.study import Arm, Study

NOMINAL_FLOPS_PER_SECOND = {"cpu": 3e10, "cuda": 1e14, "mps": 3e12}
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
    measured: Sequence[MeasuredSpeed]

    @cached_property
    def clock(self) -> Clock:
        """Of one worker: a CPU's speed is measured on one thread, a GPU's on the whole device."""
        speed = self.machine.speed_in(self.dtype) or NOMINAL_FLOPS_PER_SECOND[self.resolved.device]
        threads = self.resolved.thread_count if self.resolved.device == "cpu" else 1
        budget, device = self.study.budget, self.resolved.device
        clock = Clock(self.facts, self.train, self.suites, budget, speed * threads, device, self.measured, threads)
        return clock.with_checkpointing([arm.label for arm, need in self.needs if need.checkpointing])

    @cached_property
    def needs(self) -> list[tuple[Arm, GangNeed]]:
        """Where the runs of each arm that is trained go, and what they need there."""
        return [
            (arm, run_need(self.study, arm, self.facts, self.train, self.dtype, self.resolved, self.room))
            for arm in self.study.expand_arms()
            if arm.given is None
        ]

    def scored(self, arm: Arm) -> GangNeed:
        """Where an arm's runs are scored, and what they need there."""
        return run_scoring(self.study, arm, self.facts, self.train, self.dtype, self.resolved, self.room)

    @cached_property
    def room(self) -> Room:
        """What a run may use."""
        return Room.of(self.machine, USABLE_MEMORY, self.resolved.device)

    @cached_property
    def choice(self) -> PlannedChoice:
        """How its arms' settings are chosen."""
        return planned_choice(self.study, self.facts.name, self.train.name, self.train.domain, self.suites)

    def dials(self, arm: Arm) -> tuple[float, ...]:
        """Where nothing is chosen for retention a dial counts only where the study gives it."""
        chosen = self.choice.select == "retention" or arm.dial is not None
        return self.study.dials_of(arm) if chosen else (1.0,)


def make_plan(
    study: Study,
    models: Sequence[ModelFacts],
    train_sets: dict[str, list[TrainFacts]],
    suites: dict[str, list[SuiteFacts]],
    machine: MachineFacts,
    *,
    previous: Resolved | None = None,
    measured: Sequence[MeasuredSpeed] = (),
    file: str = "study",
) -> Plan:
    """Every search and run of the study, by model, training set, arm and seed in the file's order.

    `train_sets` and `suites` are by model name, since every tokenizer counts otherwise. `previous` is what an earlier
    plan of the same study folder decided; it is kept. A run that does not fit into memory or on the disk says so.
    `measured` speeds take the place of arithmetic where there are any.
    Raises InputProblems (naming `file`) for targets that do not exist, for ranks that no target can use, for settings
    that this machine or a model cannot do, where two runs would be the same, and where too few items would judge.
    """
    warnings = _check_models(study, models, device_of(study.execution, machine, previous), machine, file)
    machine = narrowed(machine, study.execution)
    resolved = resolve(study, study.expand_arms(), models, train_sets, machine, previous, file)
    specs = {spec.name: spec for spec in study.models}
    work = Work(study.looks, study.execution.arms_together, resolved.device)
    choices: list[PlannedChoice] = []
    for facts in models:
        for train in train_sets[facts.name]:
            dtype = dtype_of(specs[facts.name], resolved)
            setting = _Setting(study, facts, train, suites[facts.name], machine, resolved, dtype, measured)
            choices.append(setting.choice)
            _add(setting, work)
        replays = {r.samples_sha256: r for t in train_sets[facts.name] for r in t.replays if r.samples_sha256}
        gang = resolved.scoring_gangs.get(facts.name, Gang())
        host = min((run.host_bytes for run in work.runs if run.model == facts.name), default=0)
        work.bases[facts.name] = Claim(gang.size, host, gang_seconds(setting.clock.scoring(None), gang))
        for sha256, replayed in replays.items():
            seconds = gang_seconds(setting.clock.sampling(replayed), gang)
            work.samples[f"{facts.name} {sha256}"] = Claim(gang.size, seconds=seconds)
    check_runs(work.runs, choices, file)
    plan = Plan(
        study=study.name,
        resolved=resolved,
        models=list(models),
        train_sets=[t.model_copy(update={"model": f.name}) for f in models for t in train_sets[f.name]],
        suites=[s.model_copy(update={"model": f.name}) for f in models for s in suites[f.name]],
        searches=work.searches,
        runs=work.runs,
        base_seconds=sum(one.seconds for one in (*work.bases.values(), *work.samples.values())),
        derived_seconds=sum(one.seconds for one in work.derived.values()) + sum(work.own_derivations.values()),
        choices=choices,
        measured=list(measured),
        looks=list(study.looks),
    )
    one_node = resolved.node_count == 1 and resolved.gpus
    places, host = one_node or list(range(resolved.worker_count)), int(machine.memory_bytes * USABLE_MEMORY)
    found = schedule(work.stages(plan.base_ids), resolved.device, places, host, resolved.node_count)
    plan = plan.model_copy(update={"schedule": found})
    warnings += [*study_warnings(study, plan, machine, plan_totals(plan)), *split_warnings(choices)]
    return plan.model_copy(update={"warnings": warnings})


def _check_models(
    study: Study, models: Sequence[ModelFacts], device: Device, machine: MachineFacts, file: str
) -> list[str]:
    """Warnings; raises InputProblems for what a model or the machine cannot do."""
    problems: list[Problem] = []
    warnings: list[str] = []
    for facts in models:
        found, advice = check_arms(study, facts, file)
        problems += found
        warnings += advice
    problems += check_support(study, models, device, machine, file)
    if problems:
        raise InputProblems(problems)
    return warnings


def _add(setting: _Setting, work: Work) -> None:
    """Add what is done for one training set on one base."""
    searches, runs = _setting_runs(setting)
    work.searches += searches
    work.runs += runs
    analysis, name = setting.study.analysis, f"{setting.facts.name} {setting.train.name}"
    derived = derivations(analysis, setting.clock, runs)
    work.derived |= {f"{name} {i}": one for i, one in enumerate(derived, start=1)}
    work.own_derivations |= seconds_within_runs(analysis, setting.clock, runs)


def _setting_runs(setting: _Setting) -> tuple[list[PlannedSearch], list[PlannedRun]]:
    searches: list[PlannedSearch] = []
    runs: list[PlannedRun] = []
    for key in setting.study.arms:
        entry = setting.study.arms_of(key)
        runs += [_run(setting, arm, entry, seed) for arm in entry for seed in setting.study.all_seeds]
    fitting = {run.arm.label for run in runs if run.fits}
    for alike in searched_together(setting.study):
        arms = [arm for key in alike for arm in setting.study.arms_of(key) if arm.label in fitting]
        searches += planned_searches(
            setting.study, setting.facts, setting.train, setting.suites, setting.dtype, setting.choice, setting.clock,
            arms,
        )  # fmt: skip
    searches = [_with_gang(setting, search, runs) for search in searches]
    by_label = {arm.label: search.search_id for search in searches for arm in search.arms}
    return searches, [run.model_copy(update={"search_id": by_label.get(run.arm.label)}) for run in runs]


def _with_gang(setting: _Setting, search: PlannedSearch, runs: Sequence[PlannedRun]) -> PlannedSearch:
    """A search trains as the largest of its arms does."""
    own = [run for run in runs if run.arm in search.arms]
    gang = Gang(size=max(run.gang for run in own), offload=any(run.offload for run in own))
    training = sum(setting.clock.training(arm, search.runs) for arm in search.arms)
    scoring = max((run.scoring for run in own), key=lambda gang: (gang.size, gang.offload))
    rest = max(0.0, search.seconds - training)
    seconds = gang_seconds(rest, scoring) + gang_seconds(training, gang)
    update = {"gang": gang.size, "offload": gang.offload, "scoring": scoring, "seconds": seconds}
    update["host_bytes"] = max(run.host_bytes for run in own)
    return search.model_copy(update=update)


def _run(setting: _Setting, arm: Arm, entry: Sequence[Arm], seed: int) -> PlannedRun:
    study, facts, train = setting.study, setting.facts, setting.train
    searching = search_arms(arm, entry)
    scored = setting.scored(arm)
    need = next((need for known, need in setting.needs if known == arm), replace(scored, gang=ALONE))
    trains = arm.given is None
    parts = need.parts
    at_most, kept = disk_bytes(
        arm, facts, setting.dtype, setting.suites, keep_full=_stays(study, seed), optimizer=study.optimizer.name
    )
    clock = setting.clock
    dials = setting.dials(arm)
    dial_seconds = gang_seconds((len(dials) - 1) * (clock.scoring(arm) + clock.validation(arm)), scored.gang)
    training = gang_seconds(clock.training(arm), need.gang)
    after = clock.scoring(arm)
    if study.analysis.enabled:
        after += clock.inside(arm, study.analysis.probe_items)
    seconds = training + clock.validation(arm) + gang_seconds(after, scored.gang) + dial_seconds
    reason = _does_not_fit(arm, need, scored, at_most, setting)
    return PlannedRun(
        run_id=run_id(arm, seed, study, facts, train, setting.dtype, searching),
        model=facts.name,
        train_set=train.name,
        arm=arm,
        seed=seed,
        trainable_parameters=arm.trainable_parameters(facts),
        step_count=step_count(train.row_count, study.budget) if trains else 0,
        train_tokens=round(trains * train.token_count * sum(study.budget.rows_seen(train.row_count)) / train.row_count),
        replay_tokens=round(replayed_rows(arm, train, study.budget).tokens),
        train_flops=sum(clock.training_flops(arm)) if trains else 0.0,
        evaluate_flops=sum(evaluate_flops(arm, facts, setting.suites)),
        memory_bytes=sum(parts.values()),
        memory_parts_bytes=parts,
        disk_bytes=at_most,
        kept_disk_bytes=kept,
        seconds=seconds,
        fits=reason is None,
        reason=reason,
        dtype=setting.dtype,
        dials=list(dials),
        dial_seconds=dial_seconds,
        gang=need.gang.size,
        offload=need.gang.offload,
        checkpointing=need.checkpointing,
        scoring=scored.gang,
        host_bytes=host_bytes(need, scored, facts, setting.dtype, setting.resolved.device),
        remedy_seconds=clock.training(arm) - clock.training(arm.plain),
    )


def _stays(study: Study, seed: int) -> bool:
    """Whether this run's full checkpoint counts as kept: of `keep: {full: best}` one for each arm."""
    return study.keep.full == "all" or (study.keep.full == "best" and seed == study.all_seeds[0])


def _does_not_fit(arm: Arm, need: GangNeed, scored: GangNeed, disk: int, setting: _Setting) -> str | None:
    available = available_bytes(setting.machine, setting.resolved.device)
    if not need.fits(setting.room):
        where = f" on each of {need.gang.size} devices" if need.gang.size > 1 else ""
        beside = f" and {_gigabytes(need.host_bytes)} of the host's" if need.host_bytes else ""
        wanted = f"{_gigabytes(need.device_bytes)} of memory{where}{beside}"
        why = None if setting.room.shared else can_shard(arm, setting.facts, setting.study.optimizer.name)
        alone = f", and {why}" if why is not None else ""
        return f"needs {wanted}, this machine has {_gigabytes(available)} to use{alone}"
    if not setting.room.shared and not (need.gang.alone and scored.gang.alone) and not scored.fits(setting.room):
        wanted = f"{_gigabytes(scored.device_bytes)} of memory on the one device that scores it"
        return f"needs {wanted}, this machine has {_gigabytes(available)} to use"
    if disk > setting.machine.disk_free_bytes:
        return f"needs {_gigabytes(disk)} of disk, {_gigabytes(setting.machine.disk_free_bytes)} are free"
    return None


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.3g} GB"
