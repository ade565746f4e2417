"""What a change does to a matrix: its spectrum, and how far the largest singular vectors of the weight moved.

docs/measures.md, "The change of a matrix", holds every formula with its source. Shapes: `model/weights`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from rankscope.analyse.merged_spectra import merged_top
from rankscope.model.weights.large_svd import SvdCache
from rankscope.model.weights.weight_delta import Delta, Svd, random_like, working

TOP_FEW, TOP_MANY = 10, 500
INTRUDER_TOP, INTRUDER_COSINE = 10, 0.5
ENERGY_SHARES = (0.90, 0.95, 0.99)
VALUES_KEPT = 256


@dataclass(frozen=True)
class Spectrum:
    """Of one delta. None where a zero delta gives no answer. `singular_values`: the largest VALUES_KEPT."""

    rank: int
    frobenius_norm: float
    spectral_norm: float
    stable_rank: float | None
    effective_rank: float | None
    energy_rank_90: int | None
    energy_rank_95: int | None
    energy_rank_99: int | None
    utilisation: float | None
    singular_values: tuple[float, ...]


@dataclass(frozen=True)
class Comparison:
    """W0 + delta beside W0. The counts of intruders are among the INTRUDER_TOP largest singular vectors of W."""

    relative_norm: float
    preservation_10: float
    preservation_500: float
    overlap_10: float
    overlap_500: float
    intruders: int
    intruder_energy: float
    intruders_random: int


def spectrum_of(delta: Delta) -> Spectrum:
    """Exact measures of a delta's singular values."""
    return spectrum_of_values(delta.singular_values(), delta.rank)


def spectrum_of_values(values: Tensor, rank: int) -> Spectrum:
    """The measures of singular values (K,), from the largest, of a delta that was given `rank` directions."""
    values = values.double()
    total, largest = float(values.square().sum()), float(values[0])
    stable = effective = None
    ranks: dict[float, int | None] = dict.fromkeys(ENERGY_SHARES)
    if total > 0:
        stable = total / largest**2
        shares = values / values.sum()
        effective = float(torch.exp(torch.special.entr(shares).sum()))
        ranks = {share: energy_rank(values, share) for share in ENERGY_SHARES}
    return Spectrum(
        rank=rank,
        frobenius_norm=total**0.5,
        spectral_norm=largest,
        stable_rank=stable,
        effective_rank=effective,
        energy_rank_90=ranks[0.90],
        energy_rank_95=ranks[0.95],
        energy_rank_99=ranks[0.99],
        utilisation=None if stable is None else stable / rank,
        singular_values=tuple(float(v) for v in values[:VALUES_KEPT]),
    )


def energy_rank(values: Tensor, share: float) -> int:
    """The fewest of the singular values (K,), from the largest, whose squares hold `share` of the sum of squares.

    The comparison allows for rounding, so that a share of 1 is reached before values that are zero but for rounding.
    """
    energy = values.double().square()
    held = energy.cumsum(0)
    return min(int((held < share * held[-1] * (1 - 1e-12)).sum()) + 1, len(values))


def compare(base: Svd, delta: Delta, *, seed: int, many: int = TOP_MANY) -> Comparison:
    """The largest `many` singular vectors of W0 + delta beside those of W0, whose thin SVD is `base`.

    `seed` draws the control: a change with delta's own singular values in random directions.
    """
    generator = torch.Generator().manual_seed(seed)
    top = merged_top(base, delta, max(many, TOP_FEW, INTRUDER_TOP), generator)
    few = min(TOP_FEW, top.cosines.shape[1])
    intruders = intruder_columns(top.cosines)
    values = delta.singular_values()
    size = float(base.values.double().square().sum())
    return Comparison(
        relative_norm=float(values.double().square().sum() / size) ** 0.5 if size > 0 else float("nan"),
        preservation_10=preservation(top.cosines[:, :few]),
        preservation_500=preservation(top.cosines),
        overlap_10=overlap(top.cosines[:, :few]),
        overlap_500=overlap(top.cosines),
        intruders=len(intruders),
        intruder_energy=float(top.values[intruders].double().square().sum()) / top.energy,
        intruders_random=_random_intruders(base, values[values > 0], delta.shape, generator),
    )


def _random_intruders(base: Svd, values: Tensor, shape: tuple[int, int], generator: torch.Generator) -> int:
    if not len(values):
        return 0
    control = random_like(values, shape, generator)
    return len(intruder_columns(merged_top(base, control, INTRUDER_TOP, generator).cosines))


def intruder_columns(cosines: Tensor) -> list[int]:
    """Which of the first INTRUDER_TOP columns have no |cosine| of INTRUDER_COSINE or more (arXiv 2410.21228).

    cosines (K, k): column j those of W's j-th left singular vector with each of W0's.
    """
    largest = cosines[:, :INTRUDER_TOP].abs().amax(dim=0)
    return [int(j) for j in torch.nonzero(largest < INTRUDER_COSINE).flatten()]


def preservation(cosines: Tensor) -> float:
    """Mean over j of |cos(u_j of W0, u_j of W)|, both counted from the largest singular value; cosines (K, k)."""
    return float(cosines.diagonal().abs().mean())


def overlap(cosines: Tensor) -> float:
    """||U0_k^T U_k||_F^2 / k: how much of the space of W0's k largest is that of W's, whatever the order inside."""
    count = cosines.shape[1]
    return float(cosines[:count].double().square().sum()) / count


# ---- over the modules of a model ------------------------------------------------------------------------------------


def layer_and_kind(module: str) -> tuple[int | None, str]:
    """Layer number and kind of matrix from a module's path: `model.layers.3.self_attn.q_proj` is (3, "q_proj")."""
    number = re.search(r"\.(\d+)\.", f".{module}.")
    return (int(number[1]) if number else None), module.rsplit(".", 1)[-1]


def module_rows(
    deltas: Mapping[str, Delta],
    weights: Mapping[str, Tensor],
    cache: SvdCache,
    *,
    model_sha256: str | None,
    seed: int,
    widest: int | None,
    many: int = TOP_MANY,
) -> Iterator[dict[str, Any]]:
    """A row of the spectra table for each module: its Spectrum, and its Comparison where `weights` has W0 (out, in).

    `model_sha256` names the base in the cache of its SVDs; None: each weight's own hash does. A W0 whose smaller side
    is above `widest` and whose SVD is not cached is not compared: the row's `reason` says so.
    """
    for module, delta in deltas.items():
        layer, kind = layer_and_kind(module)
        row: dict[str, Any] = {
            "module": module,
            "layer": layer,
            "kind": kind,
            "out": delta.shape[0],
            "in": delta.shape[1],
        }
        row |= asdict(spectrum_of(delta))
        comparison: dict[str, Any] = dict.fromkeys(Comparison.__dataclass_fields__)
        reason = "no base weight was given"
        if module in weights:
            weight, content = weights[module], f"{model_sha256} {module}" if model_sha256 is not None else None
            comparison["relative_norm"] = row["frobenius_norm"] / float(working(weight).norm(dtype=torch.float64))
            reason = _why_not(weight, content, cache, widest)
            if not reason:
                comparison = asdict(compare(cache.svd(weight, content), delta, seed=seed, many=many))
        yield row | comparison | {"reason": reason or None}


def _why_not(weight: Tensor, content: str | None, cache: SvdCache, widest: int | None) -> str:
    if widest is not None and min(weight.shape) > widest and not cache.holds(weight, content):
        return f"wider than {widest}: `rankscope audit --base` computes the SVD of the base that this needs"
    return ""
