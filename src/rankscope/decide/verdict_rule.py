"""The rule of the verdict: where each arm stands on its bounds, in points and in nats alike.

`verdict_kinds.py` makes the answer of how the arms stand, `verdict_reasons.py` the sentences.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rankscope.decide.verdict_bounds import Bounds
from rankscope.study.study import Decision

Truths = NDArray[np.bool_]


class Standing(NamedTuple):
    """Where N arms stand on their bounds, (N,) each. `cost` is trainable parameters, `preference` the observed gain.

    Where suites of scores and of losses occur an arm must keep within the margins of both.
    """

    eligible: Truths
    """Surely forgets at most the margin."""
    ineligible: Truths
    """Surely forgets more."""
    good_enough: Truths
    """Surely less than the margin behind every rival that is not ineligible."""
    refuted: Truths
    """Ineligible, or surely behind an eligible rival by more than the margin."""
    may_count: Truths
    """May have learned the least gain that counts."""
    may_gain: Truths
    surely_gains: Truths
    cost: Sequence[float]
    preference: Sequence[float]

    def status(self, arm: int) -> str:
        """`eligible`, `ineligible` or `open`."""
        return "eligible" if self.eligible[arm] else "ineligible" if self.ineligible[arm] else "open"

    def in_contention(self) -> list[int]:
        """The arms that may be the answer: not refuted, and with a gain that may be above 0."""
        return indices(~self.refuted & self.may_gain)


def stand(limits: Bounds, cost: Sequence[float], preference: Sequence[float], decision: Decision) -> Standing:
    """Compares every arm with the margins and with its rivals; `cost` and `preference`: (N,)."""
    eligible, ineligible = retention(limits, decision)
    rival = ~np.eye(len(eligible), dtype=bool)
    near, beaten = np.ones_like(rival), np.zeros_like(rival)
    for unit in limits.units:
        margin = decision.margins(unit.metric).task
        near &= (unit.better_by > -margin) | ~rival | ineligible[None, :] | (not unit.gain_known)
        beaten |= (margin < unit.better_by.T) & rival & eligible[None, :]  # (N, N): by the rival in the column
    learned = [unit for unit in limits.units if unit.gain_known] or [limits]
    least = [decision.margins(unit.metric).least_gain for unit in learned]
    return Standing(
        eligible=eligible,
        ineligible=ineligible,
        good_enough=np.logical_and.reduce(near, axis=1),
        refuted=ineligible | beaten.any(axis=1),
        may_count=_any([unit.gain_high >= gain for unit, gain in zip(learned, least, strict=True)]),
        may_gain=_any([unit.gain_high > 0 for unit in learned]),
        surely_gains=_any([unit.gain_low > 0 for unit in learned]),
        cost=cost,
        preference=preference,
    )


def retention(limits: Bounds, decision: Decision) -> tuple[Truths, Truths]:
    """Which arms surely forget at most every margin, and which surely forget more than one of them, (N,) each.

    Where no suite measures what is forgotten no arm is either.
    """
    kept, lost = [], []
    for unit in limits.units:
        if unit.forgetting_known:
            margin = decision.margins(unit.metric).retention
            kept.append(unit.forgetting_high <= margin)
            lost.append(unit.forgetting_low > margin)
        if decision.suite_margin is not None and unit.worst_low is not None and unit.worst_high is not None:
            kept.append(unit.worst_high <= decision.suite_margin)
            lost.append(unit.worst_low > decision.suite_margin)
    nothing = np.zeros(len(limits.gain_low), dtype=bool)
    return (np.logical_and.reduce(kept), _any(lost)) if kept else (nothing, nothing)


def _any(found: Sequence[Truths]) -> Truths:
    result: Truths = np.logical_or.reduce(found)
    return result


def indices(arms: Truths) -> list[int]:
    """The arms of which it is true."""
    return [int(a) for a in np.flatnonzero(arms)]
