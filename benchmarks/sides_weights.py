"""The sides of analyse_speed.py that look at weights: singular values, intruders, audits. Ours and their peers.

Each function prepares (not timed) and returns the work, whose result is a list of numbers to compare.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora.intruders import reduce_intruder_dimension
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rankscope.analyse.merged_spectra import merged_top
from rankscope.model.weights.svd_cache import SvdCache
from rankscope.model.weights.weight_delta import DenseDelta, LowRank, Svd
from rankscope.tools.adapter_audit import audit

Numbers = list[float]
Work = Callable[[], Numbers]

SCALE = 2.0
RANK = 64
INTRUDER_RANK = 8
DENSE_MODULES = ("mlp.down_proj", "mlp.gate_proj", "self_attn.q_proj")
"""One matrix of each shape in a layer: the dense audit does these only, and its time is multiplied."""


def factors(out: int, in_: int, rank: int, seed: int, device: str = "cpu") -> tuple[Tensor, Tensor]:
    """(lora_B, lora_A) with falling column sizes, as trained ones have."""
    dice = torch.Generator().manual_seed(seed)
    fall = torch.logspace(0, -2, rank)
    b, a = torch.randn(out, rank, generator=dice) * fall * 0.05, torch.randn(rank, in_, generator=dice) * 0.02
    return b.to(device), a.to(device)


def base_weight(width: int, device: str) -> Tensor:
    return (torch.randn(width, width, generator=torch.Generator().manual_seed(9)) * 0.02).to(device)


# ---- singular values of a delta -------------------------------------------------------------------------------------


def our_values(width: int, device: str) -> Work:
    b, a = factors(width, width, RANK, 0, device)
    return lambda: LowRank(a, b, SCALE).singular_values().tolist()


def dense_values(width: int, device: str) -> Work:
    b, a = factors(width, width, RANK, 0, device)
    return lambda: torch.linalg.svdvals(SCALE * b @ a)[:RANK].tolist()


# ---- a change of full rank -------------------------------------------------------------------------------------------


def full_change(shape: tuple[int, int], device: str) -> Tensor:
    """(out, in) with a spectrum that falls slowly, as changes of full fine-tuning do."""
    dice = torch.Generator().manual_seed(5)
    noise = torch.randn(*shape, generator=dice) * torch.logspace(0, -1, shape[1])
    return (1e-3 * noise).to(device)


def our_full_values(shape: tuple[int, int], device: str) -> Work:
    change = DenseDelta(full_change(shape, device))
    return lambda: change.singular_values().tolist()


def dense_full_values(shape: tuple[int, int], device: str) -> Work:
    change = full_change(shape, device)
    return lambda: torch.linalg.svdvals(change).tolist()


def _full(shape: tuple[int, int], device: str) -> tuple[Svd, Tensor]:
    weight = (torch.randn(shape, generator=torch.Generator().manual_seed(9)) * 0.02).to(device)
    return Svd(*torch.linalg.svd(weight, full_matrices=False)), full_change(shape, device)


def our_full_cosines(shape: tuple[int, int], device: str) -> Work:
    """Of each of the ten largest left singular vectors of W its largest |cosine| with W0's, whose SVD is at hand."""
    base, change = _full(shape, device)

    def cosines() -> Numbers:
        found: Numbers = merged_top(base, DenseDelta(change), 10).cosines.abs().amax(0).tolist()
        return found

    return cosines


def dense_full_cosines(shape: tuple[int, int], device: str) -> Work:
    base, change = _full(shape, device)
    weight = (base.left * base.values) @ base.right

    def cosines() -> Numbers:
        u = torch.linalg.svd(weight + change, full_matrices=False)[0]
        found: Numbers = (base.left.T @ u[:, :10]).abs().amax(0).tolist()
        return found

    return cosines


# ---- intruders ------------------------------------------------------------------------------------------------------


def _merged(width: int, device: str) -> tuple[Tensor, Tensor, Tensor]:
    b, a = factors(width, width, INTRUDER_RANK, 0, device)
    return base_weight(width, device), 40 * b, a


def fill_cache(width: int, device: str, folder: Path) -> None:
    SvdCache(folder).svd(base_weight(width, device), "benchmark")


def our_cosines(width: int, device: str, folder: Path) -> Work:
    """Of each of the ten largest left singular vectors of W its largest |cosine| with W0's; the cache is read again."""
    weight, b, a = _merged(width, device)

    def cosines() -> Numbers:
        base = SvdCache(folder).svd(weight, "benchmark")
        found: Numbers = merged_top(base, LowRank(a, b, SCALE), 10).cosines.abs().amax(0).tolist()
        return found

    return cosines


def our_count(width: int, device: str, folder: Path) -> Work:
    cosines = our_cosines(width, device, folder)
    return lambda: [float(sum(cosine < 0.5 for cosine in cosines()))]


def dense_cosines(width: int, device: str, folder: Path) -> Work:
    """With W0's vectors at hand: the whole SVD of W."""
    weight, b, a = _merged(width, device)
    left = SvdCache(folder).svd(weight, "benchmark").left

    def cosines() -> Numbers:
        u = torch.linalg.svd(weight + SCALE * b @ a, full_matrices=False)[0]
        found: Numbers = (left.T @ u[:, :10]).abs().amax(0).tolist()
        return found

    return cosines


def peft_count(width: int, device: str) -> Work:
    """`reduce_intruder_dimension` decomposes W0 and W, counts, and says the count in its log."""
    weight, b, a = _merged(width, device)

    def count() -> Numbers:
        layer = nn.Sequential()
        layer.add_module("linear", nn.Linear(width, width, bias=False, device=device))
        config = LoraConfig(r=len(a), lora_alpha=int(SCALE) * len(a), target_modules=["linear"])
        peft: PeftModel = get_peft_model(layer, config)  # type: ignore[arg-type]
        lines: list[str] = []
        with torch.no_grad():
            module: Any = peft.base_model.model.linear
            module.base_layer.weight.copy_(weight)
            module.lora_A["default"].weight.copy_(a)
            module.lora_B["default"].weight.copy_(b)
            reduce_intruder_dimension(peft, logging_sink=lines.append)
        line = next((line for line in lines if "Intruders:" in line), "Intruders: 0")
        return [float(line.rsplit(" ", 1)[1])]

    return count


# ---- audits ---------------------------------------------------------------------------------------------------------


def shapes(width: int) -> dict[str, tuple[int, int]]:
    """Of one layer of a Llama-like model: at width 4096 those of a 7B model."""
    wide = width * 43 // 16
    square = dict.fromkeys([f"self_attn.{name}_proj" for name in "qkvo"], (width, width))
    return {**square, "mlp.gate_proj": (wide, width), "mlp.up_proj": (wide, width), "mlp.down_proj": (width, wide)}


@cache
def _layer(width: int, layer: int) -> dict[str, tuple[Tensor, Tensor]]:
    named = enumerate(shapes(width).items())
    return {name: factors(out, in_, RANK, 7 * layer + i) for i, (name, (out, in_)) in named}


def write_adapter(width: int, layers: int, folder: Path) -> None:
    """A PEFT folder of `layers` layers of random factors."""
    tensors = {}
    for layer in range(layers):
        for name, (b, a) in _layer(width, layer).items():
            prefix = f"base_model.model.model.layers.{layer}.{name}"
            tensors[f"{prefix}.lora_A.weight"], tensors[f"{prefix}.lora_B.weight"] = a, b
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": SCALE * RANK, "target_modules": "all-linear"}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    _layer.cache_clear()


def our_audit(folder: Path) -> Work:
    """Stable ranks of all matrices, by their names' order in the file."""
    return lambda: [m["stable_rank"] for m in sorted(audit(folder)["modules"], key=lambda m: str(m["module"]))]


def our_first_layer(folder: Path) -> Work:
    """As `our_audit`, of which only the matrices of the dense peer are compared."""

    def stable_ranks() -> Numbers:
        found = {m["module"]: float(m["stable_rank"]) for m in audit(folder)["modules"]}
        return [found[f"model.layers.0.{name}"] for name in DENSE_MODULES]

    return stable_ranks


def gram_audit(folder: Path) -> Work:
    """The measures that Gradience publishes, from the eigenvalues of (B^T B) (A A^T), in double as it advises."""

    def stable_ranks() -> Numbers:
        tensors = load_file(folder / "adapter_model.safetensors")
        found = []
        for key in sorted(k for k in tensors if k.endswith("lora_A.weight")):
            a, b = tensors[key].double(), tensors[key.replace("lora_A", "lora_B")].double()
            values, vectors = torch.linalg.eigh(b.T @ b)
            root = vectors * values.clamp(min=0).sqrt()
            energy = SCALE**2 * torch.linalg.eigvalsh(root.T @ (a @ a.T) @ root).clamp(min=0).flip(0)
            shares = energy.sqrt() / energy.sqrt().sum()
            torch.special.entr(shares).sum().exp()
            [(energy.cumsum(0) < share * energy.sum()).sum() for share in (0.9, 0.95, 0.99)]
            found.append(float(energy.sum() / energy[0]))
        return found

    return stable_ranks


def dense_audit(width: int) -> Work:
    """Dense SVDs of DENSE_MODULES in the first layer."""
    chosen = [_layer(width, 0)[name] for name in DENSE_MODULES]

    def stable_ranks() -> Numbers:
        found = []
        for b, a in chosen:
            values = torch.linalg.svdvals(SCALE * b @ a).double()
            found.append(float(values.square().sum() / values[0] ** 2))
        return found

    return stable_ranks
