"""What a bet knows of each arm: its mean, and how far items and seeds may have moved it, as covariances over arms.

The closed form of crossed_statistics.py answers for one contrast at a time and errs towards wide, as a bound must. A
bet weighs all arms at once and must be neither wide nor narrow: items x seed is counted once, arms may have different
numbers of seeds, and an arm's own seed variance is drawn towards that of all. docs/measures.md, "The best bet".

N arms, K seeds at most, I items; arms that lack a seed have NaN there. Values are in points (hundredths of accuracy) or
in whatever unit the caller scaled them to.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2

from rankscope.decide.crossed_statistics import SuiteArrays

Floats = NDArray[np.float64]

PRIOR_DF = 4
"""Degrees of freedom that the pooled seed variance counts for beside an arm's own K - 1."""
MEDIAN_FACTOR = 1.5
"""The pooled variance counts for at most so much of the one that the median arm has: one wild arm is not all arms."""
MOST_SHARED = 0.9


@dataclass(frozen=True)
class Observed:
    """One axis (gain, or forgetting) as observed: `mean` (N,), and the covariances (N, N) of these means that items and
    seeds cause. `seed_counts` (N,): seeds of each arm; `item_counts`: units sampled in each suite."""

    mean: Floats
    items: Floats
    seeds: Floats
    seed_counts: NDArray[np.int64]
    item_counts: tuple[int, ...]

    @property
    def degrees(self) -> float:
        """Degrees of freedom of the seed variance: those of the mean arm's K - 1 and of the pooled one."""
        return float(self.seed_counts.mean()) - 1 + PRIOR_DF

    def with_seeds(self, variance: float) -> Observed:
        """The same with a seed variance that is assumed (one seed shows none)."""
        return Observed(self.mean, self.items, np.diag(variance / self.seed_counts), self.seed_counts, self.item_counts)


def observe(suites: Sequence[SuiteArrays], scale: float) -> Observed:
    """The change of every arm from the base, mean over suites of equal weight, times `scale` (100: points; below 0:
    forgetting). A suite's scores (N, K, I) may be NaN for seeds that an arm lacks, whole rows at a time.

    Raises ValueError for no suite, and for an arm without a seed.
    """
    if not suites:
        raise ValueError("no suite to bet on")
    has: NDArray[np.bool_] = np.logical_not(np.isnan(suites[0].scores).any(axis=2))
    counts = has.sum(axis=1)
    if not counts.all():
        raise ValueError("an arm without a seed")
    weight = scale / len(suites)
    arms = len(counts)
    items, residual = np.zeros((arms, arms)), np.zeros(arms)
    seed_means = np.zeros(has.shape)
    for suite in suites:
        items += weight**2 * _item_covariance(suite, has)
        residual += weight**2 * _residual_variance(suite, has)
        seed_means += weight * (suite.scores.mean(axis=2) - suite.base.mean())
    one_flip = max((weight / suite.base.size) ** 2 if suite.bounded else 0.0 for suite in suites)
    seeds = _seed_covariance(np.where(has, seed_means, np.nan), has, one_flip)
    mean = np.nanmean(np.where(has, seed_means, np.nan), axis=1)
    units = tuple(suite.unit_count for suite in suites)
    return Observed(mean, _without(items, residual / counts), seeds, counts, units)


def _item_covariance(suite: SuiteArrays, has: NDArray[np.bool_]) -> Floats:
    """Covariance (N, N) of the arms' gains from sampling items. An item gained and one lost is added to every arm's
    gain and to every difference of two (Bonett & Price 2012), as in the closed form; of losses the item that lies
    farthest from the mean; clusters as there."""
    scores = np.where(has[:, :, None], suite.scores, 0.0)
    change = scores.sum(axis=1) / has.sum(axis=1)[:, None] - suite.base
    count, units = suite.base.size, suite.unit_count
    few = 1.0 if units == count else units * (count - 1) / (count * max(units - 1, 1))
    centred = change - change.mean(axis=1, keepdims=True)
    sums = suite.by_unit(centred)
    step = np.ones(len(change)) if suite.bounded else np.abs(centred).max(axis=1)
    added = (np.eye(len(change)) + 1.0) * np.outer(step, step)
    covariance: Floats = few * (sums @ sums.T + added) / ((count + 1) * (count + 2))
    return covariance


def _residual_variance(suite: SuiteArrays, has: NDArray[np.bool_]) -> Floats:
    """Variance (N,) that items x seed adds to one seed's mean; 0 for an arm of one seed."""
    items, units = suite.base.size, suite.unit_count
    found = np.zeros(len(has))
    for arm, mine in enumerate(has):
        seeds = int(mine.sum())
        if seeds < 2 or units < 2:
            continue
        values = suite.scores[arm, mine]
        left = values - values.mean(axis=0) - values.mean(axis=1, keepdims=True) + values.mean()
        found[arm] = (suite.by_unit(left) ** 2).sum() * units / ((seeds - 1) * (units - 1) * items**2)
    return found


def _without(items: Floats, residual: Floats) -> Floats:
    """Takes the residual (N,), which the seeds' variance has too, off the items' covariance; what is left stays a
    covariance: no direction keeps less than a tenth of what it had on average."""
    cleaned = items - np.diag(residual)
    values, vectors = np.linalg.eigh(cleaned)
    least = 0.1 * float(np.linalg.eigvalsh(items)[0])
    kept: Floats = (vectors * np.maximum(values, max(least, 1e-12))) @ vectors.T
    return kept


def _seed_covariance(seed_means: Floats, has: NDArray[np.bool_], one_flip: float) -> Floats:
    """Covariance (N, N) of the arms' means that seeds cause, from their seeds' means (N, K), NaN where there is none.

    An arm's variance is (4 s0² + (K - 1) s²) / (K + 3), s0² the pooled one, at most 1.5 times what the median arm has;
    the correlation is one for all pairs. 0 where no arm has two seeds.
    """
    counts = has.sum(axis=1)
    several = counts > 1
    if not several.any():
        return np.zeros((len(has), len(has)))
    own = np.zeros(len(has))
    own[several] = np.nanvar(seed_means[several], axis=1, ddof=1)
    degrees = counts - 1
    pooled = float((degrees * own).sum() / degrees.sum())
    typical = own[several] / (chi2.ppf(0.5, degrees[several]) / degrees[several])
    common = min(pooled, MEDIAN_FACTOR * float(np.median(typical)))
    common = max(common, one_flip / float(counts.mean()))
    variance = (PRIOR_DF * common + degrees * own) / (degrees + PRIOR_DF)
    scale = np.sqrt(np.outer(variance, variance))
    shared = has.astype(float) @ has.T.astype(float)
    correlation = np.full(scale.shape, _correlation(seed_means, has, scale))
    np.fill_diagonal(correlation, 1.0)
    covariance: Floats = correlation * scale * shared / np.outer(counts, counts)
    return covariance


def _correlation(seed_means: Floats, has: NDArray[np.bool_], scale: Floats) -> float:
    """The share of a seed's effect that arms have in common, from the pairs of arms and the seeds that both have."""
    total = expected = 0.0
    for a in range(len(has)):
        for b in range(a):
            both = has[a] & has[b]
            degrees = int(both.sum()) - 1
            if degrees < 1:
                continue
            first, second = seed_means[a, both], seed_means[b, both]
            total += float(((first - first.mean()) * (second - second.mean())).sum())
            expected += degrees * float(scale[a, b])
    return min(max(total / expected, 0.0), MOST_SHARED) if expected > 0 else 0.0
