"""From a frozen base to an arm: the only file that tells full fine-tuning from LoRA from the rest."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model
from torch import nn
from transformers import PreTrainedModel

from rankscope.model.attention.unpadded_rows import TrainingForward, padded_forward, training_forward
from rankscope.model.decoder_parts import blocks, text_config, vocabulary_parameters
from rankscope.model.load import LoadedModel, no_progress_bars
from rankscope.model.methods.bottleneck_modules import Bottlenecks, load_bottlenecks
from rankscope.model.methods.peft_configs import lora_config, peft_config
from rankscope.model.methods.pissa import freeze_start, make_pissa, save_pissa
from rankscope.model.methods.virtual_tokens import VirtualTokens, drawn_prefix
from rankscope.study.problems import InputProblems, Problem
from rankscope.study.study import Arm

__all__ = ["Adapted", "adapt", "load_adapter", "lora_config", "unmergeable"]


@dataclass
class Adapted:
    """A base with an arm's trainable parameters in place.

    `model` is the inner transformers model, whose modules carry the adapter: whatever runs it runs the arm. `peft`
    wraps it for the methods that PEFT has, and is None for the others; only its own files and merging go through it.
    """

    arm: Arm
    model: PreTrainedModel
    peft: PeftModel | None
    parameters: dict[str, nn.Parameter]
    _off: Callable[[], AbstractContextManager[Any]] = nullcontext
    _write: Callable[[Path], None] | None = None
    _remove: Callable[[], None] = field(default=lambda: None)

    @property
    def trainable_parameters(self) -> int:
        return sum(p.numel() for p in self.parameters.values())

    @property
    def has_adapter(self) -> bool:
        """Whether there is something that can be switched off: not where the base's own weights are trained."""
        return not self.arm.traits.whole

    def off(self) -> AbstractContextManager[Any]:
        """Inside, the model is the plain base again. Where the base's own weights are trained, nothing is switched."""
        return self._off()

    def training_forward(self) -> TrainingForward:
        """How the model computes the states that predict completions; virtual tokens need rows that are padded."""
        return padded_forward(self.model) if self.arm.traits.virtual_tokens(self.arm) else training_forward(self.model)

    def save(self, folder: Path) -> None:
        """The adapter in PEFT's own format (ours for `adapters`), or the whole model; all as safetensors.

        `folder` is made by the caller.
        """
        if self._write is not None:
            self._write(folder)
        elif self.peft is not None:
            self.peft.save_pretrained(str(folder), safe_serialization=True)
            (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty template; an export writes a real card
        else:
            with no_progress_bars():
                self.model.save_pretrained(str(folder), safe_serialization=True)

    def merged(self) -> PreTrainedModel:
        """The adapter added into the base's weights, which stay changed. Raises InputProblems where it is no weight."""
        if not self.arm.traits.merges or self.peft is None:
            raise InputProblems([unmergeable(self.arm)])
        return self.peft.merge_and_unload()


def unmergeable(arm: Arm) -> Problem:
    """What is said of an arm that no plain model can hold."""
    found = f"{arm.label}: {arm.method} adds modules or tokens, not weights"
    return Problem("--merged", arm.label, found, "the adapter, exported without --merged")


@contextmanager
def adapt(base: LoadedModel, arm: Arm, seed: int) -> Iterator[Adapted]:
    """The arm on this base; afterwards an adapter's base is plain again. The seed is set before the adapter is created.

    Methods that train the base's own weights (`arm.traits.whole`) change `base` for good: hand them a model of its own.
    """
    if arm.traits.whole:
        yield _whole(base.model, arm)
        return
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        try:
            with _quiet_peft():
                adapted = _new(base.model, arm)
        except BaseException:
            _unload(base.model)
            raise
    yield from _in_place(base, adapted)


@contextmanager
def load_adapter(base: LoadedModel, arm: Arm, folder: Path) -> Iterator[Adapted]:
    """A saved adapter on its base, as it was scored; the base is plain again afterwards.

    Raises InputProblems where the adapter does not fit the base.
    """
    if arm.method == "adapters":
        yield from _in_place(base, _bottlenecks(arm, base.model, load_bottlenecks(base.model, folder)))
        return
    try:
        with _quiet_peft():
            peft = PeftModel.from_pretrained(base.model, str(folder), autocast_adapter_dtype=False)
    except (RuntimeError, ValueError) as error:
        _unload(base.model)
        raise InputProblems([_misfit(folder, base, str(error))]) from error
    if peft.peft_config["default"].is_prompt_learning:
        width, own = peft.prompt_encoder["default"].embedding.weight.shape[1], text_config(base.model).hidden_size
        if arm.method == "prompt-tuning" and width != own:
            raise InputProblems([_misfit(folder, base, f"virtual tokens of width {width}, for a model of width {own}")])
        yield from _in_place(base, _prompted(arm, base.model, peft))
        return
    yield from _in_place(base, _peft(arm, base.model, peft))


@contextmanager
def _quiet_peft() -> Iterator[None]:
    """Without what PEFT says to us rather than to the user."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # it asks transformers by a name that will be dropped
        warnings.filterwarnings("ignore", "Unsupported layer type", UserWarning)  # norms, which have no in and out
        warnings.filterwarnings("ignore", "PiSSA changes the base weights", UserWarning)  # ours does not
        yield


def _in_place(base: LoadedModel, adapted: Adapted) -> Iterator[Adapted]:
    try:
        yield adapted
    finally:
        adapted._remove()
        base.model.requires_grad_(False)


def _whole(model: PreTrainedModel, arm: Arm) -> Adapted:
    """Full fine-tuning, or a part of it: every other weight is frozen."""
    model.requires_grad_(arm.method != "last-k-layers")
    if arm.method == "full-frozen-embeddings":
        for parameter in vocabulary_parameters(model):
            parameter.requires_grad_(False)
    elif arm.method == "last-k-layers":
        for block in list(blocks(model))[-arm.setting("layers") :]:
            block.requires_grad_(True)
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}  # a tied weight stands once
    return Adapted(arm=arm, model=model, peft=None, parameters=parameters)


def _new(model: PreTrainedModel, arm: Arm) -> Adapted:
    """A new adapter; torch's generator is seeded."""
    match arm.method:
        case "adapters":
            return _bottlenecks(arm, model, Bottlenecks(model, arm.setting("bottleneck")))
        case "prompt-tuning" | "prefix-tuning":
            started = drawn_prefix(model, arm.setting("virtual_tokens")) if arm.method == "prefix-tuning" else None
            peft = get_peft_model(model, peft_config(arm, model), autocast_adapter_dtype=False)
            if started is not None:
                peft.prompt_encoder["default"].load_prompt_embeddings(started)
            return _prompted(arm, model, peft)
        case "pissa":
            return _peft(arm, model, make_pissa(model, lora_config(arm, model)))
        case _:
            return _peft(arm, model, get_peft_model(model, peft_config(arm, model), autocast_adapter_dtype=False))


def _peft(arm: Arm, model: PreTrainedModel, peft: PeftModel) -> Adapted:
    """An adapter of PEFT that lives in the model's modules."""
    adapted = Adapted(arm=arm, model=model, peft=peft, parameters=_trained(peft))
    adapted._off = peft.disable_adapter
    adapted._remove = peft.unload
    if arm.method == "pissa" and len(peft.peft_config) > 1:
        adapted._off = lambda: _pissa_off(peft)
        adapted._write = lambda folder: save_pissa(peft, folder)
    return adapted


@contextmanager
def _pissa_off(peft: PeftModel) -> Iterator[None]:
    with peft.disable_adapter():
        yield
    freeze_start(peft)


def _prompted(arm: Arm, model: PreTrainedModel, peft: PeftModel) -> Adapted:
    """PEFT holds the parameters of virtual tokens; the model itself puts them before every sequence."""
    weight = peft.prompt_encoder["default"].embedding.weight
    tokens = VirtualTokens(model, weight, prefix=arm.method == "prefix-tuning")
    tokens.install()
    return Adapted(
        arm=arm, model=model, peft=peft, parameters={"embedding.weight": weight}, _off=tokens.off, _remove=tokens.remove
    )


def _bottlenecks(arm: Arm, model: PreTrainedModel, made: Bottlenecks) -> Adapted:
    return Adapted(
        arm=arm, model=model, peft=None, parameters=made.parameters, _off=made.off, _write=made.save,
        _remove=made.remove,
    )  # fmt: skip


def _trained(peft: PeftModel) -> dict[str, nn.Parameter]:
    return {name: p for name, p in peft.named_parameters() if p.requires_grad}


def _misfit(folder: Path, base: LoadedModel, message: str) -> Problem:
    """What does not fit: of PEFT's message the first shape that differs."""
    lines = [line.strip() for line in message.splitlines() if "size mismatch" in line] or [message.strip()]
    expected = f"an adapter made for {base.model.config.name_or_path or type(base.model).__name__}"
    return Problem(str(folder), "adapter", lines[0].splitlines()[0][:200], expected)


def _unload(model: PreTrainedModel) -> None:
    """Take out what PEFT put into the model before it failed."""
    for name, module in list(model.named_modules()):
        if hasattr(module, "base_layer"):
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, module.base_layer)
