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
from torch import Tensor, nn
from transformers import PreTrainedModel

from rankscope.config.study import Arm
from rankscope.model.adapt import Adapted, adapt
from rankscope.model.load import LoadedModel
from rankscope.model.low_rank import PackedLinear, Running
from rankscope.model.ragged import TokenPath, token_path_of

_A, _B = ".lora_A.default.weight", ".lora_B.default.weight"


@dataclass
class Pack:
    """Arms in one model, `members` in the order in which they were asked for.

    A packed member's `parameters` are views of the factors that all arms share, the B transposed: (R, out).
    """

    model: PreTrainedModel
    members: list[Adapted]
    _running: Running | None = None

    def token_path(self) -> TokenPath:
        return self.members[0].token_path()

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

    `grouped` (on CUDA unless given): one kernel for the products of all arms, else one product for each arm.
    Raises ValueError for several arms of which one cannot be packed.
    """
    if not all(can_pack(arm) for arm in arms):
        if len(arms) > 1:
            raise ValueError("only LoRA and rsLoRA arms without dropout can be packed")
        with adapt(base, arms[0], seed) as adapted:
            yield Pack(model=base.model, members=[adapted])
        return
    token_path_of(base.model)  # decided on the plain base, which takes any number of rows
    started = [_start(base, arm, seed) for arm in arms]
    by_kernel = base.model.device.type == "cuda" if grouped is None else grouped
    running = Running(arms=tuple(range(len(arms))), grouped=by_kernel)
    pack = Pack(model=base.model, members=[], _running=running)
    with ExitStack() as stack:
        parameters: list[dict[str, nn.Parameter]] = [{} for _ in arms]
        for module in dict.fromkeys(name for start in started for name in start.factors):
            stack.callback(_put_in(module, started, pack, parameters))
        for arm, start, own in zip(arms, started, parameters, strict=True):
            write = partial(_write, own, start.config)
            pack.members.append(Adapted(arm, base.model, None, own, _off=partial(pack.running, ()), _write=write))
        yield pack


@dataclass(frozen=True)
class _Start:
    """A new adapter's factors by module path, (R, in) and (out, R), PEFT's settings and the scale of its update."""

    factors: dict[str, tuple[Tensor, Tensor]]
    config: LoraConfig
    scale: float


def _start(base: LoadedModel, arm: Arm, seed: int) -> _Start:
    """PEFT makes it, so that the draw is PEFT's."""
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
        factors = {name: (held[prefix + name + _A], held[prefix + name + _B]) for name in names}
        return _Start(factors, config, scale)


def _put_in(
    module: str, started: Sequence[_Start], pack: Pack, parameters: list[dict[str, nn.Parameter]]
) -> Callable[[], None]:
    """One adapted layer; gives what puts the plain one back."""
    path, _, name = module.rpartition(".")
    parent, plain = pack.model.get_submodule(path), pack.model.get_submodule(module)
    assert pack._running is not None
    pairs = [start.factors.get(module) for start in started]
    factors = [None if pair is None else (*pair, start.scale) for pair, start in zip(pairs, started, strict=True)]
    layer = PackedLinear(plain, pack._running, factors)
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
