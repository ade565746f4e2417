"""Do the arms fit the model: target modules that exist, ranks that are of use."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Literal

from rankscope.plan.parameters import adapted_shapes, matches_target, trainable_parameters
from rankscope.records import MachineFacts, ModelFacts
from rankscope.study.problems import Problem
from rankscope.study.study import Arm, Study


def check_ranks(study: Study, facts: ModelFacts, file: str) -> tuple[list[Problem], list[str]]:
    """Problems and warnings of the arms on one model.

    A target that names no linear module of the blocks is a problem, and so is a rank above every target's smaller side:
    it could add nothing. A rank above some matrix's smaller side is a warning (a problem for PiSSA, which starts with
    that many singular vectors). So are methods that find nothing to train in this model, or more blocks than it has.
    """
    problems: list[Problem] = []
    warnings: list[str] = []
    for key in study.arms:
        arms = study.arms_of(key)
        if arms[0].rank is None:
            problems += [problem for arm in arms for problem in _unfit(arm, key, facts, file)]
            continue
        missing = _missing_targets(arms[0].targets, facts)
        for target in missing:
            place = f"arms.{key}.targets"
            problems.append(
                Problem(file, place, f"{target}, which is no linear module of {facts.name}", _names(target, facts))
            )
        shapes = {} if missing else adapted_shapes(arms[0], facts)
        for arm in arms if shapes else ():
            assert arm.rank is not None
            sides = sorted({min(shape) for shape in shapes.values()})
            if arm.method == "pissa" and arm.rank > sides[0]:
                found = f"rank {arm.rank}, above the smaller side of a target of {facts.name}"
                problems.append(Problem(file, f"arms.{key}.ranks", found, f"at most {sides[0]}"))
            elif arm.rank > sides[-1]:
                found = f"rank {arm.rank}, above the smaller side of every target of {facts.name}"
                problems.append(Problem(file, f"arms.{key}.ranks", found, f"at most {sides[-1]}"))
            elif arm.rank > sides[0]:
                count = sum(arm.rank > min(shape) for shape in shapes.values())
                warnings.append(
                    f"{arm.label}: the rank is above the smaller side ({sides[0]}) of {count} of {len(shapes)} "
                    f"targets of {facts.name}; there it adds parameters but no rank"
                )
    return problems, warnings


def _unfit(arm: Arm, key: str, facts: ModelFacts, file: str) -> list[Problem]:
    """Why this model cannot have this arm, of a method without ranks."""
    if arm.layers is not None and arm.layers > facts.layer_count:
        expected = f"at most {facts.layer_count}, the blocks of {facts.name}"
        return [Problem(file, f"arms.{key}.layers", str(arm.layers), expected)]
    if arm.virtual_tokens is not None:
        if not facts.key_value_width:
            found = f"{arm.method} of {facts.name}, which keeps no keys and values"
            return [Problem(file, f"arms.{key}.method", found, "an arm of another method")]
        if arm.virtual_tokens >= facts.context_tokens:
            expected = f"less than the context of {facts.name}, {facts.context_tokens} tokens"
            return [Problem(file, f"arms.{key}.virtual_tokens", str(arm.virtual_tokens), expected)]
    if trainable_parameters(arm, facts) == 0:
        found = f"{arm.method} of {facts.name}, in which it knows nothing to train"
        return [Problem(file, f"arms.{key}.method", found, "an arm of another method")]
    return []


def _missing_targets(targets: str | tuple[str, ...] | None, facts: ModelFacts) -> list[str]:
    if targets is None or isinstance(targets, str):
        return []
    return [t for t in dict.fromkeys(targets) if not any(matches_target(m, t) for m in facts.linear_shapes)]


def _names(target: str, facts: ModelFacts) -> str:
    """The last parts of the linear modules' paths, and the nearest to what was asked for."""
    names = list(dict.fromkeys(module.rsplit(".", 1)[-1] for module in facts.linear_shapes))
    near = get_close_matches(target, names, n=1, cutoff=0.6)
    return f"all-linear or some of {', '.join(names)}" + (f"; did you mean `{near[0]}`?" if near else "")


_NEEDS = "a CUDA device, which bitsandbytes needs here"
_PACKAGE = "pip install 'rankscope[quant]'"


def check_support(
    study: Study, models: Sequence[ModelFacts], device: Literal["cpu", "cuda"], machine: MachineFacts, file: str
) -> list[Problem]:
    """Quantized bases and 8-bit optimizers need CUDA and bitsandbytes; checkpointing needs the model's support."""
    wishes = [
        (f"model.quantization ({spec.name})", f"quantization: {spec.quantization}")
        for spec in study.models
        if spec.quantization is not None
    ]
    if study.optimizer.name == "adamw_8bit":
        wishes.append(("optimizer.name", "adamw_8bit"))
    problems = []
    for place, wish in wishes:
        if device != "cuda":
            problems.append(Problem(file, place, f"{wish} on {machine.device_name} ({device})", _NEEDS))
        elif not machine.bitsandbytes:
            problems.append(Problem(file, place, f"{wish} without the package bitsandbytes", _PACKAGE))
    if study.budget.gradient_checkpointing:
        place = "budget.gradient_checkpointing"
        cannot = [f"{facts.name} ({facts.architecture}), which cannot" for facts in models if not facts.checkpointing]
        cannot += [
            f"{arm.label}, whose trained keys and values it would drop"
            for arm in study.expand_arms()
            if arm.method == "prefix-tuning"
        ]
        problems += [Problem(file, place, found, "false, or a study without it") for found in cannot]
    return problems
