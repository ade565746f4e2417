"""The scatter of seeds: pooled over arms, and an unstable arm's own with its own degrees of freedom."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from rankscope.decide.crossed_statistics import gain_contrasts, pair_contrasts
from rankscope.decide.seed_variance import seed_variance, standing_out


def seed_means(levels: np.ndarray) -> np.ndarray:
    """(N + 1, K) with a base that no seed moves in front."""
    return np.vstack([np.zeros(levels.shape[1]), levels])


STEADY = np.array([[0.50, 0.51, 0.49], [0.40, 0.41, 0.405], [0.60, 0.59, 0.61], [0.7, 0.69, 0.70]])


def test_an_unstable_arm_has_its_own_variance_and_its_own_degrees_of_freedom() -> None:
    levels = np.vstack([STEADY, [[0.3, 0.6, 0.9]]])
    found = seed_variance(seed_means(levels), gain_contrasts(5), 0.0)
    assert found.used[4] == pytest.approx(levels[4].var(ddof=1))
    assert found.degrees[4] == 2
    assert (found.degrees[:4] > 4).all()
    pairs, contrasts = pair_contrasts(5)
    of_pairs = seed_variance(seed_means(levels), contrasts, 0.0)
    for (a, b), degrees in zip(pairs, of_pairs.degrees, strict=True):
        assert (degrees == 2) == (4 in (a, b))


def test_arms_that_scatter_alike_stand_out_as_often_as_the_test_says() -> None:
    rng = np.random.default_rng(0)
    found = [standing_out(np.cov(rng.normal(size=(6, 3))), 3) for _ in range(1500)]
    assert np.mean(found) == pytest.approx(0.05, abs=0.015)


def test_the_test_is_fishers_where_arms_are_independent() -> None:
    """Two arms: the variance ratio against F(K - 1, K - 1)."""
    limit = stats.f.isf(0.05, 4, 4)
    assert not standing_out(np.diag([1.0, 0.999 * limit]), 5).any()
    assert standing_out(np.diag([1.0, 1.001 * limit]), 5).tolist() == [False, True]


def test_a_single_arm_has_no_other_to_stand_out_from() -> None:
    assert not standing_out(np.array([[1.0]]), 3).any()


def test_an_unstable_arm_on_the_margin_is_rarely_called_eligible() -> None:
    """The simulation behind the rule: 6 arms, one whose seeds scatter 8 times as much, its true value on the bound.

    With the pooled degrees of freedom the bound at 0.42 % fails in about 4 % of studies of three seeds.
    """
    rng = np.random.default_rng(1)
    alpha, spread, failed, pooled = 0.025 / 6, np.array([1, 1, 1, 1, 1, 8.0]), 0, 0
    for _ in range(1000):
        shared, own = rng.normal(size=3), rng.normal(size=(6, 3))
        moved = spread[:, None] * (np.sqrt(0.3) * shared + np.sqrt(0.7) * own)
        found = seed_variance(seed_means(moved), gain_contrasts(6), 0.0)
        mean, error = moved[5].mean(), np.sqrt(found.used[5] / 3)
        failed += mean + stats.t.isf(alpha, found.degrees[5]) * error < 0
        pooled += mean + stats.t.isf(alpha, found.degrees[:5].max()) * error < 0
    assert failed / 1000 < 0.02
    assert failed < 0.6 * pooled
