"""What can be made of an adapter or of a fully fine-tuned model without training, each put on to be scored or written.

`AdapterCandidates` and `ModelCandidates` have the same methods: the names of what is tried, `applied`, inside which the
model computes as one of them, and `write`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from rankscope.analyse.intruder_scaling import control, intruder_change, with_change
from rankscope.evaluate.first_tokens import Side
from rankscope.model.decoder_parts import blocks
from rankscope.model.load import LoadedModel
from rankscope.model.methods.attach import GivenFactors, attach
from rankscope.model.methods.peft_folder import Factors, plain_factors, read_peft_config
from rankscope.model.model_source import no_progress_bars
from rankscope.model.weights.adapter_file import read_adapter
from rankscope.model.weights.adapter_writing import copy_tokenizer, write_adapter
from rankscope.model.weights.after_training import AfterTraining, candidates
from rankscope.model.weights.svd_cache import SvdCache
from rankscope.model.weights.weight_delta import matrices
from rankscope.study.problems import InputProblems, Problem
from rankscope.tools.adapter_audit import whole_folder
from rankscope.tools.repair_choice import Tried

INTRUDER_FACTORS = (0.0, 0.5)

WIDEST = 2048
"""Intruders are scaled where the base's matrices have at most this smaller side: each needs their SVD."""


class AdapterCandidates:
    """Of a plain LoRA on this base. Raises InputProblems for what is none, or was made for another model."""

    def __init__(self, base: LoadedModel, folder: Path) -> None:
        self._base, self._adapter = base, read_adapter(folder)
        read_peft_config(folder)
        if plain_factors(base.model, folder) is None:
            found = "an adapter that does more than add B A to linear layers of this base"
            raise InputProblems([Problem(str(folder), "adapter", found, "a plain LoRA of the base that --base names")])
        self._layers = len(blocks(base.model))
        self._tried: dict[str, AfterTraining | tuple[str, float]] = {one.name: one for one in candidates(factored=True)}
        weights = matrices(base.model, self._adapter.deltas)
        if all(min(weight.shape) <= WIDEST for weight in weights.values()):
            for factor in INTRUDER_FACTORS:
                self._tried[f"intruders x {factor:g}"] = ("intruders", factor)
                self._tried[f"control of intruders x {factor:g}"] = ("control", factor)
        self._cache = SvdCache()

    @property
    def names(self) -> list[str]:
        """The adapter as it is first."""
        return list(self._tried)

    @contextmanager
    def applied(self, name: str) -> Iterator[tuple[LoadedModel, Side, Side]]:
        """The model that carries it, and the base and the candidate to be compared."""
        with attach(self._base, GivenFactors(self._factors(name))) as pack:
            model = self._base.model
            yield self._base, Side(model, pack.members[0].off), Side(model, nullcontext)

    def tried(self, name: str) -> Tried:
        """What it is to the choice. Controls are there to compare intruders with."""
        tried = self._tried[name]
        return _at_dial(tried) if isinstance(tried, AfterTraining) else Tried(name, may_be_chosen=tried[0] != "control")

    def ranks_left(self, name: str) -> float | None:
        """Mean rank where the spectrum was cut."""
        tried = self._tried[name]
        if not isinstance(tried, AfterTraining) or tried.energy is None:
            return None
        return _mean([delta.rank for delta in self._factors(name).values()])

    def write(self, name: str, out: Path, files: dict[str, str]) -> None:
        """The adapter in PEFT's format, in a new or empty folder."""
        with whole_folder(out) as draft:
            write_adapter(self._adapter, self._factors(name), draft)
            write_texts(draft, files)

    def _factors(self, name: str) -> Factors:
        tried, deltas = self._tried[name], self._adapter.deltas
        if isinstance(tried, AfterTraining):
            return tried.factors(deltas, self._layers)
        kind, factor = tried
        weights = matrices(self._base.model, deltas)
        made: Factors = {}
        for module, delta in deltas.items():
            change = intruder_change(self._cache, weights[module], None, delta.to(weights[module].device), factor)
            made[module] = with_change(delta, change) if kind == "intruders" else control(delta, change)
        return made


class ModelCandidates:
    """Of a whole model that was fine-tuned from this base, or had an adapter merged into it. `tuned` is used up: its
    weights are replaced. Raises InputProblems where it is another architecture."""

    def __init__(self, base: LoadedModel, tuned: LoadedModel, folder: Path) -> None:
        self._base, self._tuned, self._folder = base, tuned, folder
        before = dict(base.model.named_parameters())
        self._after = {name: p.detach().clone() for name, p in tuned.model.named_parameters()}
        shapes = {name: p.shape for name, p in before.items()}
        if shapes != {name: p.shape for name, p in self._after.items()}:
            differ = next(iter(set(shapes.items()) ^ {(n, p.shape) for n, p in self._after.items()}))[0]
            found = f"a model whose {differ} is not the base's"
            raise InputProblems([Problem(str(folder), "--model", found, "one that was trained from --base")])
        self._before = before
        self._layers = len(blocks(base.model))
        self._tried = {one.name: one for one in candidates(factored=False)}
        self._ranks: dict[str, float | None] = {}

    @property
    def names(self) -> list[str]:
        """The model as it is first."""
        return list(self._tried)

    @contextmanager
    def applied(self, name: str) -> Iterator[tuple[LoadedModel, Side, Side]]:
        """As of an adapter; the base is a model of its own."""
        self._put(name)
        yield self._tuned, Side(self._base.model, nullcontext), Side(self._tuned.model, nullcontext)

    def tried(self, name: str) -> Tried:
        """What it is to the choice."""
        return _at_dial(self._tried[name])

    def ranks_left(self, name: str) -> float | None:
        """Mean rank where the spectrum was cut."""
        return self._ranks.get(name)

    def write(self, name: str, out: Path, files: dict[str, str]) -> None:
        """The whole model as safetensors with its tokenizer, in a new or empty folder."""
        self._put(name)
        with whole_folder(out) as draft, no_progress_bars():
            self._tuned.model.save_pretrained(str(draft), safe_serialization=True)
            copy_tokenizer(self._folder, draft)
            write_texts(draft, files)

    @torch.no_grad()
    def _put(self, name: str) -> None:
        made, ranks = self._tried[name].weights(self._before, self._after, self._layers)
        self._ranks[name] = _mean(list(ranks.values())) if ranks else None
        parameters: dict[str, Tensor] = dict(self._tuned.model.named_parameters())
        for key, value in made.items():
            parameters[key].copy_(value)


Candidates = AdapterCandidates | ModelCandidates


def _at_dial(one: AfterTraining) -> Tried:
    """The change, whole or cut, at its dial; of a dial by layer the smaller of the two, where the other stays."""
    change = replace(one, below=1.0, above=1.0).name
    if one.below == one.above:
        return Tried(change, one.below)
    below = one.below < one.above
    return Tried(f"{change}, {'below' if below else 'above'} the middle", min(one.below, one.above))


def write_texts(folder: Path, files: Mapping[str, str]) -> None:
    """Text files by name."""
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")


def _mean(values: Sequence[int]) -> float:
    return sum(values) / len(values)
