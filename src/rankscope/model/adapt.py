"""From a frozen base to an arm: the only file that tells full fine-tuning from LoRA."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import PreTrainedModel

from rankscope.config.study import Arm
from rankscope.model.load import LoadedModel, no_progress_bars


@dataclass
class Adapted:
    """A base with an arm's trainable parameters in place.

    `model` is the inner transformers model, whose modules carry the adapter; `peft` wraps it for LoRA, None for full.
    """

    arm: Arm
    model: PreTrainedModel
    peft: PeftModel | None
    parameters: dict[str, nn.Parameter]

    @property
    def trainable_parameters(self) -> int:
        return sum(p.numel() for p in self.parameters.values())

    def off(self) -> AbstractContextManager[Any]:
        """Inside, the model is the plain base again. Full fine-tuning has no adapter to switch off."""
        return self.peft.disable_adapter() if self.peft is not None else nullcontext()

    def save(self, folder: Path) -> None:
        """The adapter in PEFT's own format, or the full model, both as safetensors. `folder` is made by the caller."""
        if self.peft is not None:
            self.peft.save_pretrained(str(folder), safe_serialization=True)
            (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty template; an export writes a real card
        else:
            with no_progress_bars():
                self.model.save_pretrained(str(folder), safe_serialization=True)


@contextmanager
def adapt(base: LoadedModel, arm: Arm, seed: int) -> Iterator[Adapted]:
    """The arm on this base; afterwards a LoRA's base is plain again. The seed is set before the adapter is created.

    Full fine-tuning changes the weights of `base` for good: hand it a model of its own.
    """
    if arm.method == "full":
        base.model.requires_grad_(True)
        parameters = dict(base.model.named_parameters())  # a tied weight stands once
        yield Adapted(arm=arm, model=base.model, peft=None, parameters=parameters)
        return
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # PEFT asks transformers by a name that it will drop
            peft = get_peft_model(base.model, lora_config(arm), autocast_adapter_dtype=False)
    try:
        yield _adapted(arm, base, peft)
    finally:
        peft.unload()
        base.model.requires_grad_(False)


@contextmanager
def load_adapter(base: LoadedModel, arm: Arm, folder: Path) -> Iterator[Adapted]:
    """A saved adapter on its base, as it was scored; the base is plain again afterwards."""
    peft = PeftModel.from_pretrained(base.model, str(folder), autocast_adapter_dtype=False)
    try:
        yield _adapted(arm, base, peft)
    finally:
        peft.unload()
        base.model.requires_grad_(False)


def _adapted(arm: Arm, base: LoadedModel, peft: PeftModel) -> Adapted:
    parameters = {name: p for name, p in peft.named_parameters() if p.requires_grad}
    return Adapted(arm=arm, model=base.model, peft=peft, parameters=parameters)


def lora_config(arm: Arm) -> LoraConfig:
    """PEFT's settings of a LoRA arm (arXiv 2106.09685): update B A alpha/r, A uniform, B zero, no biases."""
    assert arm.rank is not None
    assert arm.alpha is not None
    targets = list(arm.targets) if isinstance(arm.targets, tuple) else arm.targets
    return LoraConfig(
        r=arm.rank, lora_alpha=arm.alpha, target_modules=targets, lora_dropout=arm.dropout, bias="none",
        task_type="CAUSAL_LM",
    )  # fmt: skip
