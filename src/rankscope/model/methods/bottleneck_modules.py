"""Bottleneck adapters (arXiv 1902.00751), one after the feed-forward of every block (arXiv 2005.00247, section 3).

PEFT has none. h becomes h + U gelu(D h + d) + u, with D (m, hidden) and U (hidden, m); U and u start at zero, so that
a new adapter changes nothing. They act on states, not on a weight, so no merged export is possible.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from rankscope.model.decoder_parts import blocks, feed_forward_name, text_config
from rankscope.model.methods.installed import Installed, MethodModules
from rankscope.study.methods import Arm
from rankscope.study.problems import InputProblems, Problem

WEIGHTS_FILE = "bottleneck.safetensors"
SETTINGS_FILE = "bottleneck.json"
_FORMAT_VERSION = 1


class Bottleneck(nn.Module):
    """A feed-forward with an adapter after it. Both projections draw from torch's global generator, which is seeded."""

    def __init__(self, wrapped: nn.Module, width: int, units: int, like: Tensor) -> None:
        super().__init__()
        self.wrapped = wrapped
        self.down = nn.Linear(width, units).to(like.device, like.dtype)
        self.up = nn.Linear(units, width).to(like.device, like.dtype)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)
        self.active = True

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        output = self.wrapped(*args, **kwargs)
        if not self.active:
            return output
        if isinstance(output, tuple):  # a mixture of experts may give its router's scores too
            return (self._after(output[0]), *output[1:])
        return self._after(output)

    def _after(self, states: Tensor) -> Tensor:
        return states + self.up(nn.functional.gelu(self.down(states)))


class Bottlenecks:
    """The adapters of a model, which stand in the places of its feed-forwards."""

    def __init__(self, model: PreTrainedModel, units: int) -> None:
        self.units = units
        self._model = model
        self.modules: list[Bottleneck] = []
        width, like = text_config(model).hidden_size, next(model.parameters())
        for block in blocks(model):
            name = feed_forward_name(block)
            adapter = Bottleneck(getattr(block, name), width, units, like)
            adapter.train(model.training)
            self.modules.append(adapter)
            setattr(block, name, adapter)

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """By block and projection: `0.down.weight`."""
        return {
            f"{i}.{projection}.{name}": parameter
            for i, adapter in enumerate(self.modules)
            for projection in ("down", "up")
            for name, parameter in getattr(adapter, projection).named_parameters()
        }

    @contextmanager
    def off(self) -> Iterator[None]:
        for adapter in self.modules:
            adapter.active = False
        try:
            yield
        finally:
            for adapter in self.modules:
                adapter.active = True

    def save(self, folder: Path) -> None:
        """Weights as safetensors, and what they are for as JSON."""
        tensors = {name: parameter.detach().cpu().contiguous() for name, parameter in self.parameters.items()}
        save_file(tensors, folder / WEIGHTS_FILE)
        settings = {
            "format_version": _FORMAT_VERSION,
            "method": "adapters",
            "units": self.units,
            "hidden_size": text_config(self._model).hidden_size,
            "blocks": len(self.modules),
            "activation": "gelu",
            "place": "after the feed-forward of every block, before its residual sum",
        }
        (folder / SETTINGS_FILE).write_text(json.dumps(settings, indent=1), encoding="utf-8")


def load_bottlenecks(model: PreTrainedModel, folder: Path) -> Bottlenecks:
    """Saved adapters on a model. Raises InputProblems where they do not fit it, or the folder is damaged."""
    try:
        settings = json.loads((folder / SETTINGS_FILE).read_text(encoding="utf-8"))
        found, units = (settings["blocks"], settings["hidden_size"]), int(settings["units"])
        tensors = load_file(folder / WEIGHTS_FILE)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        damage = f"a damaged folder ({type(error).__name__}: {error})"
        expected = f"{SETTINGS_FILE} and {WEIGHTS_FILE}, as a study saves them"
        raise InputProblems([Problem(str(folder), "adapter", damage, expected)]) from error
    own = (text_config(model).num_hidden_layers, text_config(model).hidden_size)
    if found != own:
        expected = f"adapters for {own[0]} blocks of width {own[1]}"
        raise InputProblems([Problem(str(folder), "adapter", f"{found[0]} blocks of width {found[1]}", expected)])
    with torch.random.fork_rng():
        made = Bottlenecks(model, units)
    wrong = [name for name, p in made.parameters.items() if name not in tensors or tensors[name].shape != p.shape]
    if wrong:
        expected = f"one of shape {list(made.parameters[wrong[0]].shape)}"
        raise InputProblems([Problem(str(folder / WEIGHTS_FILE), wrong[0], "no such tensor", expected)])
    with torch.no_grad():
        for name, parameter in made.parameters.items():
            parameter.copy_(tensors[name])
    return made


def _put_on(model: PreTrainedModel, arm: Arm) -> Installed:
    return _installed(Bottlenecks(model, arm.setting("bottleneck")))


def _load(model: PreTrainedModel, folder: Path) -> Installed:
    return _installed(load_bottlenecks(model, folder))


def _installed(made: Bottlenecks) -> Installed:
    return Installed(made.parameters, made.save, made.off)


MODULES = {"adapters": MethodModules(_put_on, _load, lambda folder: (folder / SETTINGS_FILE).is_file())}
