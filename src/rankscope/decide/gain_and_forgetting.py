"""Gain, forgetting and the differences between arms of one paired study, and bounds on them that hold all at once.

"All at once" is over the arms (Bonferroni) and, with adaptive seeds, over the looks (Pocock). docs/measures.md,
"Intervals and bounds", has the formulas. N arms, C = N (N - 1) / 2 pairs of arms; everything is a share of accuracy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import norm

from rankscope.decide.crossed_statistics import (
    Estimates,
    SuiteArrays,
    bootstrap_variance,
    estimate,
    gain_contrasts,
    pair_contrasts,
)
from rankscope.decide.paired_items import Pairing
from rankscope.decide.run_outcomes import NO_FLOOR, Floor, floor_of
from rankscope.records import Interval

Floats = NDArray[np.float64]

Widths = tuple[Floats | None, Floats | None, Floats | None]
"""Half widths of gain (N,), forgetting (N,) and the differences (C,); None where there is no estimate."""

_NODES = 256
_FAR = 9.0


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


@dataclass(frozen=True)
class Bounds:
    """One-sided bounds of N arms that hold all at once. `better_by[a, b]` is the lower bound of gain of a minus gain of
    b, (N, N), the others (N,). What could not be measured is unbounded: -inf and inf."""

    gain_low: Floats
    gain_high: Floats
    forgetting_low: Floats
    forgetting_high: Floats
    better_by: Floats


def measure(in_domain: Sequence[SuiteArrays], others: Sequence[SuiteArrays]) -> Measured:
    """Estimates gain over the in-domain suites, forgetting over the others, and every pairwise difference of gain."""
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
    """`measure` of paired suites, with the noise floor of the items that were compared."""
    floor = floor_of([suite.noise for suite in pairing.in_domain], [suite.noise for suite in pairing.others])
    measured = measure([suite.arrays for suite in pairing.in_domain], [suite.arrays for suite in pairing.others])
    return replace(measured, floor=floor)


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


# ---- how much error each bound may have -----------------------------------------------------------------------------


def simultaneous_alpha(confidence: float, arm_count: int) -> float:
    """The error of each one-sided bound: (1 - confidence) / (2 K) for K arms (Bonferroni)."""
    return (1 - confidence) / (2 * max(arm_count, 1))


@lru_cache(maxsize=256)
def nominal_alpha(alpha: float, counts: tuple[int, ...]) -> float:
    """The one-sided error of a bound at each look, such that over all looks (after `counts` seeds) it is `alpha`.

    Pocock's (1977) constant bound, for seeds alone: items are the same at every look, so that looks are more alike than
    this takes them to be, and the error is smaller. Used on t quantiles by the significance-level approach (Jennison &
    Turnbull 2000, section 4.4).
    """
    if len(counts) < 2:
        return alpha
    low, high = float(norm.isf(alpha)), float(norm.isf(alpha / len(counts)))
    bound = brentq(lambda z: crossing_probability(z, counts) - alpha, low, high, xtol=1e-9)
    return float(norm.sf(bound))


def crossing_probability(bound: float, counts: Sequence[int]) -> float:
    """P that the standardised mean of counts[0], or of counts[1], ... independent normal values exceeds `bound`.

    By the recursion of Armitage, McPherson & Rowe (1969) on the sum, with Gauss-Legendre nodes.
    """
    total, before = 0.0, 0
    density = points = weights = np.empty(0)
    roots, root_weights = np.polynomial.legendre.leggauss(_NODES)
    for count in counts:
        limit, step = bound * np.sqrt(count), np.sqrt(count - before)
        if before == 0:
            total += float(norm.sf(bound))
        else:
            total += float((weights * density * norm.sf((limit - points) / step)).sum())
        low = -_FAR * np.sqrt(count)
        new = low + (limit - low) * (roots + 1) / 2
        if before == 0:
            density = norm.pdf(new, scale=step)
        else:
            density = (weights * density) @ norm.pdf(new[None, :], points[:, None], step)
        points, weights, before = new, root_weights * (limit - low) / 2, count
    return total


# ---- bounds ---------------------------------------------------------------------------------------------------------


def closed_form_widths(measured: Measured, alpha: float) -> Widths:
    """Half widths of one-sided bounds at `alpha`, from the closed form's standard errors."""
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
    """Puts bounds around the means, each wider by what numerics alone may move.

    One item or cluster in a suite, or a single seed, bounds nothing.
    """
    count, floor = measured.arm_count, measured.floor
    added = (floor.gain, floor.forgetting, floor.gain)
    gain, forgetting, differences = (
        None if half is None else half + more for half, more in zip(widths, added, strict=True)
    )
    gain_low, gain_high = _around(measured.gain, gain, count)
    forgetting_low, forgetting_high = _around(measured.forgetting, forgetting, count)
    better_by = np.full((count, count), -np.inf)
    if measured.differences is not None and differences is not None and _can_bound(measured.differences):
        for (a, b), mean, half in zip(measured.pairs, measured.differences.mean, differences, strict=True):
            better_by[a, b], better_by[b, a] = mean - half, -mean - half
    return Bounds(gain_low, gain_high, forgetting_low, forgetting_high, better_by)


def _around(part: Estimates | None, half: Floats | None, count: int) -> tuple[Floats, Floats]:
    if part is None or half is None or not _can_bound(part):
        return np.full(count, -np.inf), np.full(count, np.inf)
    return part.mean - half, part.mean + half


def _can_bound(part: Estimates) -> bool:
    return part.seed_count > 1 and min(part.unit_counts) > 1


def tightest(before: Bounds, new: Bounds, places: Sequence[int]) -> Bounds:
    """Keeps the tighter of two bounds: all hold together, so what was sure once stays sure.

    `new` is of the arms at `places`. What is known of an arm that left and of one that is still compared also follows
    through a third: better_by[b, left] is at least better_by[b, c] + better_by[c, left].
    """
    at = np.array(places, dtype=int)
    parts = {}
    for name in ("gain_low", "gain_high", "forgetting_low", "forgetting_high"):
        parts[name] = getattr(before, name).copy()
        tighter = np.maximum if name.endswith("low") else np.minimum
        parts[name][at] = tighter(parts[name][at], getattr(new, name))
    better_by = before.better_by.copy()
    better_by[np.ix_(at, at)] = np.maximum(better_by[np.ix_(at, at)], new.better_by)
    left = [a for a in range(len(better_by)) if a not in set(places)]
    for gone in left:
        for c in at:
            better_by[at, gone] = np.maximum(better_by[at, gone], better_by[at, c] + better_by[c, gone])
    return Bounds(**parts, better_by=better_by)
