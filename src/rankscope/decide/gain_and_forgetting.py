"""Gain, forgetting and the differences between arms of one paired study, and the bounds that the rule looks at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from rankscope.decide.crossed_statistics import (
    Estimates,
    SuiteArrays,
    bootstrap_variance,
    estimate,
    gain_contrasts,
    pair_contrasts,
)
from rankscope.decide.noise_floor import NO_FLOOR, Floor, floor_of
from rankscope.decide.paired_items import Pairing
from rankscope.decide.verdict_rule import Bounds, Ruling, judge
from rankscope.records import Interval
from rankscope.study.study import Decision

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Measured:
    """Estimates over N arms, None where no suite (or no second arm) allows one. Difference c is of `pairs[c]`; `floor`
    is what numerics alone may move."""

    gain: Estimates | None
    forgetting: Estimates | None
    differences: Estimates | None
    pairs: list[tuple[int, int]]
    arm_count: int
    floor: Floor = NO_FLOOR


def measure(in_domain: Sequence[SuiteArrays], others: Sequence[SuiteArrays]) -> Measured:
    """G over the in-domain suites, F over the others, and every pairwise difference of G."""
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


def measure_pairing(pairing: Pairing) -> Measured:
    floor = floor_of([suite.noise for suite in pairing.in_domain], [suite.noise for suite in pairing.others])
    measured = measure([suite.arrays for suite in pairing.in_domain], [suite.arrays for suite in pairing.others])
    return replace(measured, floor=floor)


Widths = tuple[Floats | None, Floats | None, Floats | None]
"""Half widths of gain (N,), forgetting (N,) and the differences (C,)."""


def closed_form_widths(measured: Measured, alpha: float) -> Widths:
    parts = (measured.gain, measured.forgetting, measured.differences)
    gain, forgetting, differences = (None if part is None else part.half_width(alpha) for part in parts)
    return gain, forgetting, differences


def bootstrap_widths(pairing: Pairing, measured: Measured, alpha: float, seed: int, draws: int) -> Widths:
    """As `closed_form_widths`, the standard errors from a bootstrap over items and seeds; t quantiles as there."""
    rng = np.random.default_rng(seed)
    gains = gain_contrasts(measured.arm_count)
    inside, outside = ([suite.arrays for suite in suites] for suites in (pairing.in_domain, pairing.others))

    def width(part: Estimates | None, suites: list[SuiteArrays], contrasts: Floats) -> Floats | None:
        if part is None:
            return None
        return part.half_width(alpha, bootstrap_variance(suites, contrasts, rng, draws))

    return (
        width(measured.gain, inside, gains),
        width(measured.forgetting, outside, -gains),
        width(measured.differences, inside, pair_contrasts(measured.arm_count)[1]),
    )


def bounds(measured: Measured, widths: Widths) -> Bounds:
    """Means and half widths as the rule's bounds, each wider by what numerics alone may move. One item or cluster in a
    suite, or a single seed, bounds nothing."""
    count = measured.arm_count
    widths = _above_the_floor(widths, measured.floor)
    gain_low, gain_high = _around(measured.gain, widths[0], count)
    forgetting_low, forgetting_high = _around(measured.forgetting, widths[1], count)
    better_by = np.full((count, count), -np.inf)
    if measured.differences is not None and widths[2] is not None and _can_bound(measured.differences):
        for (a, b), mean, half in zip(measured.pairs, measured.differences.mean, widths[2], strict=True):
            better_by[a, b], better_by[b, a] = mean - half, -mean - half
    return Bounds(gain_low, gain_high, forgetting_low, forgetting_high, better_by)


def _above_the_floor(widths: Widths, floor: Floor) -> Widths:
    added = (floor.gain, floor.forgetting, floor.gain)
    gain, forgetting, differences = (
        None if half is None else half + more for half, more in zip(widths, added, strict=True)
    )
    return gain, forgetting, differences


def _around(part: Estimates | None, half: Floats | None, count: int) -> tuple[Floats, Floats]:
    if part is None or half is None or not _can_bound(part):
        return np.full(count, -np.inf), np.full(count, np.inf)
    return part.mean - half, part.mean + half


def _can_bound(part: Estimates) -> bool:
    return part.seed_count > 1 and min(part.unit_counts) > 1


def rule_on(measured: Measured, widths: Widths, cost: Sequence[float], decision: Decision) -> Ruling:
    """The rule on these means and widths; arms in order of `cost`."""
    preference = measured.gain.mean if measured.gain is not None else np.zeros(measured.arm_count)
    return judge(bounds(measured, widths), cost, [float(value) for value in preference], decision)


def intervals(part: Estimates | None, confidence: float, count: int, sign: float = 1.0) -> list[Interval]:
    """Two-sided intervals at `confidence`, each for itself (not simultaneous); over items only for a single seed.

    A suite of one item, or of one cluster, has a mean and no interval.
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
        for mean, width in zip(sign * part.mean, half, strict=True)
    ]
