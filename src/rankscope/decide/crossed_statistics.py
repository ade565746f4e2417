"""Estimates contrasts between arms, with items crossed with seeds, in closed form; a bootstrap is its check.

Model. The score of arm a on item i of suite s with seed k is mu_a + item + seed + (item x seed); items, or clusters of
items, are a sample of the suite's population, the same in every arm, and seeds are blocks: seed k is the same order of
rows in every arm. A contrast is a row of weights over (base, arm 1, ..., arm N), taken on the mean over suites of the
mean over items.
docs/measures.md, "Intervals and bounds", holds the formulas and what the simulations say of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats as distributions

from rankscope.decide.seed_variance import seed_variance

Floats = NDArray[np.float64]

_DRAWS_AT_ONCE = 250


class SuiteArrays(NamedTuple):
    """One suite: base (I,), scores (N, K, I), the cluster (I,) of each item, numbered from 0; None: each its own.

    `bounded`: scores lie between 0 and 1, so that one item moves a mean by 1 / I at most; losses do not.
    """

    base: Floats
    scores: Floats
    clusters: NDArray[np.int64] | None = None
    bounded: bool = True

    @property
    def unit_count(self) -> int:
        """What is sampled independently: clusters, or items where there are none."""
        return self.base.size if self.clusters is None else int(self.clusters.max()) + 1

    def with_base(self) -> Floats:
        """(1 + N, K, I): the base in front, the same for every seed."""
        return np.concatenate([np.broadcast_to(self.base, (1, self.scores.shape[1], self.base.size)), self.scores])

    def by_unit(self, values: Floats) -> Floats:
        """Sums (..., units) of values (..., I) over the items of each unit."""
        if self.clusters is None:
            return values
        order = np.argsort(self.clusters, kind="stable")
        starts = np.searchsorted(self.clusters[order], np.arange(self.unit_count))
        sums: Floats = np.add.reduceat(values[..., order], starts, axis=-1)
        return sums


@dataclass(frozen=True)
class Estimates:
    """C contrasts and the parts of their variance, S suites, K seeds.

    mean (C,); item_variance (S, C): of the mean over seeds, from sampling items; residual_variance (S, C): of one
    seed's mean, from items x seed; own_seed_variance and seed_variance (C,): of one seed's mean between seeds, its own
    estimate and the one used (None for a single seed); seed_df (C,): degrees of freedom of the latter; unit_counts
    (S,): items, or clusters of items where a suite has them.
    """

    mean: Floats
    item_variance: Floats
    residual_variance: Floats
    own_seed_variance: Floats | None
    seed_variance: Floats | None
    seed_df: Floats
    seed_count: int
    item_counts: tuple[int, ...]
    unit_counts: tuple[int, ...]

    @property
    def variance(self) -> Floats:
        """Variance of the contrast (C,); over items only where there is a single seed."""
        return _total(self.item_variance, self.seed_variance, self.seed_count)

    @property
    def degrees(self) -> Floats:
        """Degrees of freedom of the variance (C,), after Satterthwaite (1946) over items and seeds."""
        return _degrees(self.item_variance, self.seed_variance, self.seed_df, self.seed_count, self.unit_counts)

    def half_width(self, alpha: float, variance: Floats | None = None) -> Floats:
        """Distance (C,) from the mean to its one-sided bound at `alpha`; `variance` replaces the closed form's."""
        used = self.variance if variance is None else variance
        return half_width(
            used, self.item_variance, self.seed_variance, self.seed_df, self.seed_count, self.unit_counts, alpha
        )


def _total(item_variance: Floats, seed_variance: Floats | None, seed_count: int) -> Floats:
    items = item_variance.sum(axis=0)
    return items if seed_variance is None else items + seed_variance / seed_count


def half_width(
    variance: Floats,
    item_variance: Floats,
    seed_variance: Floats | None,
    seed_df: Floats,
    seed_count: int,
    unit_counts: Sequence[int],
    alpha: float,
) -> Floats:
    """t quantile times standard error, degrees of freedom after Satterthwaite (1946) over items and seeds."""
    degrees = _degrees(item_variance, seed_variance, seed_df, seed_count, unit_counts)
    quantile: Floats = distributions.t.isf(alpha, degrees)
    return quantile * np.sqrt(variance)


def _degrees(
    item_variance: Floats, seed_variance: Floats | None, seed_df: Floats, seed_count: int, unit_counts: Sequence[int]
) -> Floats:
    item_df = np.maximum(np.asarray(unit_counts, dtype=float)[:, None] - 1, 1)
    shares = (item_variance**2 / item_df).sum(axis=0)
    total = _total(item_variance, seed_variance, seed_count)
    if seed_variance is not None:
        shares = shares + (seed_variance / seed_count) ** 2 / seed_df
    degrees: Floats = np.maximum(total**2 / shares, 1.0)
    return degrees


# ---- contrasts ------------------------------------------------------------------------------------------------------


def gain_contrasts(arm_count: int) -> Floats:
    """Each arm minus the base, (N, N + 1)."""
    return np.hstack([-np.ones((arm_count, 1)), np.eye(arm_count)])


def pair_contrasts(arm_count: int) -> tuple[list[tuple[int, int]], Floats]:
    """The pairs (a, b), a < b, and a minus b for each, (N (N - 1) / 2, N + 1)."""
    pairs = list(combinations(range(arm_count), 2))
    matrix = np.zeros((len(pairs), arm_count + 1))
    for row, (first, second) in enumerate(pairs):
        matrix[row, first + 1], matrix[row, second + 1] = 1.0, -1.0
    return pairs, matrix


# ---- closed form ----------------------------------------------------------------------------------------------------


def estimate(suites: Sequence[SuiteArrays], contrasts: Floats) -> Estimates:
    """Contrasts (C, N + 1) over `suites`, all with the same N arms and K seeds, each suite with the same weight.

    Items: the sample variance of the item's mean over seeds, with one item gained and one lost added (Bonett & Price
    2012), so that arms which never differ still have a width; of losses, which have no largest value, two items more
    that lie as far off as the farthest. Of clusters the sums, with G / (G - 1) for n / (n - 1).
    Seeds: the variance between the seeds' means (`seed_variance`), never below what one flip of one item in one seed
    would give. The residual stands in both, which errs towards wide. Raises ValueError for no suite or no contrast.
    """
    if not suites or not len(contrasts):
        raise ValueError("no suite or no contrast to estimate")
    weight = 1.0 / len(suites)
    stacked = [suite.with_base() for suite in suites]
    seed_count = stacked[0].shape[1]
    seed_means = weight * sum(values.mean(axis=2) for values in stacked)
    item_variance, residual = [], []
    for suite, values in zip(suites, stacked, strict=True):
        item_variance.append(weight**2 * _item_variance(suite, values, contrasts))
        residual.append(weight**2 * _residual_variance(suite, values, contrasts))
    counts = tuple(values.shape[2] for values in stacked)
    own: Floats | None = None
    used: Floats | None = None
    seed_df = np.zeros(len(contrasts))
    if seed_count > 1:
        one_flip = max(
            (weight / count) ** 2 if suite.bounded else 0.0 for suite, count in zip(suites, counts, strict=True)
        )
        own, used, seed_df = seed_variance(seed_means, contrasts, one_flip / seed_count)
    mean = contrasts @ seed_means.mean(axis=1)
    units = tuple(suite.unit_count for suite in suites)
    return Estimates(mean, np.array(item_variance), np.array(residual), own, used, seed_df, seed_count, counts, units)


def _item_variance(suite: SuiteArrays, values: Floats, contrasts: Floats) -> Floats:
    """Variance (C,) of the mean over items, from (N + 1, K, I); cluster-robust where items come in clusters."""
    item_means = values.mean(axis=1)
    count, units = item_means.shape[1], suite.unit_count
    centred = item_means - item_means.mean(axis=1, keepdims=True)
    sums = suite.by_unit(centred)
    squares = np.einsum("ca,ab,cb->c", contrasts, sums @ sums.T, contrasts)
    few = 1.0 if units == count else units * (count - 1) / (count * max(units - 1, 1))
    step = np.ones(len(contrasts)) if suite.bounded else _farthest(centred, contrasts)
    result: Floats = few * (np.maximum(squares, 0.0) + 2.0 * step**2) / ((count + 1) * (count + 2))
    return result


def _farthest(centred: Floats, contrasts: Floats) -> Floats:
    """How far the item that lies farthest from its contrast's mean is off, (C,); `centred` is (N + 1, I)."""
    return np.array([np.abs(row @ centred).max() for row in contrasts])


def _residual_variance(suite: SuiteArrays, values: Floats, contrasts: Floats) -> Floats:
    """Variance (C,) that items x seed adds to one seed's mean over items; zero where there is nothing to see it by."""
    arms, seeds, items = values.shape
    units = suite.unit_count
    if seeds < 2 or units < 2:
        return np.zeros(len(contrasts))
    left = values - values.mean(axis=1, keepdims=True) - values.mean(axis=2, keepdims=True)
    left = suite.by_unit(left + values.mean(axis=(1, 2), keepdims=True)).reshape(arms, -1)
    squares = np.einsum("ca,ab,cb->c", contrasts, left @ left.T, contrasts)
    result: Floats = np.maximum(squares, 0.0) * units / ((seeds - 1) * (units - 1) * items**2)
    return result


# ---- one seed -------------------------------------------------------------------------------------------------------


def mcnemar_exact(lost: int, won: int) -> float:
    """Two-sided exact McNemar test: P of a split of `lost` + `won` flips at least this uneven. 1 where none flipped."""
    if lost + won == 0:
        return 1.0
    return float(distributions.binomtest(lost, lost + won, 0.5).pvalue)


def bootstrap_variance(
    suites: Sequence[SuiteArrays], contrasts: Floats, rng: np.random.Generator, draws: int = 2000
) -> Floats:
    """Variance (C,) by resampling items within suites and seeds as blocks (Owen 2007, "The pigeonhole bootstrap").

    Each draw takes the seeds and, in every suite, the items (or the clusters of items) with replacement. What the seeds
    add to the draws' variance is scaled by K / (K - 1), as K resampled seeds spread that much too little, and pooled
    over contrasts as in `estimate`; items are scaled likewise by their units. One seed: items only.
    """
    arms, seeds = suites[0].scores.shape[:2]
    by_seed = np.zeros((draws, arms + 1, seeds))
    for suite in suites:
        values = suite.with_base()
        sums = suite.by_unit(values).reshape(-1, suite.unit_count)
        sizes = suite.by_unit(np.ones(suite.base.size))
        means = np.empty((draws, len(sums)))
        for start in range(0, draws, _DRAWS_AT_ONCE):  # a matrix of all draws and items would be large
            drawn = _counts(rng, min(_DRAWS_AT_ONCE, draws - start), suite.unit_count)
            means[start : start + _DRAWS_AT_ONCE] = (drawn @ sums.T) / (drawn @ sizes)[:, None]
        whole = values.mean(axis=2).ravel()
        widened = whole + (means - whole) * np.sqrt(suite.unit_count / max(suite.unit_count - 1, 1))
        by_seed += widened.reshape(draws, arms + 1, seeds) / len(suites)
    items_only: Floats = (by_seed.mean(axis=2) @ contrasts.T).var(axis=0)
    if seeds < 2:
        return items_only
    seed_weights = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=draws) / seeds
    crossed = (np.einsum("rak,rk->ra", by_seed, seed_weights) @ contrasts.T).var(axis=0)
    from_seeds = np.maximum(crossed - items_only, 0.0) * seeds / (seeds - 1)
    pooled: Floats = items_only + np.maximum(from_seeds, from_seeds.mean())
    return pooled


def _counts(rng: np.random.Generator, draws: int, count: int) -> Floats:
    """How often each of `count` units is drawn, (draws, count)."""
    drawn = rng.integers(0, count, size=(draws, count)) + np.arange(draws)[:, None] * count
    return np.bincount(drawn.ravel(), minlength=draws * count).reshape(draws, count).astype(float)
