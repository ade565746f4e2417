"""The methods whose layers PEFT puts into a model's modules: LoRA, rsLoRA, DoRA, PiSSA, IA3 and LN tuning.

PiSSA (arXiv 2404.02948) trains B A from the weight's largest singular vectors, B0 A0, beside the frozen rest
W0 - B0 A0. PEFT takes that rest as the base's weight, so that the model without its adapter is no longer the base. Here
the base stays, and the start is a second adapter that is frozen and subtracted: W0 + (B A - B0 A0) scale, the same sum.
It is saved as the one plain LoRA that it is, of twice the rank, which loads on the plain base.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import IA3Config, LNTuningConfig, LoraConfig, PeftModel, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from rankscope.model.decoder_parts import norms
from rankscope.model.load import linear_shapes
from rankscope.model.methods.installed import Installed, MethodModules, never_put_on
from rankscope.model.methods.peft_folder import installed, load_peft, reads_peft, wrapped
from rankscope.study.methods import Arm
from rankscope.study.methods.scaling_method import ia3_modules

_SETTINGS: dict[str, dict[str, Any]] = {
    "lora": {},
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "pissa": {"init_lora_weights": "pissa"},
}
"""What PEFT's settings of each low-rank method have beside LoRA's."""

_IN_MODULES = ("LORA", "ADALORA", "VERA", "IA3", "LN_TUNING", "LOHA", "LOKR", "OFT", "BOFT", "HRA")


def lora_config(arm: Arm, model: PreTrainedModel | None = None) -> LoraConfig:
    """PEFT's settings of a low-rank arm (arXiv 2106.09685): update B A alpha/r, A uniform, B zero, no biases.

    rslora has the scale alpha/sqrt(r), dora a trained length for each row, pissa another start.
    """
    targets: list[str] | str | None = list(arm.targets) if isinstance(arm.targets, tuple) else arm.targets
    if targets == "all-linear" and model is not None:
        # Named one by one: of a mixture of experts PEFT's own `all-linear` adapts the fused experts too, at a multiple
        # of the rank, which would be another arm than in a dense model.
        targets = list(linear_shapes(model))
    return LoraConfig(
        r=arm.rank, lora_alpha=arm.alpha, target_modules=targets, lora_dropout=arm.dropout, bias="none",
        task_type="CAUSAL_LM", fan_in_fan_out=model is not None and _has_conv1d(model), **_SETTINGS[arm.method],
    )  # fmt: skip


def _has_conv1d(model: PreTrainedModel) -> bool:
    return any(isinstance(module, Conv1D) for module in model.modules())


def put_lora_on(model: PreTrainedModel, arm: Arm) -> Installed:
    """A new low-rank adapter that PEFT draws."""
    return installed(wrapped(model, lora_config(arm, model)))


def _put_ia3_on(model: PreTrainedModel, arm: Arm) -> Installed:
    outputs, inputs = ia3_modules(linear_shapes(model))
    config = IA3Config(
        target_modules=[*outputs, *inputs], feedforward_modules=inputs, task_type="CAUSAL_LM",
        fan_in_fan_out=_has_conv1d(model),
    )  # fmt: skip
    return installed(wrapped(model, config))


def _put_ln_tuning_on(model: PreTrainedModel, arm: Arm) -> Installed:
    return installed(wrapped(model, LNTuningConfig(target_modules=list(norms(model)), task_type="CAUSAL_LM")))


# ---- PiSSA -----------------------------------------------------------------------------------------------------------

TRAINED, START = "default", "start"


@torch.no_grad()
def _put_pissa_on(model: PreTrainedModel, arm: Arm) -> Installed:
    """PEFT's PiSSA adapter and the frozen start beside it; the model's weights are what they were."""
    config = lora_config(arm, model)
    weights: dict[str, Tensor] = {name: parameter.data for name, parameter in model.named_parameters()}
    peft = wrapped(model, config)
    for name, parameter in model.named_parameters():
        plain = name.replace(".base_layer.", ".")
        if plain in weights and parameter.data_ptr() != weights[plain].data_ptr():
            parameter.data = weights[plain]
    start = copy.deepcopy(config)
    start.init_lora_weights = True
    start.lora_dropout = 0.0
    peft.add_adapter(START, start, autocast_adapter_dtype=False)
    for layer in _layers(peft):
        dtype = layer.get_base_layer().weight.dtype
        for adapters in (layer.lora_A, layer.lora_B):
            adapters[TRAINED].weight.data = adapters[TRAINED].weight.data.to(dtype).contiguous()
        layer.lora_A[START].weight.copy_(layer.lora_A[TRAINED].weight)
        layer.lora_B[START].weight.copy_(-layer.lora_B[TRAINED].weight)
    peft.base_model.set_adapter([TRAINED, START])
    _freeze_start(peft)
    made = installed(peft)
    return replace(made, off=partial(_pissa_off, peft), save=partial(_save_pissa, peft))


@contextmanager
def _pissa_off(peft: PeftModel) -> Iterator[None]:
    with peft.disable_adapter():
        yield
    _freeze_start(peft)


def _freeze_start(peft: PeftModel) -> None:
    """PEFT makes every active adapter trainable whenever adapters are switched on again."""
    for layer in _layers(peft):
        layer.lora_A[START].requires_grad_(False)
        layer.lora_B[START].requires_grad_(False)


def _save_pissa(peft: PeftModel, folder: Path) -> None:
    """[B, -B0] [A; A0] as a plain LoRA of twice the rank and twice alpha, so with the same scale."""
    trained, start = (get_peft_model_state_dict(peft, adapter_name=name) for name in (TRAINED, START))
    tensors = {
        key: torch.cat([trained[key], start[key]], 0 if "lora_A" in key else 1).cpu().contiguous() for key in trained
    }
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = copy.deepcopy(peft.peft_config[TRAINED])
    config.init_lora_weights, config.inference_mode = True, True
    config.r, config.lora_alpha = 2 * config.r, 2 * config.lora_alpha
    config.base_model_name_or_path = config.base_model_name_or_path or peft.base_model.model.name_or_path or None
    config.save_pretrained(str(folder))


def _layers(peft: PeftModel) -> list[LoraLayer]:
    return [module for module in peft.modules() if isinstance(module, LoraLayer)]


def _reads(folder: Path) -> bool:
    return reads_peft(folder, _IN_MODULES)


MODULES = {
    **{method: MethodModules(put_lora_on, load_peft, _reads) for method in ("lora", "rslora", "dora")},
    "given-adapters": MethodModules(never_put_on, load_peft, _reads),
    "pissa": MethodModules(_put_pissa_on, load_peft, _reads),
    "ia3": MethodModules(_put_ia3_on, load_peft, _reads),
    "ln-tuning": MethodModules(_put_ln_tuning_on, load_peft, _reads),
}
