"""PEFT's settings of the arms whose method PEFT has."""

from __future__ import annotations

from peft import (
    IA3Config,
    LNTuningConfig,
    LoraConfig,
    PeftConfig,
    PrefixTuningConfig,
    PromptTuningConfig,
    PromptTuningInit,
)
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from rankscope.model.decoder_parts import norms
from rankscope.model.load import linear_shapes
from rankscope.study.methods.scaling_method import ia3_modules
from rankscope.study.study import Arm


def peft_config(arm: Arm, model: PreTrainedModel) -> PeftConfig:
    """PEFT's settings of an arm whose method PEFT has."""
    match arm.method:
        case "ia3":
            outputs, inputs = ia3_modules(linear_shapes(model))
            return IA3Config(
                target_modules=[*outputs, *inputs], feedforward_modules=inputs, task_type="CAUSAL_LM",
                fan_in_fan_out=_has_conv1d(model),
            )  # fmt: skip
        case "ln-tuning":
            return LNTuningConfig(target_modules=list(norms(model)), task_type="CAUSAL_LM")
        case "prompt-tuning":
            return PromptTuningConfig(
                num_virtual_tokens=arm.setting("virtual_tokens"), prompt_tuning_init=PromptTuningInit.SAMPLE_VOCAB,
                task_type="CAUSAL_LM",
            )  # fmt: skip
        case "prefix-tuning":
            return PrefixTuningConfig(num_virtual_tokens=arm.setting("virtual_tokens"), task_type="CAUSAL_LM")
        case _:
            return lora_config(arm, model)


def lora_config(arm: Arm, model: PreTrainedModel | None = None) -> LoraConfig:
    """PEFT's settings of a LoRA arm (arXiv 2106.09685): update B A alpha/r, A uniform, B zero, no biases.

    rslora has the scale alpha/sqrt(r), dora a trained length for each row, pissa another start.
    """
    assert arm.rank is not None
    assert arm.alpha is not None
    targets: list[str] | str | None = list(arm.targets) if isinstance(arm.targets, tuple) else arm.targets
    if targets == "all-linear" and model is not None:
        # Named one by one: of a mixture of experts PEFT's own `all-linear` adapts the fused experts too, at a multiple
        # of the rank, which would be another arm than in a dense model.
        targets = list(linear_shapes(model))
    return LoraConfig(
        r=arm.rank, lora_alpha=arm.alpha, target_modules=targets, lora_dropout=arm.dropout, bias="none",
        task_type="CAUSAL_LM", use_rslora=arm.method == "rslora", use_dora=arm.method == "dora",
        init_lora_weights="pissa" if arm.method == "pissa" else True,
        fan_in_fan_out=model is not None and _has_conv1d(model),
    )  # fmt: skip


def _has_conv1d(model: PreTrainedModel) -> bool:
    return any(isinstance(module, Conv1D) for module in model.modules())
