"""Draws of the truth against brute force: exact conditioning, numerical integration, scipy's multivariate normal."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import chi2, multivariate_normal

from rankscope.decide.bet_likelihood import Observed
from rankscope.decide.bet_posterior import (
    CURVE_SDS,
    OUTLIER_SD,
    OWN_SDS,
    Place,
    Prior,
    condition,
    draw_truths,
    make_prior,
    seed_scales,
)

RANKS = [Place(float(x), apart=False) for x in range(5)]
FULL = Place(None, apart=True)
WIDE = 3000.0  # the standard deviation of a level that is as good as flat


def covariance(rng: np.random.Generator, count: int) -> np.ndarray:
    root = rng.normal(size=(count, count))
    return root @ root.T + 0.5 * np.eye(count)


def test_conditioning_is_that_of_a_joint_normal_with_a_wide_level() -> None:
    rng = np.random.default_rng(1)
    noise, prior = covariance(rng, 4), 3 * covariance(rng, 4)
    seen = rng.normal(size=4) * 5
    found = condition(seen, noise[None], prior[None])
    whole = prior + WIDE**2
    gain = whole @ np.linalg.inv(whole + noise)
    np.testing.assert_allclose(found.mean[0, 0], gain @ seen, atol=1e-4)
    np.testing.assert_allclose(found.covariance[0, 0], whole - gain @ whole, atol=2e-3)  # of 9e6


def test_the_marginal_likelihood_is_scipy_s_but_for_the_constant_of_the_level() -> None:
    rng = np.random.default_rng(2)
    noise = covariance(rng, 4)
    priors = np.array([covariance(rng, 4), 9 * covariance(rng, 4), 0.1 * np.eye(4)])
    seen = rng.normal(size=4) * 3
    found = condition(seen, noise[None], priors).log_likelihood[0]
    expected = [multivariate_normal(cov=noise + prior + WIDE**2).logpdf(seen) for prior in priors]
    np.testing.assert_allclose(found - found[0], np.array(expected) - expected[0], atol=1e-4)


def test_draws_have_the_moments_of_numerical_integration() -> None:
    """Two arms: the posterior over a mixture of two priors and unknown seed scales, summed on a grid of truths."""
    items, seeds = np.diag([0.5, 0.3]), np.array([[0.8, 0.2], [0.2, 0.6]])
    seen = Observed(np.array([1.0, 4.0]), items, seeds, np.array([3, 3]), (100,))
    prior = Prior(np.array([0.09 * np.eye(2), 4.0 * np.eye(2)]), np.zeros(2))
    scales = seed_scales(6.0, 4)
    drawn = draw_truths(seen, prior, np.random.default_rng(0), 200_000, scales)
    axis = np.linspace(-8, 13, 211)
    grid = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
    total = np.zeros(len(grid))
    for scale in scales:  # each scale is equally likely beforehand and afterwards
        likelihood = multivariate_normal(seen.mean, items + scale * seeds).pdf(grid)
        weights = [multivariate_normal([0, 0], one + WIDE**2).pdf(grid) for one in prior.covariances]
        density = likelihood * sum(weights)
        total += density / density.sum()
    total /= total.sum()
    mean = total @ grid
    spread = (grid - mean).T @ (total[:, None] * (grid - mean))
    np.testing.assert_allclose(drawn.mean(axis=0), mean, atol=0.02)
    np.testing.assert_allclose(np.cov(drawn.T), spread, atol=0.03)


def test_the_same_generator_gives_the_same_draws() -> None:
    seen = Observed(np.arange(5.0), np.eye(5), np.eye(5) / 3, np.full(5, 3), (100,))
    prior = make_prior(RANKS)
    one, two = (draw_truths(seen, prior, np.random.default_rng(3), 50, seed_scales(6.0)) for _ in range(2))
    np.testing.assert_array_equal(one, two)


def test_the_prior_has_every_scale_and_every_outlier() -> None:
    prior = make_prior([*RANKS, FULL])
    assert prior.covariances.shape == (len(CURVE_SDS) * len(OWN_SDS) * 7, 6, 6)
    np.linalg.cholesky(prior.covariances)
    plain, outlier = prior.covariances[0], prior.covariances[3]
    np.testing.assert_allclose(outlier - plain, np.diag([0, 0, OUTLIER_SD**2, 0, 0, 0]), atol=1e-9)
    # Full stands at the largest rank and has a further effect as large as the curve.
    assert plain[5, 5] - plain[4, 4] == pytest.approx(CURVE_SDS[0] ** 2)


def test_with_three_ranks_there_is_no_curve() -> None:
    prior = make_prior([*RANKS[:3], FULL])
    for one in prior.covariances:
        np.testing.assert_array_equal(one, np.diag(np.diag(one)))


def test_neighbours_on_the_curve_correct_an_unlucky_arm_and_an_outlier_stays_one() -> None:
    rng, noise = np.random.default_rng(4), np.eye(8)
    prior = make_prior([Place(float(x), apart=False) for x in range(8)])
    line = np.arange(8.0)
    for off, expected in ((2.0, (0.0, 1.3)), (40.0, (37.0, 41.0))):
        seen = line + off * (np.arange(8) == 3)
        drawn = draw_truths(Observed(seen, noise, noise * 0, np.full(8, 3), (9,)), prior, rng, 4000, None)
        moved = drawn.mean(axis=0)[3] - 3
        assert expected[0] < moved < expected[1], off


def test_scales_are_a_chi_square_s() -> None:
    scales = seed_scales(6.0, 20_000)
    assert np.mean(6.0 / scales) == pytest.approx(6.0, rel=1e-3)
    assert np.quantile(scales, 0.9) == pytest.approx(6.0 / chi2.ppf(0.1, 6.0), rel=1e-3)
