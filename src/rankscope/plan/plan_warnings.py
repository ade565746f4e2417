"""What a plan warns of: settings that are allowed and that make the answer weaker."""

from __future__ import annotations

from typing import Any

from rankscope.records import MachineFacts, Plan
from rankscope.study.arms import TRAITS
from rankscope.study.study import Method, Study


def study_warnings(study: Study, plan: Plan, machine: MachineFacts, totals: dict[str, Any]) -> list[str]:
    """One sentence for each thing that the user should know before anything runs."""
    return [
        *_seeds(study),
        *_rates(study),
        *_scales(study),
        *_suites(study),
        *_lengths(study, plan),
        *_fit(plan, machine, totals),
    ]


def _seeds(study: Study) -> list[str]:
    if len(study.all_seeds) > 1:
        return []
    return ["one seed: the results are a description, and no arm can be recommended; three seeds or more can decide"]


def _rates(study: Study) -> list[str]:
    found = [
        f"{key}: `auto_shared` gives every {_noun(entry.method)} one learning rate, which may favour some; `auto` "
        "finds one for each"
        for key, entry in study.arms.items()
        if entry.learning_rate == "auto_shared" and len(study.arms_of(key)) > 1
    ]
    arms = study.expand_arms()
    fixed = {arm.learning_rate for arm in arms if arm.method == "lora" and not isinstance(arm.learning_rate, str)}
    for arm in arms:
        if arm.method == "full" and arm.learning_rate in fixed:
            found.append(
                f"{arm.label}: full fine-tuning at LoRA's learning rate ({arm.learning_rate:g}); its best is usually "
                "about ten times lower, so the comparison may be unfair to it"
            )
    return found


def _noun(method: Method) -> str:
    size = TRAITS[method].size
    return "rank" if size is not None and size[0] == "ranks" else "size"


def _scales(study: Study) -> list[str]:
    """Scale and targets move results more than rank does: a difference between arms may be theirs."""
    lora = [arm for arm in study.expand_arms() if arm.method == "lora" and arm.rank and arm.alpha]
    scales = sorted({round((arm.alpha or 0) / (arm.rank or 1), 6) for arm in lora})
    found = []
    if len(scales) > 1:
        shown = ", ".join(f"{scale:g}" for scale in scales)
        found.append(
            f"the LoRA arms differ in scale (alpha/r is {shown}): their differences are not those of rank alone"
        )
    targets = {arm.targets if isinstance(arm.targets, str) else frozenset(arm.targets or ()) for arm in lora}
    if len(targets) > 1:
        found.append("the LoRA arms differ in target modules: their differences are not those of rank alone")
    return found


def _suites(study: Study) -> list[str]:
    scored = [suite for suite in study.suites.values() if suite.kind is not None]
    return [
        f"{name}: no suite outside the domain {source.domain}, so its forgetting cannot be measured"
        for name, source in study.train.items()
        if all(suite.domain == source.domain for suite in scored)
    ]


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
    if machine.flops_per_second is None:
        found.append("the speed of this machine was not measured: the times are those of a nominal one")
    if plan.resolved.device != machine.device:
        found.append(
            f"the study was begun on {plan.resolved.device} and stays there, though this machine has {machine.device}"
        )
    return found
