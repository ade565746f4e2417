"""What a study asks of the machine and of the models' architectures, and who cannot do it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from rankscope.config.problems import Problem
from rankscope.config.study import Study
from rankscope.records import MachineFacts, ModelFacts

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
