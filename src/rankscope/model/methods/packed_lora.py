"""Arms that train together: LoRA arms of any ranks over one base, or one arm of any other method.

A packed arm is one more copy of the batch's rows, not of the base: embeddings, attention and norms see the rows of N
arms one after another, and every adapted linear layer adds to each arm's rows that arm's update (`low_rank.py`). So one
forward and one backward pass serve N arms, and no number of one arm depends on another but through rounding.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from peft import LoraConfig
from safetensors.torch import save_file
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from rankscope.model.attention.unpadded_rows import TrainingForward, training_forward
from rankscope.model.load import LoadedModel
from rankscope.model.methods.adapt import Adapted, adapt
from rankscope.model.methods.packed_linear import PackedLinear, Running
from rankscope.model.weights.adapter_file import read_adapter
from rankscope.model.weights.weight_delta import LowRank, matrices
from rankscope.study.problems import InputProblems
from rankscope.study.study import Arm

Factors = dict[str, LowRank]
"""An adapter's factors by module path."""

_A, _B = ".lora_A.default.weight", ".lora_B.default.weight"


@dataclass
class Pack:
    """Arms in one model, `members` in the order in which they were asked for.

    A packed member's `parameters` are views of the factors that all arms share, the B transposed: (R, out).
    """

    model: PreTrainedModel
    members: list[Adapted]
    _running: Running | None = None

    def training_forward(self) -> TrainingForward:
        return self.members[0].training_forward()

    @contextmanager
    def running(self, arms: Sequence[int]) -> Iterator[None]:
        """Inside, a forward pass takes the rows of these members, one member's after another's."""
        if self._running is None:
            yield
            return
        before, self._running.arms = self._running.arms, tuple(arms)
        try:
            yield
        finally:
            self._running.arms = before


def can_pack(arm: Arm) -> bool:
    """LoRA and rsLoRA, whose change is scale B A and nothing else; dropout draws a mask for each arm alone."""
    return arm.method in ("lora", "rslora") and arm.dropout == 0.0


@contextmanager
def open_pack(base: LoadedModel, arms: Sequence[Arm], seed: int, *, grouped: bool | None = None) -> Iterator[Pack]:
    """New adapters on this base, as `adapt` makes each alone; the base is plain again afterwards.

    `grouped` (unless given, where several arms run on CUDA): one kernel for the products of all arms, else one product
    for each arm. Raises ValueError for several arms of which one cannot be packed.
    """
    if not all(can_pack(arm) for arm in arms):
        if len(arms) > 1:
            raise ValueError("only LoRA and rsLoRA arms without dropout can be packed")
        with adapt(base, arms[0], seed) as adapted:
            yield Pack(model=base.model, members=[adapted])
        return
    training_forward(base.model)  # decided on the plain base, which takes any number of rows
    started = [_new_factors(base, arm, seed) for arm in arms]
    with open_factors(base, arms, [factors for factors, _ in started], grouped=grouped) as pack:
        for member, (_, config) in zip(pack.members, started, strict=True):
            member._write = partial(_write, member.parameters, config)
        yield pack


@contextmanager
def open_factors(
    base: LoadedModel, arms: Sequence[Arm], factors: Sequence[Factors], *, grouped: bool | None = None
) -> Iterator[Pack]:
    """Arms of these factors on this base, which is plain again afterwards. `grouped` as in `open_pack`."""
    by_kernel = base.model.device.type == "cuda" and len(arms) > 1 if grouped is None else grouped
    running = Running(arms=tuple(range(len(arms))), grouped=by_kernel)
    pack = Pack(model=base.model, members=[], _running=running)
    with ExitStack() as stack:
        parameters: list[dict[str, nn.Parameter]] = [{} for _ in arms]
        for module in dict.fromkeys(name for own in factors for name in own):
            stack.callback(_put_in(module, factors, pack, parameters))
        for arm, own in zip(arms, parameters, strict=True):
            pack.members.append(Adapted(arm, base.model, None, own, _off=partial(pack.running, ())))
        yield pack


def plain_factors(base: LoadedModel, folder: Path) -> Factors | None:
    """Of the adapter in `folder`; None where it is anything but scale B A on linear layers that the base has."""
    try:
        adapter = read_adapter(folder)
    except InputProblems:
        return None
    if adapter.notes or adapter.rest or adapter.embeddings:
        return None
    linear = {name: module for name, module in base.model.named_modules() if type(module) in (nn.Linear, Conv1D)}
    shapes = {name: tuple(weight.shape) for name, weight in matrices(base.model, linear).items()}
    if any(shapes.get(name) != delta.shape for name, delta in adapter.deltas.items()):
        return None
    return dict(adapter.deltas)


def _new_factors(base: LoadedModel, arm: Arm, seed: int) -> tuple[Factors, LoraConfig]:
    """Those of a new adapter, and PEFT's settings for it. PEFT makes it, so that the draw is PEFT's."""
    with adapt(base, arm, seed) as adapted:
        assert adapted.peft is not None
        config = copy.deepcopy(adapted.peft.peft_config["default"])
        config.base_model_name_or_path = base.model.name_or_path or None
        config.inference_mode = True
        held = {name: parameter.detach() for name, parameter in adapted.parameters.items()}
        assert isinstance(config, LoraConfig)
        scale = config.lora_alpha / (config.r**0.5 if config.use_rslora else config.r)
        prefix = "base_model.model."
        names = [name.removeprefix(prefix).removesuffix(_A) for name in held if name.endswith(_A)]
        return {name: LowRank(held[prefix + name + _A], held[prefix + name + _B], scale) for name in names}, config


def _put_in(
    module: str, factors: Sequence[Factors], pack: Pack, parameters: list[dict[str, nn.Parameter]]
) -> Callable[[], None]:
    """One adapted layer; gives what puts the plain one back."""
    path, _, name = module.rpartition(".")
    parent, plain = pack.model.get_submodule(path), pack.model.get_submodule(module)
    assert pack._running is not None
    like = pack.model.get_input_embeddings().weight
    given = [own.get(module) for own in factors]
    moved = [None if one is None else one.to(like) for one in given]
    layer = PackedLinear(plain, pack._running, moved)
    for own, slot in zip(parameters, layer.slots, strict=True):
        if slot is not None:
            own[f"base_model.model.{module}{_A}"], own[f"base_model.model.{module}{_B}"] = slot.down, slot.up
    setattr(parent, name, layer)
    return lambda: setattr(parent, name, plain)


def _write(parameters: dict[str, nn.Parameter], config: LoraConfig, folder: Path) -> None:
    """The adapter as PEFT saves it."""
    tensors = {
        name.replace(".default.", "."): (value.detach().T if name.endswith(_B) else value.detach()).cpu().contiguous()
        for name, value in parameters.items()
    }
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config.save_pretrained(str(folder))
