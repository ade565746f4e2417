"""The bootstrap over items crossed with seeds: the check of the closed form in stats.py."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rankscope.decide.stats import SuiteArrays

Floats = NDArray[np.float64]


def bootstrap_variance(
    suites: Sequence[SuiteArrays], contrasts: Floats, rng: np.random.Generator, draws: int = 2000
) -> Floats:
    """Variance (C,) by resampling items within suites and seeds as blocks (Owen 2007, "The pigeonhole bootstrap").

    Each draw takes the seeds and, in every suite, the items (or the clusters of items) with replacement. What the seeds
    add to the draws' variance is scaled by K / (K - 1), as K resampled seeds spread that much too little, and pooled
    over contrasts as in `stats.estimate`; items are scaled likewise by their units. One seed: items only.
    """
    arms, seeds = suites[0].scores.shape[:2]
    by_seed = np.zeros((draws, arms + 1, seeds))
    for suite in suites:
        values = suite.with_base()
        sums = suite.by_unit(values).reshape(-1, suite.unit_count)
        sizes = suite.by_unit(np.ones(suite.base.size))
        drawn = _counts(rng, draws, suite.unit_count)
        means = (drawn @ sums.T) / (drawn @ sizes)[:, None]
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
