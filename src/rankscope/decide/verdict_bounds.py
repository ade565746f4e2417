"""Bounds on gain, forgetting and the differences between arms that hold all at once, as the rule compares them.

"All at once" is over the arms, over points and nats where suites of both kinds occur (Bonferroni), and with adaptive
seeds over the looks (Pocock); `error_spending.py` shares the error out. N arms, C = N (N - 1) / 2 pairs of arms.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rankscope.decide.crossed_statistics import (
    Estimates,
    SuiteArrays,
    bootstrap_variance,
    gain_contrasts,
    pair_contrasts,
)
from rankscope.decide.gain_and_forgetting import Measured
from rankscope.decide.paired_items import Pairing
from rankscope.records import Metric

Floats = NDArray[np.float64]


class Widths(NamedTuple):
    """Half widths of gain (N,), forgetting (N,) and the differences (C,), None where there is no estimate; of
    forgetting on single suites (S, N), where they are judged; and of the same in nats."""

    gain: Floats | None
    forgetting: Floats | None
    differences: Floats | None
    suites: tuple[Floats, ...] = ()
    nats: Widths | None = None


@dataclass(frozen=True)
class Bounds:
    """One-sided bounds of N arms that hold all at once, in one unit.

    `better_by[a, b]` is the lower bound of gain of a minus gain of b, (N, N), the others (N,). What could not be
    measured is unbounded: -inf and inf; `gain_known` and `forgetting_known` say whether any suite measures it.
    worst_low and worst_high: some suite is forgotten by at least that, and every suite by at most that; None where
    single suites are not judged. `nats`: the bounds of the suites that are judged by their loss.
    """

    gain_low: Floats
    gain_high: Floats
    forgetting_low: Floats
    forgetting_high: Floats
    better_by: Floats
    worst_low: Floats | None = None
    worst_high: Floats | None = None
    gain_known: bool = True
    forgetting_known: bool = True
    metric: Metric = "score"
    nats: Bounds | None = None

    @property
    def units(self) -> tuple[Bounds, ...]:
        """The bounds of each unit that occurs; itself alone where nothing was measured."""
        others = () if self.nats is None else (self.nats,)
        return (self, *others) if self.gain_known or self.forgetting_known or not others else others


# ---- widths ---------------------------------------------------------------------------------------------------------


def closed_form_widths(measured: Measured, alpha: float) -> Widths:
    """Half widths of one-sided bounds at `alpha`, from the closed form's standard errors.

    Bounds of single suites share `alpha`.
    """
    each = alpha / max(len(measured.suites), 1)
    parts = (measured.gain, measured.forgetting, measured.differences)
    gain, forgetting, differences = (None if part is None else part.half_width(alpha) for part in parts)
    return Widths(
        gain,
        forgetting,
        differences,
        suites=tuple(part.half_width(each) for part, _ in measured.suites),
        nats=None if measured.nats is None else closed_form_widths(measured.nats, alpha),
    )


def bootstrap_widths(pairing: Pairing, measured: Measured, alpha: float, seed: int, draws: int) -> Widths:
    """As `closed_form_widths`, the standard errors from a bootstrap over items and seeds; t quantiles as there.

    Single suites keep the closed form's widths.
    """
    rng = np.random.default_rng(seed)
    return _bootstrap_unit(pairing, measured, alpha, rng, draws)


def _bootstrap_unit(pairing: Pairing, measured: Measured, alpha: float, rng: np.random.Generator, draws: int) -> Widths:
    gains = gain_contrasts(measured.arm_count)
    inside = [suite.arrays for suite in pairing.in_domain_of(measured.metric)]
    outside = [suite.arrays for suite in pairing.others_of(measured.metric)]

    def width(part: Estimates | None, suites: list[SuiteArrays], contrasts: Floats) -> Floats | None:
        if part is None:
            return None
        return part.half_width(alpha, bootstrap_variance(suites, contrasts, rng, draws))

    closed = closed_form_widths(replace(measured, nats=None), alpha)
    nats = None if measured.nats is None else _bootstrap_unit(pairing, measured.nats, alpha, rng, draws)
    return Widths(
        width(measured.gain, inside, gains),
        width(measured.forgetting, outside, -gains),
        width(measured.differences, inside, pair_contrasts(measured.arm_count)[1]),
        closed.suites,
        nats,
    )


# ---- bounds ---------------------------------------------------------------------------------------------------------


def bounds(measured: Measured, widths: Widths) -> Bounds:
    """Puts bounds around the means, each wider by what numerics alone may move.

    One item or cluster in a suite, or a single seed, bounds nothing.
    """
    count, floor = measured.arm_count, measured.floor
    gain_low, gain_high = _around(measured.gain, widths.gain, floor.gain, count)
    forgetting_low, forgetting_high = _around(measured.forgetting, widths.forgetting, floor.forgetting, count)
    better_by = np.full((count, count), -np.inf)
    differences = measured.differences
    if differences is not None and widths.differences is not None and can_bound(differences):
        for (a, b), mean, half in zip(measured.pairs, differences.mean, widths.differences + floor.gain, strict=True):
            better_by[a, b], better_by[b, a] = mean - half, -mean - half
    worst_low, worst_high = _worst(measured, widths)
    return Bounds(
        gain_low,
        gain_high,
        forgetting_low,
        forgetting_high,
        better_by,
        worst_low,
        worst_high,
        gain_known=measured.gain is not None,
        forgetting_known=measured.forgetting is not None,
        metric=measured.metric,
        nats=None if measured.nats is None or widths.nats is None else bounds(measured.nats, widths.nats),
    )


def _around(part: Estimates | None, half: Floats | None, floor: float, count: int) -> tuple[Floats, Floats]:
    if part is None or half is None or not can_bound(part):
        return np.full(count, -np.inf), np.full(count, np.inf)
    return part.mean - half - floor, part.mean + half + floor


def _worst(measured: Measured, widths: Widths) -> tuple[Floats | None, Floats | None]:
    if not measured.suites:
        return None, None
    found = [
        _around(part, half, floor, measured.arm_count)
        for (part, floor), half in zip(measured.suites, widths.suites, strict=True)
    ]
    return np.max([low for low, _ in found], axis=0), np.max([high for _, high in found], axis=0)


def can_bound(part: Estimates) -> bool:
    """Whether an estimate says anything of other seeds and other items."""
    return part.seed_count > 1 and min(part.unit_counts) > 1


_LOWER = ("gain_low", "forgetting_low", "worst_low")
_UPPER = ("gain_high", "forgetting_high", "worst_high")


def tightest(before: Bounds, new: Bounds, places: Sequence[int]) -> Bounds:
    """Keeps the tighter of two bounds: all hold together, so what was sure once stays sure.

    `new` is of the arms at `places`. What is known of an arm that left and of one that is still compared also follows
    through a third: better_by[b, left] is at least better_by[b, c] + better_by[c, left].
    """
    at = np.array(places, dtype=int)
    parts: dict[str, Any] = {}
    for name in (*_LOWER, *_UPPER):
        old, found = getattr(before, name), getattr(new, name)
        if old is None or found is None:
            continue
        parts[name] = old.copy()
        tighter = np.maximum if name in _LOWER else np.minimum
        parts[name][at] = tighter(parts[name][at], found)
    better_by = before.better_by.copy()
    better_by[np.ix_(at, at)] = np.maximum(better_by[np.ix_(at, at)], new.better_by)
    left = [a for a in range(len(better_by)) if a not in set(places)]
    for gone in left:
        for c in at:
            better_by[at, gone] = np.maximum(better_by[at, gone], better_by[at, c] + better_by[c, gone])
    nats = before.nats if before.nats is None or new.nats is None else tightest(before.nats, new.nats, places)
    return replace(before, **parts, better_by=better_by, nats=nats)
