"""The one door to put adapters on a base: new ones, saved ones, a user's own, or given as factors.

    with attach(base, NewAdapter(arm, seed)) as pack: ...                          # to train
    with attach(base, SavedAdapter(folder)) as pack: ...                           # to score
    with attach(base, *(NewAdapter(arm, seed) for arm in arms)) as pack: ...       # LoRA arms that train together

Afterwards the base is what it was, bit for bit. How each method is put on stands in the files `*_modules.py` of this
folder, which are found by listing it.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel
from torch import nn
from transformers import PreTrainedModel

from rankscope.model import methods
from rankscope.model.attention.unpadded_rows import TrainingForward, padded_forward, training_forward
from rankscope.model.load import LoadedModel
from rankscope.model.methods.installed import Installed, MethodModules, PlainBase, plain_again
from rankscope.model.methods.packed_linear import PackedLinear, Running
from rankscope.model.methods.packed_lora import new_factors, put_factors_on, save_packed
from rankscope.model.methods.peft_folder import Factors, plain_factors, read_peft_config
from rankscope.model.methods.virtual_tokens_modules import virtual_tokens
from rankscope.study.methods import Arm
from rankscope.study.problems import InputProblems, Problem


@dataclass(frozen=True)
class NewAdapter:
    """An arm that is to be trained; torch is seeded before it is created. Methods that train the base's own weights
    change the base for good: hand them a model of its own."""

    arm: Arm
    seed: int


@dataclass(frozen=True)
class SavedAdapter:
    """What `Adapted.save` wrote for `arm`; without an arm any folder of a user's, which is looked at more closely."""

    folder: Path
    arm: Arm | None = None


@dataclass(frozen=True)
class GivenFactors:
    """Factors of a low-rank update by module, which are copied."""

    factors: Factors
    arm: Arm | None = None


SUMMED_BYTES = 64 << 20
"""Of weights that are copied with an update added, at most: on larger models the update's products are a small share,
and no plan counts the copies."""

AnyAdapter = NewAdapter | SavedAdapter | GivenFactors


@dataclass(frozen=True)
class Adapted:
    """One adapter in place on a base.

    `model` is the inner transformers model, whose modules carry the adapter: whatever runs it runs the arm.
    """

    model: PreTrainedModel
    arm: Arm | None
    _installed: Installed
    _base: PlainBase | None = None

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """What is trained, by name."""
        return self._installed.parameters

    @property
    def trainable_parameters(self) -> int:
        """How many numbers are trained."""
        return sum(p.numel() for p in self.parameters.values())

    @property
    def peft(self) -> PeftModel | None:
        """PEFT's own wrapper, where its layers are in the model: for merging, and to compare with."""
        return self._installed.peft

    @property
    def has_adapter(self) -> bool:
        """Whether there is something that can be switched off: not where the base's own weights are trained."""
        return self._installed.off is not None

    def off(self) -> AbstractContextManager[Any]:
        """Inside, the model is the plain base again. Where the base's own weights are trained, nothing is switched."""
        return nullcontext() if self._installed.off is None else self._installed.off()

    def training_forward(self) -> TrainingForward:
        """How the model computes the states that predict completions; virtual tokens need rows that are padded."""
        return padded_forward(self.model) if virtual_tokens(self.model) else training_forward(self.model)

    def save(self, folder: Path) -> None:
        """The adapter in PEFT's own format where PEFT has the method, or the whole model; all as safetensors.

        `folder` is made by the caller.
        """
        self._installed.save(folder)

    def merged(self) -> PreTrainedModel:
        """The adapter added into the base's weights, which stay changed. Raises InputProblems where it is no weight."""
        if self._installed.merge is None or self._base is None:
            raise InputProblems([unmergeable(self.arm)])
        self._base.given_up = True
        return self._installed.merge()


def unmergeable(arm: Arm | None) -> Problem:
    """What is said of an arm that no plain model can hold."""
    label, title = ("adapter", "it") if arm is None else (arm.label, arm.method)
    found = f"{label}: {title} adds modules or tokens, not weights"
    return Problem("--merged", label, found, "the adapter, exported without --merged")


@dataclass(frozen=True)
class Pack:
    """Adapters in one model, `members` in the order in which they were asked for.

    A packed member's `parameters` are views of the factors that all share, the B transposed: (R, out).
    """

    model: PreTrainedModel
    members: list[Adapted]
    _running: Running | None = None

    def training_forward(self) -> TrainingForward:
        """As the members' own."""
        return self.members[0].training_forward()

    @contextmanager
    def summed(self) -> Iterator[None]:
        """Inside, where nothing is trained, one low-rank update on a small model in single precision is added to copies
        of the weights that it changes, and every forward is the plain model's: with many small batches the two narrow
        products of each layer take up to a fifth of the time. Of anything else nothing changes."""
        layers = [module for module in self.model.modules() if isinstance(module, PackedLinear)]
        sizes = [layer.sum_bytes for layer in layers if layer.by_arm[0] is not None]
        small = len(self.members) == 1 and None not in sizes and sum(filter(None, sizes)) <= SUMMED_BYTES
        with ExitStack() as held:
            for layer in layers if small else ():
                if layer.by_arm[0] is not None:
                    held.enter_context(layer.summed())
            yield

    @contextmanager
    def running(self, arms: Sequence[int]) -> Iterator[None]:
        """Inside, a forward pass takes the rows of these members, one member's after another's."""
        with nullcontext() if self._running is None else self._running.only(arms):
            yield


@functools.cache
def method_modules() -> dict[str, MethodModules]:
    """How each method is put on a model, by its name."""
    found: dict[str, MethodModules] = {}
    for name in sorted(module.name for module in pkgutil.iter_modules(methods.__path__)):
        if name.endswith("_modules"):
            found |= importlib.import_module(f"{methods.__name__}.{name}").MODULES
    return found


@contextmanager
def attach(
    base: LoadedModel, *adapters: AnyAdapter, packed: bool = True, grouped: bool | None = None
) -> Iterator[Pack]:
    """The adapters on this base, which is plain again afterwards.

    What is a low-rank update and nothing else is packed: any number of such adapters share a forward, and their numbers
    take fewer passes than PEFT's layers do. `packed=False` puts one adapter on as PEFT does, to merge it or to compare.
    `grouped`: as `put_factors_on` has it.

    Raises ValueError for several adapters of which one cannot be packed; InputProblems for a folder that holds no
    adapter, none that can be used exactly, or one that was made for another base; and BaseChanged afterwards, should a
    weight of the base have been written to.
    """
    model, first = base.model, adapters[0]
    if isinstance(first, NewAdapter):
        if first.arm.traits.whole and len(adapters) == 1:
            yield Pack(model, [Adapted(model, first.arm, method_modules()[first.arm.method].put_on(model, first.arm))])
            return
        training_forward(model)  # decided on the plain base, which takes any number of rows
    started = [_factors_of(model, adapter) if packed else None for adapter in adapters]
    if len(adapters) > 1 and None in started:
        raise ValueError("only LoRA and rsLoRA arms without dropout can be packed")
    with plain_again(model) as plain:
        if started[0] is None:
            yield Pack(model, [Adapted(model, _arm(first), _put_on(model, first), plain)])
            return
        begun = [one for one in started if one is not None]
        running, parameters = put_factors_on(model, [one.factors for one in begun], grouped=grouped)
        pack = Pack(model, [], running)
        for adapter, own, one in zip(adapters, parameters, begun, strict=True):
            made = Installed(own, partial(save_packed, own, one.config), partial(running.only, ()))
            pack.members.append(Adapted(model, _arm(adapter), made, plain))
        yield pack


def _arm(adapter: AnyAdapter) -> Arm | None:
    return adapter.arm


@dataclass(frozen=True)
class _Started:
    """Factors to begin with, and PEFT's settings of a new adapter, to be saved with it."""

    factors: Factors
    config: LoraConfig | None = None


def _factors_of(model: PreTrainedModel, adapter: AnyAdapter) -> _Started | None:
    """None for an adapter that cannot be packed."""
    match adapter:
        case NewAdapter(arm, seed):
            if not arm.traits.can_pack(arm):
                return None
            with plain_again(model):
                return _Started(*new_factors(_new(model, arm, seed), model))
        case SavedAdapter(folder, arm):
            factors = plain_factors(model, folder)
            if factors is not None and arm is None:
                with plain_again(model):  # PEFT's layers tell whether it was made for this model
                    _loaded(model, adapter)
            return None if factors is None else _Started(factors)
        case GivenFactors(factors):
            return _Started(factors)


def _put_on(model: PreTrainedModel, adapter: AnyAdapter) -> Installed:
    if isinstance(adapter, NewAdapter):
        return _new(model, adapter.arm, adapter.seed)
    if isinstance(adapter, SavedAdapter):
        return _loaded(model, adapter)
    raise ValueError("factors are put on packed")


def _new(model: PreTrainedModel, arm: Arm, seed: int) -> Installed:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return method_modules()[arm.method].put_on(model, arm)


def _loaded(model: PreTrainedModel, adapter: SavedAdapter) -> Installed:
    """By the method of its arm, or by the first that can read the folder."""
    folder, known = adapter.folder, method_modules()
    readers = [known[adapter.arm.method]] if adapter.arm is not None else [m for m in known.values() if m.reads(folder)]
    for reader in readers:
        if reader.load is not None:
            return reader.load(model, folder)
    read_peft_config(folder)  # says why not
    raise InputProblems([Problem(str(folder), "adapter", "a kind that no method reads", "an adapter of PEFT's")])
