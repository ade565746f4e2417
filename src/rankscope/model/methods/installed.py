"""What a method puts on a model, and how the model becomes the plain base again afterwards.

Nothing that is put on takes itself off: `plain_again` notes every module, configuration and tensor of the base before,
puts all of it back after, and makes sure that no weight of the base was written to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from peft import PeftModel
from torch import Tensor, nn
from transformers import GenerationConfig, PretrainedConfig, PreTrainedModel

from rankscope.model.sharding.shard import own_part
from rankscope.study.methods import Arm


@dataclass(frozen=True)
class Installed:
    """What stands on a model: its trained parameters by name, and what can be done with it.

    `save` writes it into a folder that is there. `off`: inside, the model computes as the plain base; None where the
    base's own weights are trained. `merge` adds it into the base's weights for good and gives the plain model that this
    makes; None where no weight can hold it. `peft` is PEFT's own object, where PEFT put it there.
    """

    parameters: dict[str, nn.Parameter]
    save: Callable[[Path], None]
    off: Callable[[], AbstractContextManager[Any]] | None = None
    merge: Callable[[], PreTrainedModel] | None = None
    peft: PeftModel | None = None


class _PutOn(Protocol):
    def __call__(self, model: PreTrainedModel, arm: Arm) -> Installed: ...


class _Load(Protocol):
    def __call__(self, model: PreTrainedModel, folder: Path) -> Installed: ...


@dataclass(frozen=True)
class MethodModules:
    """How one method is put on a model, and loaded again; the files `*_modules.py` have one for each in `MODULES`.

    `put_on`: a new one; torch's generator is seeded. `load`: what `Installed.save` wrote into a folder; raises
    InputProblems where it does not fit the model; None where what is saved is a whole model. `reads`: whether a folder
    holds something that `load` takes.
    """

    put_on: _PutOn
    load: _Load | None = None
    reads: Callable[[Path], bool] = lambda folder: False


def never_put_on(model: PreTrainedModel, arm: Arm) -> Installed:
    """Of a method that is never trained, only loaded. Raises ValueError."""
    raise ValueError(f"{arm.label} was trained elsewhere, and is not trained here")


class BaseChanged(RuntimeError):
    """A weight of the base is not what it was before something was put on the model."""


class PlainBase:
    """The state of a model before anything is put on it. `given_up`: the base was changed on purpose and stays so."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.given_up = False
        self._objects = [_ObjectState(part) for part in [*model.modules(), *_configs(model)]]
        self._parameters = [_ParameterState(name, p) for name, p in model.named_parameters()]

    def restore(self) -> None:
        """Put everything back. Raises BaseChanged where a weight was written to, which cannot be undone."""
        if self.given_up:
            return
        for state in self._objects:
            state.restore()
        changed = [state.name for state in self._parameters if not state.restore()]
        if changed:
            raise BaseChanged(f"{len(changed)} weights of the base were changed, {changed[0]} the first")


@contextmanager
def plain_again(model: PreTrainedModel) -> Iterator[PlainBase]:
    """Inside, anything may be put on the model; afterwards it is what it was: the modules and their attributes, hooks
    and modes, the configurations, and the very tensors.

    Raises BaseChanged where a weight of the base was written to inside, unless it was `given_up`.
    """
    before = PlainBase(model)
    try:
        yield before
    finally:
        before.restore()


class _ObjectState:
    """The attributes of a module or a configuration, and what their dictionaries, lists and sets hold."""

    def __init__(self, part: Any) -> None:
        self._part = part
        self._attributes = dict(vars(part))
        self._held = [
            (value, value.copy()) for value in self._attributes.values() if isinstance(value, dict | list | set)
        ]

    def restore(self) -> None:
        vars(self._part).clear()
        vars(self._part).update(self._attributes)
        for value, content in self._held:
            value.clear()
            put_back = value.extend if isinstance(value, list) else value.update
            put_back(content)


def _configs(model: PreTrainedModel) -> list[Any]:
    """Every configuration that the model or a module of it holds, and those inside these, once each."""
    found: dict[int, Any] = {}
    waiting = [value for module in model.modules() for value in vars(module).values()]
    while waiting:
        value = waiting.pop()
        if isinstance(value, PretrainedConfig | GenerationConfig) and id(value) not in found:
            found[id(value)] = value
            waiting += vars(value).values()
    return list(found.values())


class _ParameterState:
    """A parameter's storage and flags. torch counts the writes to a tensor in its version."""

    def __init__(self, name: str, parameter: nn.Parameter) -> None:
        self.name = name
        self._parameter, self._data = parameter, own_part(parameter.data)
        self._held = parameter.data
        self._wants_gradient, self._had_gradient = parameter.requires_grad, parameter.grad is not None
        self._version = parameter._version

    def restore(self) -> bool:
        """Whether the storage is the one that it was, not written to through this parameter."""
        parameter, untouched = self._parameter, self._parameter._version == self._version
        if own_part(parameter.data).data_ptr() != self._data.data_ptr():
            parameter.data = self._held
        parameter.requires_grad_(self._wants_gradient)
        if not self._had_gradient:
            parameter.grad = None
        return untouched


class Replaced:
    """Parameters in whose place others stand, the originals untouched: what an adapter file brings of the base's own.

    `values` by the names of the model's parameters, which are all there and have these shapes. A parameter that is tied
    is replaced wherever it stands.
    """

    def __init__(self, model: PreTrainedModel, values: Mapping[str, Tensor]) -> None:
        self._places: list[tuple[nn.Module, str, nn.Parameter, nn.Parameter]] = []
        for name, value in values.items():
            original = model.get_parameter(name)
            new = nn.Parameter(value.to(original), requires_grad=False)
            self._places += [
                (module, key, original, new)
                for module in model.modules()
                for key, parameter in module._parameters.items()
                if parameter is original
            ]
        self._put(new=True)

    def _put(self, *, new: bool) -> None:
        for module, key, original, replacement in self._places:
            module._parameters[key] = replacement if new else original

    @contextmanager
    def off(self) -> Iterator[None]:
        """Inside, the originals stand in their places."""
        self._put(new=False)
        try:
            yield
        finally:
            self._put(new=True)
