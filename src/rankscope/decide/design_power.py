"""What a design can see, and what would decide: the closed form with other numbers of seeds and items plugged in."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats as distributions

from rankscope.decide.crossed_statistics import Estimates, half_width
from rankscope.decide.gain_and_forgetting import Measured, Widths, rule_on
from rankscope.records import DetectableEffect, MoreNeeded
from rankscope.study.study import Decision

Floats = NDArray[np.float64]

POWER = 0.8
MOST_SEEDS = 32
MOST_MORE_ITEMS = 100_000
LUCKY_SHARE = 0.75
FEWEST_SEEDS_TO_TRUST = 3
"""What a study of one seed is told to go to: below it the seed variance is a guess (see docs/measures.md)."""


def detectable(measured: Measured, alpha: float) -> DetectableEffect:
    """The smallest true difference found with 80 % power by a bound at `alpha`, from the mean variance over arms.

    gain: between two arms (or an arm and the base, where there is one arm); forgetting: from the retention margin.
    (t of the decision's error + normal quantile of 0.8) x standard error. None for a single seed.
    """
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


def planned_widths(measured: Measured, alpha: float, seeds: int, more_items: int, share: float = 1.0) -> Widths:
    """`planned_half_width` of gain, forgetting and differences, times `share`."""
    gain, forgetting, differences = (
        None if part is None else share * planned_half_width(part, alpha, seeds, more_items)
        for part in (measured.gain, measured.forgetting, measured.differences)
    )
    return gain, forgetting, differences


def could_decide(measured: Measured, cost: Sequence[float], decision: Decision, alpha: float, seeds: int) -> bool:
    """Whether `seeds` seeds may decide: at these estimates, with bounds only `LUCKY_SHARE` as wide as expected.

    Stopping where not costs some power and no error: nothing is claimed by it.
    """
    widths = planned_widths(measured, alpha, seeds, 0, LUCKY_SHARE)
    return rule_on(measured, widths, cost, decision).answer != "cannot_distinguish"


def more_needed(measured: Measured, cost: Sequence[float], decision: Decision, alpha: float) -> MoreNeeded:
    """How many more seeds, or more items in every suite, would decide by bounds at `alpha`, were the estimates true.

    None where no number up to 32 seeds or 100,000 items would. A single seed asks for two more.
    """
    if measured.gain is None or measured.gain.seed_count < 2:
        seeds = None if measured.gain is None else FEWEST_SEEDS_TO_TRUST - measured.gain.seed_count
        return MoreNeeded(seeds=seeds, items=None)
    present = measured.gain.seed_count

    def decides(seeds: int, items: int) -> bool:
        widths = planned_widths(measured, alpha, seeds, items)
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
