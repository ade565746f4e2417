"""Statistical power of a study with results: what its design can see, and what would decide it.

Everything is the closed form of `crossed_statistics.py` with other numbers of seeds and items plugged into the study's
estimates. docs/measures.md, "Intervals and bounds", has the formulas.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from rankscope.decide.crossed_statistics import Estimates, half_width
from rankscope.decide.gain_and_forgetting import Measured
from rankscope.decide.verdict_bounds import Widths
from rankscope.decide.verdict_kinds import FEWEST_SEEDS, rule_on
from rankscope.records import DetectableEffect, MoreNeeded
from rankscope.study.study import Decision

Floats = NDArray[np.float64]

POWER = 0.8
MOST_SEEDS = 64
MOST_MORE_ITEMS = 100_000
LUCKY_SHARE = 0.75
"""How much narrower than expected the bounds may come out with some luck."""
SAFE_SHARE = 1.2
"""How much wider they are taken to be where a number is promised to decide; calibrated by simulation."""


def detectable(measured: Measured, alpha: float) -> DetectableEffect:
    """The smallest true difference found with 80 % power by a bound at `alpha`, from the mean variance over arms.

    gain: between two arms (or an arm and the base, where there is one arm); forgetting: from the retention margin.
    (t of the decision's error + normal quantile of 0.8) x standard error. None for a single seed.
    """
    nats = measured.nats
    return DetectableEffect(
        gain=_effect(measured.differences or measured.gain, alpha),
        forgetting=_effect(measured.forgetting, alpha),
        gain_nats=None if nats is None else _effect(nats.differences or nats.gain, alpha),
        forgetting_nats=None if nats is None else _effect(nats.forgetting, alpha),
    )


def _effect(part: Estimates | None, alpha: float) -> float | None:
    if part is None or part.seed_variance is None or min(part.unit_counts) < 2:
        return None
    error = math.sqrt(float(part.variance.mean()))
    bound = float(np.sqrt((part.half_width(alpha) ** 2).mean()))
    return bound + float(norm.ppf(POWER)) * error


def planned_half_width(part: Estimates, alpha: float, seeds: int, more_items: int) -> Floats:
    """Half widths (C,) of C contrasts with `seeds` seeds and `more_items` more items in every suite, were the estimates
    true. Raises ValueError for estimates of a single seed."""
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
    """`planned_half_width` of all that `measured` has estimates of, times `share`."""

    def width(part: Estimates, error: float) -> Floats:
        return share * planned_half_width(part, error, seeds, more_items)

    parts = (measured.gain, measured.forgetting, measured.differences)
    each = alpha / max(len(measured.suites), 1)
    gain, forgetting, differences = (None if part is None else width(part, alpha) for part in parts)
    return Widths(
        gain,
        forgetting,
        differences,
        suites=tuple(width(part, each) for part, _ in measured.suites),
        nats=None if measured.nats is None else planned_widths(measured.nats, alpha, seeds, more_items, share),
    )


def could_decide(measured: Measured, cost: Sequence[float], decision: Decision, alpha: float, seeds: int) -> bool:
    """Whether `seeds` seeds may decide: at these estimates, with bounds only `LUCKY_SHARE` as wide as expected.

    Stopping where not costs some power and no error: nothing is claimed by it.
    """
    widths = planned_widths(measured, alpha, seeds, 0, LUCKY_SHARE)
    return rule_on(measured, widths, cost, decision, seeds).kind.decided


def more_needed(measured: Measured, cost: Sequence[float], decision: Decision, alpha: float) -> MoreNeeded:
    """How many more seeds, or more items in every suite, would probably decide by bounds at `alpha`.

    At exactly these estimates a new study would decide about every other time; so that three of four do, its bounds
    are taken to be SAFE_SHARE times as wide. None where no number up to MOST_SEEDS seeds in all, or MOST_MORE_ITEMS
    more items, would. A single seed asks for as many as a recommendation needs.
    """
    present = measured.seed_count
    if present < 2:
        return MoreNeeded(seeds=FEWEST_SEEDS - present if present else None, items=None)

    def decides(seeds: int, items: int) -> bool:
        widths = planned_widths(measured, alpha, seeds, items, SAFE_SHARE)
        return rule_on(measured, widths, cost, decision, seeds).kind.decided

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
