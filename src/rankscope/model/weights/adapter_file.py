"""LoRA adapters as PEFT saves them, read without a model: adapter_config.json and adapter_model.safetensors.

Shapes: `lora_A` is (R, in), `lora_B` is (out, R). An embedding's are (R, vocabulary) and (out, R), and its change is
the transpose of their product: (vocabulary, out), as its weight.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from rankscope.model.weights.module_patterns import check_patterns
from rankscope.model.weights.weight_delta import LowRank
from rankscope.study.problems import InputProblems, Problem, show

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
_FACTOR = re.compile(r"(?P<module>.+)\.lora_(?P<embedding>embedding_)?(?P<side>[AB])(\.weight)?")
_EXPECTED = "a folder with adapter_config.json and adapter_model.safetensors, as PEFT saves LoRA adapters"

_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_LARGEST = 1e18
"""Bound on the Frobenius norm of a change."""

_UNREADABLE = {
    "layer_replication": "layers that are used more than once",
    "target_parameters": "factors of parameters that no module owns",
    "use_bdlora": "block-diagonal factors",
    "use_qalora": "factors of grouped inputs",
    "kasa_config": "singular values of its own beside the factors",
    "monteclora_config": "sampled factors",
    "arrow_config": "several adapters behind a router",
}
"""Settings whose change of a weight is not scale * B A."""


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter. `deltas` by module path; `rest` is every other tensor by its key in the file; `notes` say what of
    it the deltas do not show. `embeddings` are the modules whose delta is transposed."""

    folder: Path
    config: dict[str, Any]
    deltas: dict[str, LowRank]
    rest: dict[str, Tensor]
    embeddings: frozenset[str]
    notes: tuple[str, ...]
    dtypes: dict[str, torch.dtype]

    @property
    def rank(self) -> int:
        """The largest rank of a module."""
        return max(delta.rank for delta in self.deltas.values())

    def keys(self, module: str) -> tuple[str, str]:
        """The file's keys of (lora_A, lora_B)."""
        if module in self.embeddings:
            return f"{_PREFIX}{module}.lora_embedding_A", f"{_PREFIX}{module}.lora_embedding_B"
        return f"{_PREFIX}{module}.lora_A.weight", f"{_PREFIX}{module}.lora_B.weight"


def read_adapter(folder: Path) -> Adapter:
    """The adapter in `folder`. Raises InputProblems for what is none, is damaged, or is not a LoRA that can be read."""
    config = _config(folder)
    tensors = adapter_tensors(folder)
    problems = [
        Problem(str(folder / CONFIG), key, f"{show(config[key])}, {why}", "a LoRA whose change is B A times a scale")
        for key, why in _UNREADABLE.items()
        if config.get(key)
    ]
    if config.get("lora_bias"):
        expected = "a LoRA without biases of its own"
        problems.append(Problem(str(folder / CONFIG), "lora_bias", "true", expected))
    if problems:
        raise InputProblems(problems)
    return _assemble(folder, config, tensors)


def pattern_value(config: dict[str, Any], pattern: str, module: str, default: float) -> float:
    """PEFT's rule for `rank_pattern` and `alpha_pattern`: the first key that matches the end of the module's path."""
    for key, value in (config.get(pattern) or {}).items():
        if re.match(rf"(.*\.)?({key})$", module):
            return float(value)
    return float(default)


def scale_of(config: dict[str, Any], alpha: float, rank: int) -> float:
    """alpha / r, or alpha / sqrt(r) for rsLoRA (arXiv 2312.03732)."""
    return alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank


# ---- reading --------------------------------------------------------------------------------------------------------


def adapter_config(folder: Path) -> dict[str, Any]:
    """adapter_config.json of any adapter that PEFT saved. Raises InputProblems where there is none."""
    if not folder.is_dir():
        found = "a file" if folder.exists() else "no such folder"
        raise InputProblems([Problem(str(folder), "adapter", found, _EXPECTED)])
    path = folder / CONFIG
    if not path.is_file():
        raise InputProblems([Problem(str(folder), "adapter", f"no {CONFIG}", _EXPECTED)])
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputProblems([Problem(str(path), "", f"no JSON ({error})", _EXPECTED)]) from error
    return dict(config) if isinstance(config, dict) else {}


def _config(folder: Path) -> dict[str, Any]:
    config = adapter_config(folder)
    path = folder / CONFIG
    kind = config.get("peft_type")
    if kind != "LORA":
        raise InputProblems([Problem(str(path), "peft_type", show(kind), "LORA")])
    if problems := [*_wrong_numbers(path, config)]:
        raise InputProblems(problems)
    return dict(config)


def _wrong_numbers(path: Path, config: dict[str, Any]) -> Iterator[Problem]:
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if not isinstance(rank, int) or isinstance(rank, bool) or rank < 1:
        yield Problem(str(path), "r", show(rank), "a whole number above 0")
    if not _is_factor(alpha):
        yield Problem(str(path), "lora_alpha", show(alpha), "a finite number other than 0")
    for key in ("rank_pattern", "alpha_pattern"):
        pattern = config.get(key) or {}
        if not isinstance(pattern, dict) or not all(map(_is_factor, pattern.values())):
            yield Problem(str(path), key, show(pattern), "finite numbers other than 0 by module pattern")


def _is_factor(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value != 0


def adapter_tensors(folder: Path) -> dict[str, Tensor]:
    """The tensors that PEFT saved, by their keys, without the adapter's name that some files have in them.

    Raises InputProblems where there are none, or only pickled ones, which are never opened.
    """
    path = folder / WEIGHTS
    if not path.is_file():
        other = ", ".join(sorted(p.name for p in folder.glob("*.bin"))) or "no weights"
        expected = f"{WEIGHTS}: pickles are not opened, load the adapter with PEFT and save it with save_pretrained"
        raise InputProblems([Problem(str(folder), "adapter", other, expected)])
    try:
        return {_without_adapter_name(key): tensor for key, tensor in load_file(path).items()}
    except SafetensorError as error:
        raise InputProblems([Problem(str(path), "", f"a damaged file ({error})", "safetensors")]) from error


def _without_adapter_name(key: str) -> str:
    """`x.lora_A.default.weight`, as a state dict of the running model has it, is `x.lora_A.weight` in PEFT's files."""
    return re.sub(r"\.(modules_to_save\.default|default(?=(\.\w+)?$))", "", key)


def _assemble(folder: Path, config: dict[str, Any], tensors: dict[str, Tensor]) -> Adapter:
    sides: dict[str, dict[str, Tensor]] = {}
    embeddings, rest, problems = set(), {}, []
    for key, tensor in tensors.items():
        match = _FACTOR.fullmatch(key.removeprefix(_PREFIX))
        if match is None:
            rest[key] = tensor
            continue
        module = match["module"]
        if tensor.dtype not in _DTYPES:
            found = f"lora_{match['side']} of {str(tensor.dtype).removeprefix('torch.')}"
            expected = ", ".join(str(dtype).removeprefix("torch.") for dtype in _DTYPES)
            problems.append(Problem(str(folder / WEIGHTS), module, found, f"one of {expected}"))
        elif not bool(torch.isfinite(tensor).all()):
            problems.append(
                Problem(str(folder / WEIGHTS), module, f"NaN or infinity in lora_{match['side']}", "numbers")
            )
        elif tensor.ndim != 2:
            found = f"lora_{match['side']} of shape {list(tensor.shape)}"
            problems.append(Problem(str(folder / WEIGHTS), module, found, "a matrix: convolutions are not read"))
        sides.setdefault(module, {})[match["side"]] = tensor
        if match["embedding"]:
            embeddings.add(module)
    for module, pair in sides.items():
        if set(pair) != {"A", "B"}:
            problems.append(
                Problem(str(folder / WEIGHTS), module, f"only lora_{next(iter(pair))}", "lora_A and lora_B")
            )
        elif pair["B"].shape[-1] != pair["A"].shape[0]:
            found = f"lora_B {list(pair['B'].shape)} and lora_A {list(pair['A'].shape)}"
            problems.append(Problem(str(folder / WEIGHTS), module, found, "factors of one rank"))
        elif 0 in (*pair["A"].shape, *pair["B"].shape):
            problems.append(Problem(str(folder / WEIGHTS), module, "factors without numbers", "a rank of at least 1"))
    if not sides:
        problems.append(Problem(str(folder / WEIGHTS), "", "no lora_A and lora_B", "a LoRA adapter"))
    if problems:
        raise InputProblems(problems)
    check_patterns(folder / CONFIG, config, sides)
    if other := [*_other_ranks(folder, config, sides)]:
        raise InputProblems(other)
    deltas = {m: _delta(config, m, pair["A"], pair["B"], m in embeddings) for m, pair in sides.items()}
    if too_large := [*_too_large(folder, deltas)]:
        raise InputProblems(too_large)
    dtypes = {m: pair["A"].dtype for m, pair in sides.items()}
    return Adapter(folder, config, deltas, rest, frozenset(embeddings), _notes(config, rest), dtypes)


def _other_ranks(folder: Path, config: dict[str, Any], sides: dict[str, dict[str, Tensor]]) -> Iterator[Problem]:
    """A configuration of another adapter than the weights are of: PEFT refuses it, and its alpha would mislead."""
    if not isinstance(config.get("r"), int):
        return
    for module, pair in sides.items():
        rank, said = pair["A"].shape[0], pattern_value(config, "rank_pattern", module, config["r"])
        if rank != said:
            yield Problem(str(folder / CONFIG), "r", f"{said:g} where {module} has {rank}", f"{rank}, as in {WEIGHTS}")
            return


def _too_large(folder: Path, deltas: dict[str, LowRank]) -> Iterator[Problem]:
    for module, delta in deltas.items():
        bound = abs(delta.scale) * float(delta.b.double().norm() * delta.a.double().norm())
        if bound > _LARGEST:
            found = f"a change of size {bound:.2g}"
            yield Problem(str(folder / WEIGHTS), module, found, f"at most {_LARGEST:g}, whose square fp32 holds")


def _delta(config: dict[str, Any], module: str, a: Tensor, b: Tensor, embedding: bool) -> LowRank:
    alpha = pattern_value(config, "alpha_pattern", module, float(config["lora_alpha"]))
    scale = scale_of(config, alpha, a.shape[0])
    return LowRank(b.T, a.T, scale) if embedding else LowRank(a, b, scale)


def _notes(config: dict[str, Any], rest: dict[str, Tensor]) -> tuple[str, ...]:
    notes = []
    if config.get("use_dora"):
        notes.append("DoRA: the numbers are those of B A; its magnitudes are not in them")
    if moved := initialisation_that_moves_the_base(config):
        notes.append(f"init_lora_weights is {moved}: B A is added to a base that was changed, not to the plain one")
    if saved := sorted({k for k in rest if "lora_magnitude_vector" not in k}):
        shown = ", ".join(k.removeprefix(_PREFIX) for k in saved[:3])
        notes.append(f"{len(saved)} tensors are saved whole, without a rank, and left out: {shown}")
    return tuple(notes)


def initialisation_that_moves_the_base(config: dict[str, Any]) -> str | None:
    """PiSSA, OLoRA, CorDA, LoftQ and LoRA-GA take their start out of the base's weights; None for the rest."""
    name = config.get("init_lora_weights")
    moved = isinstance(name, str) and name.lower().startswith(("pissa", "olora", "corda", "loftq", "lora_ga"))
    return str(name) if moved else None
