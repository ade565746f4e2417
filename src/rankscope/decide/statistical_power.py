"""Statistical power of a study with results: what its design can see, and what would decide it.

`larger_study.py` has what the same study would be with other numbers of seeds and items. docs/measures.md, "Intervals
and bounds", has the formulas.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from scipy.stats import norm

from rankscope.decide.crossed_statistics import Estimates
from rankscope.decide.gain_and_forgetting import Measured
from rankscope.decide.larger_study import DRAWS, future_means, planned_widths
from rankscope.decide.verdict_kinds import FEWEST_SEEDS, rule_on
from rankscope.records import DetectableEffect, MoreNeeded
from rankscope.study.study import Decision

POWER = 0.8
MOST_SEEDS = 64
MOST_MORE_ITEMS = 100_000
LUCKY_SHARE = 0.75
"""How much narrower than expected the bounds may come out with some luck."""
ENOUGH = 0.75
"""Of the studies that might come, this share must be decided by a number that is promised to decide."""


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


def could_decide(measured: Measured, cost: Sequence[float], decision: Decision, alpha: float, seeds: int) -> bool:
    """Whether `seeds` seeds may decide: at these estimates, with bounds only `LUCKY_SHARE` as wide as expected.

    Stopping where not costs some power and no error: nothing is claimed by it.
    """
    widths = planned_widths(measured, alpha, seeds, 0, LUCKY_SHARE)
    return rule_on(measured, widths, cost, decision, seeds).kind.decided


def more_needed(measured: Measured, cost: Sequence[float], decision: Decision, alpha: float) -> MoreNeeded:
    """How many more seeds, or more items in every suite, would probably decide by bounds at `alpha`.

    The means of the larger study are drawn DRAWS times from what the present one leaves open (`future_means`), and the
    rule is asked of each with the widths that it would have: the smallest number that decides in ENOUGH of them. None
    where no number up to MOST_SEEDS seeds in all, or MOST_MORE_ITEMS more items, does. A single seed asks for as many
    as a recommendation needs.
    """
    present = measured.seed_count
    if present < 2:
        return MoreNeeded(seeds=FEWEST_SEEDS - present if present else None, items=None)

    def decides(seeds: int, items: int) -> bool:
        widths = planned_widths(measured, alpha, seeds, items)
        left = math.floor((1 - ENOUGH) * DRAWS)
        for future in future_means(measured, seeds, items):
            left -= not rule_on(future, widths, cost, decision, seeds).kind.decided
            if left < 0:
                return False
        return True

    seeds = _smallest(lambda extra: decides(present + extra, 0), MOST_SEEDS - present) if present < MOST_SEEDS else None
    return MoreNeeded(seeds=seeds, items=_smallest(lambda items: decides(present, items), MOST_MORE_ITEMS))


def _smallest(holds: Callable[[int], bool], most: int) -> int | None:
    """The smallest number from 1 on that holds, found by bisecting; None where `most` does not hold."""
    if most < 1 or not holds(most):
        return None
    low, high = 0, most
    while high - low > max(1, low // 16):  # nobody needs the last of a thousand items
        middle = math.ceil(math.sqrt(max(low, 1) * high)) if high > 2 * low + 2 else (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high
