"""What a plan refuses before anything runs, and what it warns of: settings that make the answer weaker.

What a method asks of a model stands with the method (`study/methods`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from rankscope.plan.gang_choice import can_shard
from rankscope.plan.selection_split import judged, split_problems
from rankscope.plan.worker_share import place_problems
from rankscope.records import MachineFacts, ModelFacts, Plan, PlannedChoice, PlannedRun
from rankscope.records.arm_record import TRAINED_ELSEWHERE
from rankscope.records.machine_facts import Device
from rankscope.records.readable_numbers import listing
from rankscope.study.graders import grader_of
from rankscope.study.methods import METHODS
from rankscope.study.problems import InputProblems, Problem
from rankscope.study.study import Study


def check_arms(study: Study, facts: ModelFacts, file: str) -> tuple[list[Problem], list[str]]:
    """Problems and warnings of the arms on one model: targets that do not exist, ranks of no use, more blocks than it
    has, methods that find nothing to train in it."""
    problems: list[Problem] = []
    warnings: list[str] = []
    for key in study.arms:
        arms = study.arms_of(key)
        unfit, warned = arms[0].traits.misfits(arms, facts)
        problems += [Problem(file, f"arms.{key}.{one.setting}", one.found, one.expected) for one in unfit]
        warnings += warned
    return problems, warnings


_NEEDS = "a CUDA device, which bitsandbytes needs here"
_PACKAGE = "pip install 'rankscope[quant]'"


def check_support(
    study: Study, models: Sequence[ModelFacts], device: Device, machine: MachineFacts, file: str
) -> list[Problem]:
    """Quantized bases and 8-bit optimizers need CUDA and bitsandbytes, checkpointing the model's support, `execution`
    the devices that it names."""
    wishes = [
        (f"model.quantization ({spec.name})", f"quantization: {spec.quantization}")
        for spec in study.models
        if spec.quantization is not None
    ]
    if study.optimizer.name == "adamw_8bit":
        wishes.append(("optimizer.name", "adamw_8bit"))
    problems = place_problems(study.execution, device, machine, file) + _not_shared_out(study, models, file)
    if study.optimizer.name == "adamw_bf16":
        expected = "bfloat16 or auto for these weights, or adamw"
        problems += [
            Problem(file, "optimizer.name", f"adamw_bf16 for weights in float32 ({spec.name})", expected)
            for spec in study.models
            if spec.dtype == "float32"
        ]
    for place, wish in wishes:
        if device != "cuda":
            problems.append(Problem(file, place, f"{wish} on {machine.device_name} ({device})", _NEEDS))
        elif not machine.bitsandbytes:
            problems.append(Problem(file, place, f"{wish} without the package bitsandbytes", _PACKAGE))
    if device == "mps" and study.analysis.enabled:
        found = "true with device: mps, which has no double precision"
        problems.append(Problem(file, "analysis.enabled", found, "false, or execution: {device: auto}"))
    if study.budget.gradient_checkpointing is True:
        place = "budget.gradient_checkpointing"
        cannot = [f"{facts.name} ({facts.architecture}), which cannot" for facts in models if not facts.checkpointing]
        cannot += [
            f"{arm.label}, whose {arm.traits.loses_by_checkpointing} it would drop"
            for arm in study.expand_arms()
            if arm.traits.loses_by_checkpointing
        ]
        problems += [Problem(file, place, found, "false, or a study without it") for found in cannot]
    return problems


def _not_shared_out(study: Study, models: Sequence[ModelFacts], file: str) -> list[Problem]:
    """Where the study asks for shards or the host's memory, the arms that cannot have them, once for each."""
    execution = study.execution
    if execution.shards not in ("auto", 1):
        asked, instead = f"shards: {execution.shards}", "shards: auto"
    elif execution.offload == "always":
        asked, instead = "offload: always", "offload: auto"
    else:
        return []
    whys = {
        arm.label: why
        for facts in models
        for arm in study.expand_arms()
        if arm.given is None and (why := can_shard(arm, facts, study.optimizer.name)) is not None
    }
    expected = f"{instead}, which leaves it on one device, or a study without it"
    return [Problem(file, f"arms ({label})", f"{asked}, and {why}", expected) for label, why in whys.items()]


def check_runs(runs: Sequence[PlannedRun], choices: Sequence[PlannedChoice], file: str) -> None:
    """Raises InputProblems where two runs would be the same, and where too few items would judge."""
    counts = Counter(run.run_id for run in runs)
    problems = split_problems(choices, file)
    for id_ in [id_ for id_, count in counts.items() if count > 1]:
        same = [f"{run.model}, {run.train_set}, {run.arm.label}" for run in runs if run.run_id == id_]
        problems.append(
            Problem(file, "runs", f"the same run twice ({' and '.join(same)})", "models, data or arms that differ")
        )
    if problems:
        raise InputProblems(problems)


# ---- warnings --------------------------------------------------------------------------------------------------------


def study_warnings(study: Study, plan: Plan, machine: MachineFacts, totals: dict[str, Any]) -> list[str]:
    """One sentence for each thing that the user should know before anything runs."""
    return [
        *_seeds(study),
        *_dequantized(study),
        *_rates(study),
        *_scales(study),
        *_suites(study, plan),
        *_kinds(plan),
        *_held_out(plan),
        *_chosen(study),
        *_given(study),
        *_lengths(study, plan),
        *_judges(plan),
        *_fit(plan, machine, totals),
    ]


def _seeds(study: Study) -> list[str]:
    if len(study.all_seeds) > 1:
        return []
    return ["one seed: the results are a description, and no arm can be recommended; three seeds or more can decide"]


def _dequantized(study: Study) -> list[str]:
    return [
        f"{spec.name}: what is trained and scored are the dequantised weights of {spec.gguf_file}, which are not those "
        "that the quantised file was made from"
        for spec in study.models
        if spec.gguf_file is not None
    ]


def _judges(plan: Plan) -> list[str]:
    """What a judge may cost: every answer of the bases and of every run at every dial, were they all different."""
    found = []
    for suite in plan.suites:
        grader = grader_of(suite.grade)
        if grader is None or grader.driver != "endpoint":
            continue
        scorings = 1 + sum(len(run.dials) for run in plan.runs if run.model == suite.model)
        most = suite.item_count * scorings + grader.extra_requests
        text = f"{suite.name}: {grader.title} is asked up to {most:,} times, once for each different answer"
        if grader.most_requests is not None and grader.most_requests < most:
            text += f"; its budget of {grader.most_requests:,} may end before, and runs then wait for a larger one"
        found.append(text)
    return list(dict.fromkeys(found))


def _rates(study: Study) -> list[str]:
    found = [
        f"{key}: `auto_shared` gives every {_noun(entry.method)} one learning rate, which may favour some; `auto` "
        "finds one for each"
        for key, entry in study.arms.items()
        if entry.learning_rate == "auto_shared" and len(study.arms_of(key)) > 1
    ]
    arms = study.expand_arms()
    of_adapters = {
        arm.learning_rate for arm in arms if not arm.traits.whole and isinstance(arm.learning_rate, float) and arm.rank
    }
    for arm in arms:
        if arm.traits.whole and arm.learning_rate in of_adapters:
            found.append(
                f"{arm.label}: {arm.traits.title} at LoRA's learning rate ({arm.learning_rate:g}); its best is usually "
                "about ten times lower, so the comparison may be unfair to it"
            )
    return found


def _noun(method: str) -> str:
    size = METHODS[method].size
    return "size" if size is None else size.noun


def _scales(study: Study) -> list[str]:
    """Scale and targets move results more than rank does: a difference between arms may be theirs."""
    found = []
    arms = study.expand_arms()
    for method in dict.fromkeys(arm.method for arm in arms if arm.rank):
        own = [arm for arm in arms if arm.method == method]
        title = METHODS[method].title
        scales = {round(scale, 6) for arm in own if (scale := arm.traits.alpha_per_rank(arm)) is not None}
        if len(scales) > 1:
            shown = ", ".join(f"{scale:g}" for scale in sorted(scales))
            found.append(
                f"the {title} arms differ in scale (alpha/r is {shown}): their differences are not those of rank alone"
            )
        targets = {arm.targets if isinstance(arm.targets, str) else frozenset(arm.targets or ()) for arm in own}
        if len(targets) > 1:
            found.append(f"the {title} arms differ in target modules: their differences are not those of rank alone")
    return found


def _suites(study: Study, plan: Plan) -> list[str]:
    plain = {suite.name for suite in plan.suites if not judged(suite)}
    scored = [suite for name, suite in study.suites.items() if name not in plain]
    return [
        f"{name}: no suite outside the domain {source.domain}, so its forgetting cannot be measured"
        for name, source in study.train.items()
        if all(suite.domain == source.domain for suite in scored)
    ]


def _kinds(plan: Plan) -> list[str]:
    """Suites that decide, of which nobody said whether they are recall or reasoning."""
    names = list(dict.fromkeys(suite.name for suite in plan.suites if suite.kind is None and judged(suite)))
    if not names:
        return []
    told = "whether this is recall or reasoning is not known (`kind` says it): tables by kind are without it"
    return [f"{listing(names)}: {told}"]


def _held_out(plan: Plan) -> list[str]:
    """Which rows of the user's are asked instead of trained on."""
    found = [
        f"{suite.name}: {suite.item_count:,} rows of {suite.held_out}"
        + (", judged by the loss of what they answer" if suite.metric == "loss" else "")
        + "; no arm trains or validates on them"
        for suite in plan.suites
        if suite.held_out is not None
    ]
    return list(dict.fromkeys(found))


def _chosen(study: Study) -> list[str]:
    """The suites that `auto` became."""
    chosen = {name: source for name, source in study.suites.items() if source.chosen_for is not None}
    found = []
    for asked in dict.fromkeys(source.chosen_for for source in chosen.values()):
        own = (
            f"{name} ({source.hub or source.path or f'lm-eval {source.harness}'})"
            for name, source in chosen.items()
            if source.chosen_for == asked
        )
        found.append(f"{asked}: auto chose {', '.join(own)}; a study that goes on keeps them")
    return found


def _given(study: Study) -> list[str]:
    """What nobody knows of arms that were trained elsewhere."""
    labels = ", ".join(arm.label for arm in study.expand_arms() if arm.given is not None)
    return [f"{labels}: {TRAINED_ELSEWHERE}"] if labels else []


def _lengths(study: Study, plan: Plan) -> list[str]:
    wanted = study.budget.max_sequence_tokens
    return [
        f"{facts.name}: its context of {facts.context_tokens} tokens limits rows, not `max_sequence_tokens` ({wanted})"
        for facts in plan.models
        if facts.context_tokens < wanted
    ]


def _fit(plan: Plan, machine: MachineFacts, totals: dict[str, Any]) -> list[str]:
    found = []
    reasons = {(run.model, run.train_set, run.arm.label): run.reason for run in plan.runs if not run.fits}
    found += [f"{arm} on {train_set} ({model}) does not fit: {why}" for (model, train_set, arm), why in reasons.items()]
    if totals["disk_bytes"] > machine.disk_free_bytes:
        needed, free = totals["disk_bytes"] / 1e9, machine.disk_free_bytes / 1e9
        found.append(f"the study needs {needed:.3g} GB of disk, {free:.3g} GB are free")
    offloaded = dict.fromkeys(run.arm.label for run in plan.runs if run.offload and run.fits)
    if offloaded:
        found.append(
            f"{', '.join(offloaded)}: one device holds it only with weights, gradients and moments in the host's "
            "memory, which takes two to three times as long (`offload: never` leaves it out)"
        )
    if machine.described:
        speed = (machine.flops_per_second or 0.0) / 1e12
        found.append(
            f"planned for {machine.device_name}: times assume {speed:,.0f} TFLOP/s for each GPU, its host twice their "
            "memory, and disk enough"
        )
    if machine.flops_per_second is None:
        found.append("the speed of this machine was not measured: the times are those of a nominal one")
    if plan.resolved.device != machine.device:
        found.append(
            f"the study was begun on {plan.resolved.device} and stays there, though this machine has {machine.device}"
        )
    return found
