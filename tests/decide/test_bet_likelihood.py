"""What a bet knows of each arm: against the closed form of the bounds, a loop over the definition, and simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import chi2

from rankscope.decide.bet_likelihood import observe
from rankscope.decide.crossed_statistics import SuiteArrays, estimate, gain_contrasts, pair_contrasts


def suite(rng: np.random.Generator, arms: int = 3, seeds: int = 3, items: int = 80) -> SuiteArrays:
    base = (rng.random(items) < 0.5).astype(float)
    level = rng.random((arms, 1, items)) * 0.6 + 0.2
    return SuiteArrays(base, (rng.random((arms, seeds, items)) < level).astype(float))


def test_items_with_their_residual_are_those_of_the_closed_form() -> None:
    """Of every arm and of every difference of two: what the bounds have, less the residual of each arm."""
    rng = np.random.default_rng(0)
    suites = [suite(rng), suite(rng, items=50)]
    seen = observe(suites, 1.0)
    gains = estimate(suites, gain_contrasts(3))
    np.testing.assert_allclose(seen.mean, gains.mean)
    expected = gains.item_variance.sum(axis=0) - gains.residual_variance.sum(axis=0) / 3
    np.testing.assert_allclose(np.diag(seen.items), expected, rtol=1e-6)
    pairs, matrix = pair_contrasts(3)
    closed = estimate(suites, matrix).item_variance.sum(axis=0)
    residual = gains.residual_variance.sum(axis=0) / 3
    for (a, b), whole in zip(pairs, closed, strict=True):
        found = seen.items[a, a] + seen.items[b, b] - 2 * seen.items[a, b]
        assert found == pytest.approx(whole - residual[a] - residual[b], rel=1e-6)


def test_forgetting_is_the_other_sign_and_points_are_hundredths() -> None:
    made = [suite(np.random.default_rng(1))]
    gain, lost = observe(made, 1.0), observe(made, -100.0)
    np.testing.assert_allclose(lost.mean, -100 * gain.mean)
    np.testing.assert_allclose(lost.items, 1e4 * gain.items, rtol=1e-6)
    np.testing.assert_allclose(lost.seeds, 1e4 * gain.seeds, rtol=1e-6)


def test_an_arm_s_seed_variance_is_drawn_towards_the_others_but_not_towards_a_wild_one() -> None:
    """Against the formula, from the seeds' means of a suite whose items never change but with the seed."""
    shifts = np.array([[0, 2, 4], [1, 2, 3], [3, 3, 0], [0, 40, 20]])  # items right more, of 100
    scores = np.zeros((4, 3, 100))
    for a in range(4):
        for k in range(3):
            scores[a, k, : 30 + shifts[a, k]] = 1.0
    seen = observe([SuiteArrays(np.zeros(100), scores)], 100.0)
    own = shifts.var(axis=1, ddof=1)
    typical = float(np.median(own / (chi2.ppf(0.5, 2) / 2)))
    common = min(float(own.mean()), 1.5 * typical)
    assert common < own.mean()
    np.testing.assert_allclose(np.diag(seen.seeds), (4 * common + 2 * own) / 6 / 3)
    assert seen.degrees == 3 + 3


def test_seeds_of_different_number() -> None:
    """An arm with more seeds has its mean over all of them, and the smaller variance."""
    rng = np.random.default_rng(2)
    made = suite(rng, arms=4, seeds=5)
    scores = made.scores.copy()
    scores[0, 3:], scores[1, 4] = np.nan, np.nan
    seen = observe([made._replace(scores=scores)], 1.0)
    assert seen.seed_counts.tolist() == [3, 4, 5, 5]
    for a, count in enumerate(seen.seed_counts):
        assert seen.mean[a] == pytest.approx(made.scores[a, :count].mean() - made.base.mean())
    np.linalg.cholesky(seen.items + seen.seeds)
    alone = observe([SuiteArrays(made.base, made.scores[:1, :3])], 1.0)
    assert seen.items[0, 0] == pytest.approx(alone.items[0, 0], rel=1e-6)


def test_one_seed_has_no_seed_variance() -> None:
    seen = observe([suite(np.random.default_rng(3), seeds=1)], 1.0)
    np.testing.assert_array_equal(seen.seeds, 0)
    np.testing.assert_allclose(np.diag(seen.with_seeds(4.0).seeds), 4.0)


def test_bad_calls() -> None:
    with pytest.raises(ValueError, match="no suite"):
        observe([], 1.0)
    made = suite(np.random.default_rng(4))
    made.scores[1] = np.nan
    with pytest.raises(ValueError, match="without a seed"):
        observe([made], 1.0)


def test_the_variance_is_that_of_repeated_studies() -> None:
    """Probit studies drawn again and again: the variance said, on average, is the variance of the means."""
    rng = np.random.default_rng(5)
    means, said = [], []
    for _ in range(400):
        item = rng.normal(size=150)
        base = (item + rng.normal(size=150) > 0).astype(float)
        moved = 0.15 * rng.normal(size=(4, 3, 1))
        latent = 0.3 + item + 0.5 * rng.normal(size=(4, 1, 150)) + moved + 0.7 * rng.normal(size=(4, 3, 150))
        seen = observe([SuiteArrays(base, (latent > 0).astype(float))], 1.0)
        means.append(seen.mean)
        said.append(np.diag(seen.items + seen.seeds))
    ratio = np.mean(said) / np.array(means).var(axis=0).mean()
    assert 0.9 < ratio < 1.25
