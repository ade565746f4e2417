"""What a change does to a matrix, measure by measure: its spectrum, and how far the weight's singular vectors moved.

A measure is a function of a `Change`, registered with `@of_change` or `@of_weight`; its name is the column of the
spectra table that it fills, from a run's analysis to the study's tables and the notebook. docs/measures.md, "The change
of a matrix", holds every formula with its source.

Shapes: W0, W = W0 + delta and delta are (out, in); K = min(out, in, R) singular values; R rank.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rankscope.analyse.merged_spectra import (
    INTRUDER_TOP,
    MergedTop,
    intruder_columns,
    merged_top,
    overlap,
    preservation,
)
from rankscope.model.weights.svd_cache import SvdCache
from rankscope.model.weights.weight_delta import Delta, Svd, random_like, working

TOP_FEW, TOP_MANY = 10, 500
VALUES_KEPT = 256


@dataclass(frozen=True)
class Merged:
    """W beside W0: the largest singular values of W, the cosines of its left vectors with all of W0's, ||W0||_F^2, and
    the same of a control, W0 plus a change with delta's singular values in random directions (None for no change)."""

    top: MergedTop
    base_energy: float
    control: MergedTop | None


@dataclass(frozen=True)
class Change:
    """The change of one matrix, as measures see it.

    values (K,) in float64, from the largest: the singular values of `delta`; `rank`: the directions that it was given.
    `base_norm` is ||W0||_F and `merged` W beside W0, where they are known.
    """

    delta: Delta
    values: Tensor
    rank: int
    base_norm: float | None = None
    merged: Merged | None = None

    @property
    def energy(self) -> float:
        """||delta||_F^2: the sum of the squares of the singular values."""
        return float(self.values.square().sum())


Value = float | int | None
MEASURES: dict[str, Callable[[Change], Value]] = {}
"""Every measure by its name, the column that it fills. None where a change gives no answer."""


def of_change(measure: Callable[[Change], Value]) -> Callable[[Change], Value]:
    """Registers a measure of the change alone; the singular vectors are those of `change.delta.svd()`."""
    MEASURES[measure.__name__] = measure
    return measure


def of_weight(measure: Callable[[Merged], Value]) -> Callable[[Merged], Value]:
    """Registers a measure of W beside W0; None where W0 was not decomposed."""
    MEASURES[measure.__name__] = lambda change: None if change.merged is None else measure(change.merged)
    return measure


# ---- measures of the change ------------------------------------------------------------------------------------------


@of_change
def frobenius_norm(change: Change) -> float:
    """||delta||_F."""
    return change.energy**0.5


@of_change
def spectral_norm(change: Change) -> float:
    """The largest singular value."""
    return float(change.values[0])


@of_change
def stable_rank(change: Change) -> float | None:
    """||delta||_F^2 / ||delta||_2^2 (Rudelson & Vershynin 2007)."""
    return change.energy / float(change.values[0]) ** 2 if change.energy > 0 else None


@of_change
def effective_rank(change: Change) -> float | None:
    """exp of the entropy of the singular values over their sum (Roy & Vetterli 2007)."""
    if change.energy == 0:
        return None
    shares = change.values / change.values.sum()
    return float(torch.exp(torch.special.entr(shares).sum()))


@of_change
def energy_rank_90(change: Change) -> int | None:
    """The fewest singular values that hold 90 % of the energy."""
    return energy_rank(change.values, 0.90) if change.energy > 0 else None


@of_change
def energy_rank_95(change: Change) -> int | None:
    """The fewest singular values that hold 95 % of the energy."""
    return energy_rank(change.values, 0.95) if change.energy > 0 else None


@of_change
def energy_rank_99(change: Change) -> int | None:
    """The fewest singular values that hold 99 % of the energy."""
    return energy_rank(change.values, 0.99) if change.energy > 0 else None


@of_change
def utilisation(change: Change) -> float | None:
    """Stable rank over the rank that was given."""
    stable = stable_rank(change)
    return None if stable is None else stable / change.rank


@of_change
def relative_norm(change: Change) -> float | None:
    """||delta||_F / ||W0||_F."""
    if change.merged is not None:
        size = change.merged.base_energy
        return (change.energy / size) ** 0.5 if size > 0 else float("nan")
    return None if change.base_norm is None else change.energy**0.5 / change.base_norm


# ---- measures of the weight, before and after ------------------------------------------------------------------------


@of_weight
def preservation_10(merged: Merged) -> float:
    """Mean |cosine| of W0's and W's left singular vectors of the same number, the 10 largest."""
    return preservation(merged.top.cosines[:, :TOP_FEW])


@of_weight
def preservation_500(merged: Merged) -> float:
    """The same of the 500 largest, or of all (arXiv 2512.15634)."""
    return preservation(merged.top.cosines)


@of_weight
def overlap_10(merged: Merged) -> float:
    """The share of the space of W0's 10 largest left singular vectors that is that of W's."""
    return overlap(merged.top.cosines[:, :TOP_FEW])


@of_weight
def overlap_500(merged: Merged) -> float:
    """The same of the 500 largest, or of all."""
    return overlap(merged.top.cosines)


@of_weight
def intruders(merged: Merged) -> int:
    """Intruder dimensions among the INTRUDER_TOP largest of W (arXiv 2410.21228)."""
    return len(intruder_columns(merged.top.cosines))


@of_weight
def intruder_energy(merged: Merged) -> float:
    """The intruders' share of ||W||_F^2."""
    chosen = intruder_columns(merged.top.cosines)
    return float(merged.top.values[chosen].double().square().sum()) / merged.top.energy


@of_weight
def intruders_random(merged: Merged) -> int:
    """Intruders that the norm-matched control has."""
    return 0 if merged.control is None else len(intruder_columns(merged.control.cosines))


# ---- what they are made of -------------------------------------------------------------------------------------------


def energy_rank(values: Tensor, share: float) -> int:
    """The fewest of the singular values (K,), from the largest, whose squares hold `share` of the sum of squares.

    The comparison allows for rounding, so that a share of 1 is reached before values that are zero but for rounding.
    """
    energy = values.double().square()
    held = energy.cumsum(0)
    return min(int((held < share * held[-1] * (1 - 1e-12)).sum()) + 1, len(values))


def change_of(
    delta: Delta, base: Svd | None = None, *, base_norm: float | None = None, seed: int = 0, many: int = TOP_MANY
) -> Change:
    """A delta as measures see it; beside W0 where its thin SVD is given as `base`.

    Then the largest `many` singular vectors of W0 + delta are compared; `seed` draws the control.
    """
    values = delta.singular_values()
    merged = None
    if base is not None:
        generator = torch.Generator().manual_seed(seed)
        top = merged_top(base, delta, max(many, TOP_FEW, INTRUDER_TOP))
        some, control = values[values > 0], None
        if len(some):
            control = merged_top(base, random_like(some, delta.shape, generator), INTRUDER_TOP)
        merged = Merged(top, float(base.values.double().square().sum()), control)
    return Change(delta, values.double(), delta.rank, base_norm, merged)


def measured(change: Change) -> dict[str, Value]:
    """Every measure of a change, by its name."""
    return {name: measure(change) for name, measure in MEASURES.items()}


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
    """A row of the spectra table for each module: all MEASURES, those beside W0 where `weights` has it, (out, in).

    `model_sha256` names the base in the cache of its SVDs; None: each weight's own hash does. A W0 whose smaller side
    is above `widest` and whose SVD is not cached is not compared: the row's `reason` says so.
    """
    for module, delta in deltas.items():
        layer, kind = layer_and_kind(module)
        base, base_norm, reason = None, None, "no base weight was given"
        if module in weights:
            weight, content = weights[module], f"{model_sha256} {module}" if model_sha256 is not None else None
            base_norm = float(working(weight).norm(dtype=torch.float64))
            reason = _why_not(weight, content, cache, widest)
            base = None if reason else cache.svd(weight, content)
        change = change_of(delta, base, base_norm=base_norm, seed=seed, many=many)
        out, in_ = delta.shape
        row: dict[str, Any] = {"module": module, "layer": layer, "kind": kind, "out": out, "in": in_}
        row |= {"rank": change.rank, **measured(change)}
        yield row | {"singular_values": tuple(change.values[:VALUES_KEPT].tolist()), "reason": reason or None}


def _why_not(weight: Tensor, content: str | None, cache: SvdCache, widest: int | None) -> str:
    if widest is not None and min(weight.shape) > widest and not cache.holds(weight, content):
        return f"wider than {widest}: `rankscope audit --base` computes the SVD of the base that this needs"
    return ""
