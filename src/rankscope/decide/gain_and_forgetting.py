"""Gain, forgetting and the differences between arms of one paired study, in points and, of losses, in nats.

N arms, C = N (N - 1) / 2 pairs of arms. docs/measures.md, "Intervals and bounds", has the formulas. Bounds around these
estimates that hold all at once are in `verdict_bounds.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from rankscope.decide.crossed_statistics import Estimates, SuiteArrays, estimate, gain_contrasts, pair_contrasts
from rankscope.decide.paired_items import Pairing, SuiteScores
from rankscope.decide.run_outcomes import NO_FLOOR, Floor, floor_of
from rankscope.records import Interval, Metric

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Measured:
    """Estimates over N arms in one unit, None where no suite (or no second arm) allows one.

    Difference c is of `pairs[c]`; `floor` is what numerics alone may move. `suites` are the estimates of forgetting on
    each suite, with what numerics may move there, where a margin for single suites is asked of. `nats`: the same of the
    suites that are judged by their loss, None where there is no such suite.
    """

    gain: Estimates | None
    forgetting: Estimates | None
    differences: Estimates | None
    pairs: list[tuple[int, int]]
    arm_count: int
    floor: Floor = NO_FLOOR
    suites: tuple[tuple[Estimates, float], ...] = ()
    metric: Metric = "score"
    nats: Measured | None = None

    @property
    def units(self) -> tuple[Measured, ...]:
        """What was measured in each unit that occurs; itself alone where nothing was measured."""
        others = () if self.nats is None else (self.nats,)
        some = self.gain is not None or self.forgetting is not None
        return (self, *others) if some or not others else others

    def unit(self, metric: Metric) -> Measured | None:
        """What was measured in one unit."""
        return next((unit for unit in self.units if unit.metric == metric), None)

    @property
    def seed_count(self) -> int:
        """Seeds of each arm; 0 where nothing was measured."""
        parts = (part for unit in self.units for part in (unit.gain, unit.forgetting) if part is not None)
        return next((part.seed_count for part in parts), 0)

    def observed_gain(self) -> Floats:
        """Mean gain (N,) in the first unit that has one, zeros where none has: it orders arms of equal size."""
        return next((unit.gain.mean for unit in self.units if unit.gain is not None), np.zeros(self.arm_count))


def measure(in_domain: Sequence[SuiteArrays], others: Sequence[SuiteArrays]) -> Measured:
    """Estimates gain over the in-domain suites, forgetting over the others, and every pairwise difference of gain.

    All suites are of one unit, which is points unless it is said otherwise.
    """
    some = in_domain or others
    count = some[0].scores.shape[0] if some else 0
    gains = gain_contrasts(count)
    pairs, matrix = pair_contrasts(count)
    return Measured(
        gain=estimate(in_domain, gains) if in_domain and count else None,
        forgetting=estimate(others, -gains) if others and count else None,
        differences=estimate(in_domain, matrix) if in_domain and pairs else None,
        pairs=pairs,
        arm_count=count,
    )


def measure_pairing(pairing: Pairing, *, by_suite: bool = False) -> Measured:
    """`measure` of paired suites, each unit for itself, with the noise floor of the items that were compared.

    `by_suite`: forgetting on each suite in points too.
    """
    inside, outside = pairing.in_domain, pairing.others
    points = _measure_unit(inside, outside, "score")
    if by_suite and outside and points.arm_count:
        losses = -gain_contrasts(points.arm_count)
        points = replace(points, suites=tuple((estimate([s.arrays], losses), s.noise) for s in outside))
    inside, outside = pairing.in_domain_of("loss"), pairing.others_of("loss")
    nats = _measure_unit(inside, outside, "loss") if inside or outside else None
    return replace(points, nats=nats, arm_count=len(pairing.labels))


def _measure_unit(inside: Sequence[SuiteScores], outside: Sequence[SuiteScores], metric: Metric) -> Measured:
    measured = measure([suite.arrays for suite in inside], [suite.arrays for suite in outside])
    floor = floor_of([suite.noise for suite in inside], [suite.noise for suite in outside])
    return replace(measured, floor=floor, metric=metric)


def intervals(part: Estimates | None, confidence: float, count: int) -> list[Interval]:
    """Two-sided intervals at `confidence`, each for itself (not simultaneous); over items only for a single seed.

    `count` arms; without an estimate every interval is empty. A suite of one item, or of one cluster, has a mean and
    no interval.
    """
    if part is None:
        return [Interval(mean=None, low=None, high=None)] * count
    half = part.half_width((1 - confidence) / 2)
    if min(part.unit_counts) < 2:
        half = np.full(count, np.nan)
    return [
        Interval(
            mean=float(mean),
            low=None if np.isnan(width) else float(mean - width),
            high=None if np.isnan(width) else float(mean + width),
        )
        for mean, width in zip(part.mean, half, strict=True)
    ]


def pareto_front(gain: Floats, lost: Floats) -> list[int]:
    """The arms with a gain above 0 that no other arm beats on both axes, by gain. `gain` and `lost`: (N,)."""

    def beaten(a: int, b: int) -> bool:
        return bool(gain[b] >= gain[a] and lost[b] <= lost[a] and (gain[b] > gain[a] or lost[b] < lost[a]))

    arms = range(len(gain))
    kept = [a for a in arms if gain[a] > 0 and not any(beaten(a, b) for b in arms)]
    return sorted(kept, key=lambda a: float(gain[a]))
