"""How much the seeds of each arm scatter, for C contrasts of N arms over K seeds: pooled, and an unstable arm's own.

Few seeds say little of one arm's scatter, so it is pooled over arms. Pooling is wrong for an arm that scatters much
more than the others: where an F test tells so, its contrasts have their own variance with their own few degrees of
freedom.
docs/measures.md, "Intervals and bounds", has the formulas and what the simulations say of them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats as distributions

Floats = NDArray[np.float64]
Truths = NDArray[np.bool_]

STANDS_OUT_ERROR = 0.05
"""How often an arm that scatters like the others is taken for one that does not."""


class SeedVariance(NamedTuple):
    """Of one seed's mean between seeds, (C,) each: the contrast's own estimate, the one used, and the latter's degrees
    of freedom."""

    own: Floats
    used: Floats
    degrees: Floats


def seed_variance(seed_means: Floats, contrasts: Floats, least: float) -> SeedVariance:
    """The variance between seeds of C contrasts (C, N + 1) of `seed_means` (N + 1, K), the base in front, K >= 2.

    Used is the larger of the contrast's own variance, its mean over the contrasts, and `least`. The degrees of freedom
    are those of the pooled variance, and K - 1 for a contrast with an arm that stands out.
    """
    seeds = seed_means.shape[1]
    covariance = np.atleast_2d(np.cov(seed_means))
    own = np.maximum(np.einsum("ca,ab,cb->c", contrasts, covariance, contrasts), 0.0)
    used = np.maximum(np.maximum(own, own.mean()), least)
    arms, of_arms = covariance[1:, 1:], contrasts[:, 1:]
    pooled = (seeds - 1) * _pooling_gain(arms, of_arms)
    alone = (np.abs(of_arms) > 0) @ standing_out(arms, seeds)
    return SeedVariance(own, used, np.where(alone, seeds - 1.0, pooled))


def standing_out(covariance: Floats, seeds: int) -> Truths:
    """Which of N arms' seeds scatter surely more than those of the other arms together, (N,); none of a single arm.

    A one-sided F test of an arm's variance over the mean of the others', at STANDS_OUT_ERROR. `covariance` (N, N) is of
    the arms' means over `seeds` seeds. Arms whose seeds never move are compared with what is left above 0.
    """
    count = len(covariance)
    variances = np.diag(covariance)
    found = np.zeros(count, dtype=bool)
    for a in range(count if count > 1 else 0):
        rest = np.delete(np.arange(count), a)
        others = covariance[np.ix_(rest, rest)]
        degrees = (seeds - 1) * _pooling_gain(others, np.eye(count - 1))
        limit = float(distributions.f.isf(STANDS_OUT_ERROR, seeds - 1, degrees))
        found[a] = variances[a] > limit * variances[rest].mean()
    return found


def _pooling_gain(covariance: Floats, contrasts: Floats) -> float:
    """By how much pooling over contrasts multiplies the K - 1 degrees of freedom of one, at least 1.

    The mean of correlated variances has (K - 1) tr(S)^2 / tr(S S) degrees of freedom (Box 1954), S the contrasts'
    covariance. S is taken from one variance and one correlation over arms: with few seeds no more can be estimated.
    """
    arms = len(covariance)
    variance = float(np.trace(covariance)) / arms
    if variance <= 0:
        return 1.0
    shared = (float(covariance.sum()) / arms - variance) / (arms - 1) if arms > 1 else 0.0
    correlation = min(max(shared / variance, 0.0), 0.999)
    spherical = contrasts @ ((1 - correlation) * np.eye(arms) + correlation) @ contrasts.T
    return max(float(np.trace(spherical) ** 2 / (spherical**2).sum()), 1.0)
