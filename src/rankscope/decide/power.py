"""What a design can see, and what would decide: the closed form with other numbers of seeds and items plugged in."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats as distributions

from rankscope.config.study import Decision
from rankscope.decide.measure import Measured, Widths, decision_alpha, rule_on
from rankscope.decide.stats import Estimates, half_width
from rankscope.records import DetectableEffect, MoreNeeded

Floats = NDArray[np.float64]

POWER = 0.8
MOST_SEEDS = 32
MOST_MORE_ITEMS = 100_000
FEWEST_SEEDS_TO_TRUST = 3
"""What a study of one seed is told to go to: below it the seed variance is a guess (see docs/measures.md)."""


def detectable(measured: Measured, decision: Decision) -> DetectableEffect:
    """The smallest true difference found with 80 % power by a bound of the decision, from the mean variance over arms.

    gain: between two arms (or an arm and the base, where there is one arm); forgetting: from the retention margin.
    (t of the decision's error + normal quantile of 0.8) x standard error. None for a single seed.
    """
    alpha = decision_alpha(measured, decision)
    return DetectableEffect(
        gain=_effect(measured.differences or measured.gain, alpha), forgetting=_effect(measured.forgetting, alpha)
    )


def _effect(part: Estimates | None, alpha: float) -> float | None:
    if part is None or part.seed_variance is None or min(part.unit_counts) < 2:
        return None
    error = math.sqrt(float(part.variance.mean()))
    bound = float(np.sqrt((part.half_width(alpha) ** 2).mean()))
    return bound + float(distributions.norm.ppf(POWER)) * error


def planned_half_width(part: Estimates, alpha: float, seeds: int, more_items: int) -> Floats:
    """Half widths (C,) with `seeds` seeds and `more_items` more items in every suite, were the estimates true."""
    if part.seed_variance is None:
        raise ValueError("one seed does not say how seeds vary")
    counts = np.asarray(part.item_counts, dtype=float)[:, None]
    stretch = counts / (counts + more_items)
    items = np.maximum(part.item_variance - part.residual_variance / part.seed_count, 0.0)
    residual = part.residual_variance * stretch
    item_variance = items * stretch + residual / seeds
    from_seeds = np.maximum(part.seed_variance - part.residual_variance.sum(axis=0), 0.0)
    seed_variance = from_seeds + residual.sum(axis=0)
    seed_df = part.seed_df * (seeds - 1) / (part.seed_count - 1)
    variance = item_variance.sum(axis=0) + seed_variance / seeds
    new_counts = [
        round(units * (items + more_items) / items)
        for units, items in zip(part.unit_counts, part.item_counts, strict=True)
    ]
    return half_width(variance, item_variance, seed_variance, seed_df, seeds, new_counts, alpha)


def more_needed(measured: Measured, cost: Sequence[float], decision: Decision) -> MoreNeeded:
    """How many more seeds, or more items in every suite, would decide, were the estimates the truth.

    None where no number up to 32 seeds or 100,000 items would. A single seed asks for two more.
    """
    if measured.gain is None or measured.gain.seed_count < 2:
        seeds = None if measured.gain is None else FEWEST_SEEDS_TO_TRUST - measured.gain.seed_count
        return MoreNeeded(seeds=seeds, items=None)
    alpha = decision_alpha(measured, decision)
    present = measured.gain.seed_count

    def decides(seeds: int, items: int) -> bool:
        parts = (measured.gain, measured.forgetting, measured.differences)
        widths: Widths = tuple(None if p is None else planned_half_width(p, alpha, seeds, items) for p in parts)  # type: ignore[assignment]
        return rule_on(measured, widths, cost, decision).answer != "cannot_distinguish"

    seeds = next((extra for extra in range(1, MOST_SEEDS - present + 1) if decides(present + extra, 0)), None)
    return MoreNeeded(seeds=seeds, items=_smallest(lambda items: decides(present, items), MOST_MORE_ITEMS))


def _smallest(holds: Callable[[int], bool], most: int) -> int | None:
    """The smallest number from 1 on that holds, found by doubling, then bisecting; None where `most` does not."""
    high = 1
    while not holds(high):
        if high >= most:
            return None
        high = min(2 * high, most)
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high
