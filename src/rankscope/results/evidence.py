"""What the evidence in study folders asks for: runs that a verdict still needs, and defaults pooled over studies."""

from __future__ import annotations

import math
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path

from pydantic import ValidationError

from rankscope.decide.bet_evidence import arms_worth_a_seed
from rankscope.decide.looks import Evidence, gather
from rankscope.decide.paired_items import Frames
from rankscope.decide.pooled_effects import StudyArm, pool, study_arms
from rankscope.edges.study_folder import StudyFolder
from rankscope.records import DefaultArm, Defaults, Plan, PlannedRun, RunStatus, SettingsFile
from rankscope.records.record_base import check_format
from rankscope.results.chosen_settings import as_chosen
from rankscope.results.frames import frames_of, planned_study
from rankscope.results.search_names import searches_of
from rankscope.study.methods import METHODS
from rankscope.study.problems import InputProblems, Problem
from rankscope.study.study import Decision, Study
from rankscope.study.yaml_text import dump_yaml, load_yaml, read_text


def wanted_runs(folder: StudyFolder, study: Study, plan: Plan, asked: AbstractSet[str]) -> list[PlannedRun]:
    """The runs that are needed next, in the plan's order; empty where nothing more is. `asked`: those that were given
    out already, in this session, of which alone the results count (an earlier one may lack a suite).
    """
    if not plan.looks:
        return [run for run in plan.runs if run.run_id not in asked]
    wanted: set[str] = set()
    for evidence, frames in _evidence(folder, study, plan, asked):
        if evidence.last.pairing.unfinished:
            wanted |= evidence.last.run_ids - asked
        elif not evidence.ruling.kind.decided:
            arms = arms_worth_a_seed(evidence, frames, study.decision, plan.looks[-1])
            wanted |= _next_seeds(plan, asked, evidence, arms)
    return [run for run in plan.runs if run.run_id in wanted]


def _next_seeds(plan: Plan, asked: AbstractSet[str], evidence: Evidence, arms: Sequence[str]) -> set[str]:
    """One run of each of these arms: that with the first seed that it was not given."""
    pairing = evidence.last.pairing
    found: dict[str, PlannedRun] = {}
    for run in sorted(plan.runs, key=lambda run: run.seed):
        mine = (run.model, run.train_set) == (pairing.model, pairing.train_set)
        if mine and run.arm.label in arms and run.run_id not in asked and run.fits:
            found.setdefault(run.arm.label, run)
    return {run.run_id for run in found.values()}


def mark_unneeded(folder: StudyFolder, study: Study, plan: Plan, asked: AbstractSet[str]) -> None:
    """Label the runs that the verdict did without, each with the reason."""
    for evidence, _ in _evidence(folder, study, plan, asked):
        pairing = evidence.last.pairing
        if pairing.unfinished:
            continue
        for run in plan.runs:
            mine = (run.model, run.train_set) == (pairing.model, pairing.train_set)
            before = folder.read_status(run.run_id)
            if not mine or run.run_id in asked or not run.fits or (before is not None and before.state == "done"):
                continue
            reason = _reason(evidence, run)
            start = before or RunStatus(run_id=run.run_id, state="not needed", steps_total=run.step_count)
            folder.write_status(start.model_copy(update={"state": "not needed", "reason": reason}))


def _reason(evidence: Evidence, run: PlannedRun) -> str:
    if evidence.ruling.kind.decided:
        return f"the verdict stands after {len(evidence.last.pairing.seeds)} seeds"
    return f"a further seed of {run.arm.label} would have helped the best bet little"


def _evidence(folder: StudyFolder, study: Study, plan: Plan, asked: AbstractSet[str]) -> list[tuple[Evidence, Frames]]:
    """What is known of every base model and training set from the runs in `asked`, and the frames that say it.

    Of the others those with the seeds that every arm gets count as still to do, the rest as not needed.
    """
    frames = frames_of(folder, plan)
    runs = frames.runs
    waiting = ~runs["run_id"].isin(asked) & (runs["state"] != "does not fit")
    every = runs["seed"].isin(sorted(runs["seed"].unique())[: plan.looks[0]])
    runs["state"] = runs["state"].mask(waiting & every, "planned").mask(waiting & ~every, "not needed")
    pairs = sorted(set(zip(runs["model"], runs["train_set"], strict=True)))
    return [
        (gather(frames, model=model, train_set=train_set, decision=study.decision, looks=plan.looks), frames)
        for model, train_set in pairs
    ]


def pool_folders(folders: Sequence[str]) -> Defaults:
    """Defaults over the studies in `folders`, each base model and training set of each. The strictest margins and the
    highest confidence of all count. Raises InputProblems for a folder that holds no study, and where nothing is done.
    """
    problems, arms, decisions = [], [], []
    for folder in folders:
        try:
            found_arms, decision = _of(StudyFolder.open(folder))
        except InputProblems as error:
            problems += error.problems
            continue
        if not found_arms:
            problems.append(
                Problem(str(folder), "DIR", "no finished run that could be compared", "a study that has ended")
            )
        arms += found_arms
        decisions.append(decision)
    if problems:
        raise InputProblems(problems)
    strictest = Decision(
        task_margin=min(decision.task_margin for decision in decisions),
        retention_margin=min(decision.retention_margin for decision in decisions),
        confidence=max(decision.confidence for decision in decisions),
    )
    return pool(arms, strictest)


def _of(folder: StudyFolder) -> tuple[list[StudyArm], Decision]:
    study, plan = planned_study(folder)
    frames = frames_of(folder, plan)
    found: list[StudyArm] = []
    for model, train_set in sorted({(run.model, run.train_set) for run in plan.runs}):
        where = {"model": model, "train_set": train_set}
        evidence = gather(frames, **where, decision=study.decision, looks=plan.looks)
        mine = [s for s in searches_of(folder, plan) if (s.model, s.train_set) == (model, train_set)]
        mine = as_chosen(mine, (folder.read_settings() or SettingsFile(settings=[])).settings)
        searched = {arm: search.chosen for search in mine for arm in search.arms if search.chosen is not None}
        found += study_arms(f"{folder.url}: {model} on {train_set}", evidence, searched)
    return found, study.decision


# ---- defaults.yaml ------------------------------------------------------------------------------------------------


DEFAULTS_FORMAT = 1
"""The version of defaults.yaml, which is no file of a study folder."""


def dump_defaults(defaults: Defaults) -> str:
    """The text of defaults.yaml, its first line in words."""
    text = dump_yaml(defaults.model_dump(mode="json"))
    return f"# Pooled by rankscope defaults over {len(defaults.studies)} studies. {defaults.reason}\n{text}"


def read_defaults(path: Path) -> Defaults:
    """What `dump_defaults` wrote. Raises InputProblems."""
    expected = "a file that `rankscope defaults` wrote"
    value = load_yaml(read_text(path, expected, "--from"), str(path), expected)
    check_format(value, str(path), DEFAULTS_FORMAT)
    try:
        return Defaults.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"])) or "--from"
        raise InputProblems([Problem(str(path), place, first["msg"], expected)]) from None


def arms_lines(defaults: Defaults) -> str:
    """The `arms` section of a study that starts from these defaults: the default rank with its neighbours, and the
    methods that have one size only, such as full.

    Where the studies cannot tell, every rank that they had. A rate stands where it is known to within a decade.
    """
    chosen = defaults.arms[defaults.default] if defaults.default is not None else None
    arms = _at_one_rate(defaults.arms, chosen)
    ranked = sorted((arm for arm in arms if arm.rank), key=lambda arm: (arm.method, arm.rank or 0))
    if chosen in ranked:
        ranked = [arm for arm in ranked if arm.method == chosen.method]
        at = ranked.index(chosen)
        ranked = ranked[max(0, at - 1) : at + 2]
    plain = {arm.method: arm for arm in arms if METHODS[arm.method].size is None}
    lines = [f"# From {len(defaults.studies)} studies: {defaults.reason}"]
    lines += [f"  {method}: {{learning_rate: {_rate(arm)}}}" for method, arm in plain.items()]
    for arm in ranked:
        alpha = f"{arm.alpha_per_rank or 2:g}r"
        targets = arm.targets if isinstance(arm.targets, str) else f"[{', '.join(arm.targets or ['all-linear'])}]"
        settings = f"ranks: [{arm.rank}], alpha: {alpha}, targets: {targets}, learning_rate: {_rate(arm)}"
        same = [other for other in ranked if (other.method, other.rank) == (arm.method, arm.rank)]
        label = f"{arm.method}-r{arm.rank}" + (f"-{ranked.index(arm)}" if len(same) > 1 else "")
        lines.append(f"  {label}: {{method: {arm.method}, {settings}}}")
    if chosen is not None and chosen not in ranked and chosen.method not in plain:
        lines.append(f"  # the studies' default is {chosen.method}: see docs/models.md for its settings")
    return "\n".join(lines)


def _at_one_rate(arms: Sequence[DefaultArm], chosen: DefaultArm | None) -> list[DefaultArm]:
    """Of arms that differ in the decade of their rate alone the default, else the one that most studies had."""
    found: dict[tuple[object, ...], DefaultArm] = {}
    for arm in arms:
        key = (arm.method, arm.rank, arm.alpha_per_rank, str(arm.targets))
        before = found.get(key)
        if before is None or arm is chosen or (before is not chosen and arm.studies > before.studies):
            found[key] = arm
    return list(found.values())


def _rate(arm: DefaultArm) -> str:
    """The pooled rate on the half-decade grid, or auto."""
    known = arm.learning_rate
    if known is None or known.studies < 2 or known.low <= 0 or known.high > 10 * known.low:
        return "auto"
    halves = round(2 * math.log10(known.mean))
    return f"{3 if halves % 2 else 1}e{halves // 2}"
