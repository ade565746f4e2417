"""The weight matrices of a base, each (out, in), and the changes of a model that was trained from it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from rankscope.model.load import model_path, no_progress_bars
from rankscope.model.weights.weight_delta import DenseDelta, FactoredDelta, working
from rankscope.study.problems import InputProblems, Problem
from rankscope.study.study import ModelSpec


def matrices(model: nn.Module, modules: Iterable[str]) -> dict[str, Tensor]:
    """The weights of these modules, each (out, in) however the model keeps it; an embedding's is (vocabulary, D).

    Modules that the model lacks, or that hold no matrix, are not in the answer.
    """
    found: dict[str, Tensor] = {}
    named = dict(model.named_modules())
    for name in modules:
        module = named.get(name)
        weight = getattr(getattr(module, "base_layer", module), "weight", None)
        if isinstance(weight, Tensor) and weight.ndim == 2:
            inner = getattr(module, "base_layer", module)
            found[name] = weight.detach().T if isinstance(inner, Conv1D) else weight.detach()
    return found


def changes(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> dict[str, DenseDelta]:
    """W - W0 of the matrices that both have."""
    return {m: DenseDelta(working(after[m]) - working(before[m])) for m in before if m in after}


def merged_changes(model: nn.Module) -> Iterator[tuple[str, DenseDelta, Tensor]]:
    """(module, W - W0, W0) of every weight that an adapter in place changes, as merging it in fp32 would; the model is
    as it was afterwards."""
    for name, module in model.named_modules():
        layer: Any = module
        if not callable(getattr(module, "merge", None)) or not isinstance(
            getattr(module, "base_layer", None), nn.Module
        ):
            continue
        kept = layer.base_layer.weight.data
        before = matrices(model, [name])
        if not before:
            continue
        try:
            layer.base_layer.weight.data = kept.to(torch.promote_types(kept.dtype, torch.float32), copy=True)
            layer.merge()
            after = matrices(model, [name])[name].clone()
            layer.merged_adapters.clear()
        finally:
            layer.base_layer.weight.data = kept
        yield name, DenseDelta(after - before[name].to(after.dtype)), before[name]


def load_as_saved(path: str, revision: str | None = None) -> PreTrainedModel:
    """A model with its weights in the precision of its files. Raises InputProblems where there is none to load."""
    spec = ModelSpec(id=path, revision=revision)
    options = {"revision": revision} if revision is not None else {}
    try:
        with no_progress_bars():
            return AutoModelForCausalLM.from_pretrained(
                model_path(spec, Path()), dtype="auto", use_safetensors=True, **options
            ).eval()
    except (OSError, ValueError, KeyError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputProblems([Problem(path, "--base", first[:300], "a model folder, or a hub id in reach")]) from error


def matching_matrices(model: nn.Module, deltas: Mapping[str, FactoredDelta], base: str) -> dict[str, Tensor]:
    """The base's matrix of every delta. Raises InputProblems with each module that is not there, has another shape, or
    holds NaN or infinity."""
    found = matrices(model, deltas)
    problems = []
    for module, delta in deltas.items():
        if module not in found:
            problems.append(Problem(base, "--base", f"no module {module}", "the model that the adapter was trained on"))
        elif tuple(found[module].shape) != delta.shape:
            shape, wanted = list(found[module].shape), list(delta.shape)
            problems.append(Problem(base, "--base", f"{module} of shape {shape}", f"{wanted}, as the adapter has it"))
        elif not bool(torch.isfinite(found[module]).all()):
            problems.append(Problem(base, "--base", f"NaN or infinity in {module}", "numbers"))
    if problems:
        raise InputProblems(problems)
    return found
