"""What the same study would be with more seeds or more items: its variances, its bounds, and where its means may lie.

Everything is the closed form of `crossed_statistics.py` with other numbers plugged into the study's estimates.
docs/measures.md, "Intervals and bounds", has the formulas.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rankscope.decide.crossed_statistics import Estimates, half_width
from rankscope.decide.gain_and_forgetting import Measured
from rankscope.decide.verdict_bounds import Widths

Floats = NDArray[np.float64]

DRAWS = 100
"""Larger studies that are drawn."""
_SHARED = 0.5
"""Correlation of two arms' errors of forgetting where that of their gains is not known."""


class Planned(NamedTuple):
    """The parts of the variance (C,) of C contrasts with other numbers of seeds and items, were the estimates true."""

    item_variance: Floats
    """(S, C), of the mean over seeds."""
    seed_variance: Floats
    seed_df: Floats
    unit_counts: list[int]

    def variance(self, seeds: int) -> Floats:
        """Of the contrasts, (C,)."""
        result: Floats = self.item_variance.sum(axis=0) + self.seed_variance / seeds
        return result


def planned_parts(part: Estimates, seeds: int, more_items: int) -> Planned:
    """`part` with `seeds` seeds and `more_items` more items in every suite. Raises ValueError for estimates of a single
    seed."""
    if part.seed_variance is None:
        raise ValueError("one seed does not say how seeds vary")
    counts = np.asarray(part.item_counts, dtype=float)[:, None]
    stretch = counts / (counts + more_items)
    items = np.maximum(part.item_variance - part.residual_variance / part.seed_count, 0.0)
    residual = part.residual_variance * stretch
    from_seeds = np.maximum(part.seed_variance - part.residual_variance.sum(axis=0), 0.0)
    units = [
        round(units * (items + more_items) / items)
        for units, items in zip(part.unit_counts, part.item_counts, strict=True)
    ]
    return Planned(
        item_variance=items * stretch + residual / seeds,
        seed_variance=from_seeds + residual.sum(axis=0),
        seed_df=part.seed_df * (seeds - 1) / (part.seed_count - 1),
        unit_counts=units,
    )


def planned_half_width(part: Estimates, alpha: float, seeds: int, more_items: int) -> Floats:
    """Half widths (C,) of C contrasts with `seeds` seeds and `more_items` more items in every suite, were the estimates
    true. Raises ValueError for estimates of a single seed."""
    planned = planned_parts(part, seeds, more_items)
    item, seed, degrees, units = planned
    return half_width(planned.variance(seeds), item, seed, degrees, seeds, units, alpha)


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


# ---- where the means may lie ----------------------------------------------------------------------------------------


def future_means(measured: Measured, seeds: int, more_items: int) -> Iterator[Measured]:
    """DRAWS studies that hold this one and have `seeds` seeds and `more_items` more items in every suite.

    The means of the larger study lie about the present ones with the variance that the present means have beyond those
    of the larger one: that is what remains to be learned (a flat prior). Variances are left as they are estimated.
    The draws are the same for every number of seeds and items, so that more of them narrow the same study.
    """
    rng = np.random.default_rng(0)
    units = [measured, *([measured.nats] if measured.nats is not None else [])]
    normal = [rng.normal(size=(DRAWS, 2 + len(unit.suites), unit.arm_count)) for unit in units]
    drawn = [_draws(unit, seeds, more_items, mine) for unit, mine in zip(units, normal, strict=True)]
    for k in range(DRAWS):
        found = [study[k] for study in drawn]
        yield replace(found[0], nats=found[1]) if len(found) > 1 else found[0]


def _draws(unit: Measured, seeds: int, more_items: int, normal: Floats) -> list[Measured]:
    """Of one unit; `normal` (DRAWS, 2 + suites, arms) is standard normal."""
    shared = _correlation(unit)

    def moved(part: Estimates | None, place: int) -> Floats | None:
        if part is None:
            return None
        spread = np.sqrt(_open_variance(part, seeds, more_items))
        result: Floats = part.mean + spread * (normal[:, place] @ shared.T)
        return result

    gain, lost = moved(unit.gain, 0), moved(unit.forgetting, 1)
    suites = [moved(part, 2 + place) for place, (part, _) in enumerate(unit.suites)]
    pairs = np.array(unit.pairs, dtype=int).reshape(-1, 2)
    found = []
    for k in range(len(normal)):
        between = None if gain is None else gain[k, pairs[:, 0]] - gain[k, pairs[:, 1]]
        found.append(
            replace(
                unit,
                gain=_at(unit.gain, None if gain is None else gain[k]),
                forgetting=_at(unit.forgetting, None if lost is None else lost[k]),
                differences=_at(unit.differences, between),
                suites=tuple(
                    (replace(part, mean=part.mean if mean is None else mean[k]), floor)
                    for (part, floor), mean in zip(unit.suites, suites, strict=True)
                ),
            )
        )
    return found


def _at(part: Estimates | None, mean: Floats | None) -> Estimates | None:
    return part if part is None or mean is None else replace(part, mean=mean)


def _open_variance(part: Estimates, seeds: int, more_items: int) -> Floats:
    """The variance (C,) of the present means about those of the larger study."""
    return np.maximum(_mean_variance(part, part.seed_count, 0) - _mean_variance(part, seeds, more_items), 0.0)


def _mean_variance(part: Estimates, seeds: int, more_items: int) -> Floats:
    """Of the means (C,), items x seed counted once (a bound counts it twice, to err towards wide)."""
    planned = planned_parts(part, seeds, more_items)
    counts = np.asarray(part.item_counts, dtype=float)[:, None]
    twice = (part.residual_variance * counts / (counts + more_items)).sum(axis=0) / seeds
    return np.maximum(planned.variance(seeds) - twice, 0.0)


def _correlation(unit: Measured) -> Floats:
    """A root (N, N) of the correlation of the arms' errors of gain, as differences and gains have it."""
    count, gain, differences = unit.arm_count, unit.gain, unit.differences
    matrix = np.full((count, count), _SHARED)
    if gain is not None and differences is not None and (gain.variance > 0).all():
        for (a, b), apart in zip(unit.pairs, differences.variance, strict=True):
            product = np.sqrt(gain.variance[a] * gain.variance[b])
            matrix[a, b] = matrix[b, a] = (gain.variance[a] + gain.variance[b] - apart) / (2 * product)
    np.fill_diagonal(matrix, 1.0)
    values, vectors = np.linalg.eigh(np.clip(matrix, -1.0, 1.0))
    root = vectors * np.sqrt(np.maximum(values, 0.0))
    result: Floats = root / np.sqrt((root**2).sum(axis=1, keepdims=True))
    return result
