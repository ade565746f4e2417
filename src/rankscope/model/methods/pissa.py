"""PiSSA (arXiv 2404.02948) without touching the base.

PiSSA trains B A from the weight's largest singular vectors, B0 A0, beside the frozen rest W0 - B0 A0. PEFT takes that
rest as the base's weight, so that the model without its adapter is no longer the base. Here the base stays, and the
start is a second adapter that is frozen and subtracted: W0 + (B A - B0 A0) scale, the same sum. It is saved as the one
plain LoRA that it is, of twice the rank, which loads on the plain base.
"""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel

TRAINED, START = "default", "start"


@torch.no_grad()
def make_pissa(model: PreTrainedModel, config: LoraConfig) -> PeftModel:
    """The model with PEFT's PiSSA adapter and the frozen start beside it; the model's weights are what they were."""
    weights: dict[str, Tensor] = {name: parameter.data for name, parameter in model.named_parameters()}
    peft = get_peft_model(model, config, autocast_adapter_dtype=False)
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
    freeze_start(peft)
    return peft


def freeze_start(peft: PeftModel) -> None:
    """PEFT makes every active adapter trainable whenever adapters are switched on again."""
    for layer in _layers(peft):
        layer.lora_A[START].requires_grad_(False)
        layer.lora_B[START].requires_grad_(False)


def save_pissa(peft: PeftModel, folder: Path) -> None:
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
