"""The rule of the verdict, on bounds alone: the same function judges a study, its bootstrap and a planned one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rankscope.study.study import Decision

Floats = NDArray[np.float64]
Answer = Literal["recommended", "tradeoff", "no_gain", "cannot_distinguish"]


@dataclass(frozen=True)
class Bounds:
    """Simultaneous one-sided bounds of N arms. `better_by[a, b]` is the lower bound of gain of a minus gain of b.

    What could not be measured is unbounded: -inf and inf.
    """

    gain_low: Floats
    gain_high: Floats
    forgetting_low: Floats
    forgetting_high: Floats
    better_by: Floats


@dataclass(frozen=True)
class Ruling:
    """What the rule says: indices of arms. `status` is eligible, ineligible or open, per arm."""

    answer: Answer
    recommended: int | None
    candidates: tuple[int, ...]
    refuted: tuple[int, ...]
    status: tuple[str, ...]
    good_enough: tuple[bool, ...]


def simultaneous_alpha(confidence: float, arm_count: int) -> float:
    """The error of each one-sided bound: (1 - confidence) / (2 K) for K arms (Bonferroni)."""
    return (1 - confidence) / (2 * max(arm_count, 1))


def judge(bounds: Bounds, cost: Sequence[float], preference: Sequence[float], decision: Decision) -> Ruling:
    """Apply the rule. `cost` is trainable parameters; where equal, the higher `preference` (observed gain) goes first.

    `no_gain` and `tradeoff` are asked first: an arm whose gain is sure to be below `min_gain` is not recommended
    for being surely above 0 where no arm, or none that keeps what it must, may gain enough.
    """
    arms = range(len(cost))
    eligible = bounds.forgetting_high <= decision.retention_margin
    ineligible = bounds.forgetting_low > decision.retention_margin
    rivals = [[b for b in arms if b != a] for a in arms]
    good_enough = tuple(
        all(bounds.better_by[a, b] > -decision.task_margin for b in rivals[a] if not ineligible[b]) for a in arms
    )
    refuted = tuple(
        a
        for a in arms
        if ineligible[a] or any(eligible[b] and bounds.better_by[b, a] > decision.task_margin for b in rivals[a])
    )
    status = tuple("eligible" if eligible[a] else "ineligible" if ineligible[a] else "open" for a in arms)
    may_gain = [a for a in arms if bounds.gain_high[a] >= decision.min_gain]
    in_contention = tuple(a for a in arms if a not in refuted and bounds.gain_high[a] > 0)
    if not may_gain:
        return Ruling("no_gain", None, (), refuted, status, good_enough)
    if all(ineligible[a] for a in may_gain):
        return Ruling("tradeoff", None, (), refuted, status, good_enough)
    winners = [a for a in arms if eligible[a] and good_enough[a] and bounds.gain_low[a] > 0 and a not in refuted]
    if not winners:
        return Ruling("cannot_distinguish", None, in_contention, refuted, status, good_enough)
    chosen = min(winners, key=lambda a: (cost[a], -preference[a], a))
    cheaper = tuple(a for a in in_contention if cost[a] < cost[chosen])
    return Ruling("recommended", chosen, cheaper, refuted, status, good_enough)
