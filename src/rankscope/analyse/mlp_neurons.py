"""What the units of the MLPs do differently. docs/measures.md, "Neurons", holds the formulas.

Shapes: n tokens, F units of a layer's MLP: the inputs of its last projection.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from rankscope.model.weights.weight_delta import working

TOP_SHARE = 0.01
TOP_LEAST = 8
"""The most changed units of a layer: this share of them, and at least so many."""

_PART_ELEMENTS = 1 << 17
"""Units of so many tokens are summed at once: what is made of them stays in a core's cache."""

Side = Literal["base", "arm"]


@dataclass
class _UnitSums:
    """Over tokens, in double: activations, their squares, and how often the unit's nonlinearity was above zero (F,)."""

    tokens: int
    total: Tensor
    squares: Tensor
    fired: Tensor


class NeuronStream:
    """Sums of both sides by layer, for one suite."""

    def __init__(self) -> None:
        self._sums: dict[tuple[int, Side], _UnitSums] = {}

    def add(self, layer: int, side: Side, activation: Tensor, nonlinear: Tensor, real: Tensor) -> None:
        """Activations and outputs of the nonlinearity (B, T, F), of which the tokens where `real` (B, T) count."""
        sums = self._sums.get((layer, side))
        if sums is None:
            zeros = torch.zeros(3, activation.shape[-1], dtype=torch.float64, device=activation.device)
            sums = self._sums[layer, side] = _UnitSums(0, *zeros)
        sums.tokens += int(real.sum())
        counted = real.flatten().float()  # products with zeros and ones are faster than picking rows
        rows = max(1, _PART_ELEMENTS // activation.shape[-1])
        for here, part, before in zip(
            counted.split(rows), activation.flatten(0, 1).split(rows), nonlinear.flatten(0, 1).split(rows), strict=True
        ):
            precise = working(part)
            here = here.to(precise.dtype)
            sums.total += here @ precise
            sums.squares += here @ precise.square()
            sums.fired += here @ torch.gt(before, 0, out=torch.empty_like(precise))

    def rows(self) -> list[dict[str, Any]]:
        """A row for each layer; see `layer_row`."""
        layers = sorted({layer for layer, _ in self._sums})
        return [{"layer": layer, **layer_row(self._sums[layer, "base"], self._sums[layer, "arm"])} for layer in layers]


def layer_row(base: _UnitSums, arm: _UnitSums) -> dict[str, Any]:
    """The change of one layer.

    mean_change: mean over units of |mean of the arm - mean of the base| / standard deviation of the base over
    tokens, units that never vary left out (None where none does). firing_change: mean of |firing rate of the arm - of
    the base|. top_units: the most changed by the first, most changed first.
    """
    mean = base.total / base.tokens
    spread = (base.squares / base.tokens - mean.square()).clamp(min=0).sqrt()
    varies = spread > 1e-7 * (1e-30 + mean.abs())
    change = (arm.total / arm.tokens - mean).abs() / torch.where(varies, spread, math.inf)
    rate, base_rate = arm.fired / arm.tokens, base.fired / base.tokens
    units = len(mean)
    count = min(max(TOP_LEAST, round(TOP_SHARE * units)), units)
    top = torch.sort(change, descending=True, stable=True).indices[:count]
    return {
        "units": units,
        "tokens": base.tokens,
        "mean_change": float(change[varies].mean()) if bool(varies.any()) else None,
        "firing_change": float((rate - base_rate).abs().mean()),
        "firing_base": float(base_rate.mean()),
        "firing": float(rate.mean()),
        "largest_change": float(change.max()),
        "top_units": [int(unit) for unit in top if float(change[unit]) > 0],
    }
