from __future__ import annotations

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import stats as distributions
from statsmodels.stats.contingency_tables import mcnemar

from rankscope.decide.crossed_statistics import (
    SuiteArrays,
    bootstrap_variance,
    estimate,
    gain_contrasts,
    mcnemar_exact,
    pair_contrasts,
)


def drawn(
    rng: np.random.Generator, arms: int = 3, seeds: int = 3, items: int = 400, seed_sd: float = 0.03
) -> SuiteArrays:
    """Items of different difficulty, shared by the arms; each (arm, seed) moves the level."""
    difficulty = rng.normal(size=items)
    level = np.linspace(0.2, 0.6, arms)[:, None] + rng.normal(size=(arms, seeds)) * seed_sd * 2.5
    latent = level[:, :, None] + difficulty + 0.7 * rng.normal(size=(arms, seeds, items))
    return SuiteArrays((difficulty - 0.5 > 0).astype(float), (latent > 0).astype(float))


def test_the_mean_of_a_contrast_is_the_mean_over_suites_of_item_means() -> None:
    rng = np.random.default_rng(0)
    suites = [drawn(rng, items=100), drawn(rng, items=300)]
    found = estimate(suites, gain_contrasts(3))
    by_hand = np.mean([scores.mean(axis=(1, 2)) - base.mean() for base, scores, *_ in suites], axis=0)
    np.testing.assert_allclose(found.mean, by_hand, atol=1e-12)


def test_with_variance_between_seeds_only_it_is_the_paired_t_test() -> None:
    rng = np.random.default_rng(1)
    levels = rng.normal(0.5, 0.05, size=(2, 4))
    scores = np.repeat(levels[:, :, None], 20_000, axis=2)
    found = estimate([SuiteArrays(np.zeros(20_000), scores)], pair_contrasts(2)[1])
    reference = distributions.ttest_rel(levels[0], levels[1]).confidence_interval(0.95)
    assert found.mean[0] == pytest.approx((reference.low + reference.high) / 2)
    assert found.half_width(0.025)[0] == pytest.approx((reference.high - reference.low) / 2, rel=5e-3)
    assert found.seed_df == pytest.approx(3)


def test_with_one_seed_it_is_the_paired_t_test_over_items() -> None:
    rng = np.random.default_rng(2)
    base, scores, *_ = drawn(rng, arms=1, seeds=1, items=3000)
    found = estimate([SuiteArrays(base, scores)], gain_contrasts(1))
    reference = distributions.ttest_rel(scores[0, 0], base).confidence_interval(0.95)
    assert found.seed_variance is None
    assert found.half_width(0.025)[0] == pytest.approx((reference.high - reference.low) / 2, rel=1e-2)


def test_the_item_part_is_bonett_and_prices_variance() -> None:
    base = np.array([1.0] * 30 + [0.0] * 70)
    scores = base.copy()
    scores[:4], scores[30:42] = 0.0, 1.0
    found = estimate([SuiteArrays(base, scores[None, None])], gain_contrasts(1))
    lost, won, count = 4, 12, 100
    # Their variance is about (won - lost) / (count + 2); ours keeps the plain mean and divides by one less.
    published = ((won + 1 + lost + 1) - (won - lost) ** 2 / (count + 2)) / (count + 2) ** 2
    assert found.variance[0] == pytest.approx(published, rel=2e-2)


@pytest.mark.parametrize("seeds", [3, 6])
@pytest.mark.parametrize("contrasts", [gain_contrasts(3), pair_contrasts(3)[1]], ids=["gain", "differences"])
def test_the_closed_form_is_the_variance_seen_over_many_studies(seeds: int, contrasts: np.ndarray) -> None:
    rng = np.random.default_rng(3)
    found = [estimate([drawn(rng, seeds=seeds, items=150)], contrasts) for _ in range(500)]
    seen = np.array([one.mean for one in found]).var(axis=0)
    said = np.array([one.variance for one in found]).mean(axis=0)
    # It errs towards wide: the residual stands in both parts, and the larger of own and pooled variance is used.
    assert (said > 0.95 * seen).all()
    assert (said < 2.1 * seen).all()
    without_twice = said - np.array([one.residual_variance.sum(axis=0) for one in found]).mean(axis=0) / seeds
    assert (without_twice < 1.45 * seen).all()


def test_bootstrap_and_closed_form_agree() -> None:
    rng = np.random.default_rng(4)
    suites = [drawn(rng, items=600), drawn(rng, items=300)]
    contrasts = np.vstack([gain_contrasts(3)])
    ratio = np.sqrt(bootstrap_variance(suites, contrasts, rng, 2000) / estimate(suites, contrasts).variance)
    assert (ratio > 0.85).all()
    assert (ratio < 1.2).all()


def test_bootstrap_of_one_seed_is_over_items_only() -> None:
    rng = np.random.default_rng(5)
    base, scores, *_ = drawn(rng, arms=1, seeds=1, items=500)
    variance = bootstrap_variance([SuiteArrays(base, scores)], gain_contrasts(1), rng, 4000)
    assert variance[0] == pytest.approx((scores[0, 0] - base).var() / 500, rel=0.1)


def test_bootstrap_depends_on_its_generator_alone() -> None:
    suites = [drawn(np.random.default_rng(6))]
    first, second = (bootstrap_variance(suites, gain_contrasts(3), np.random.default_rng(7), 50) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_seed_variance_is_pooled_and_never_below_its_own() -> None:
    levels = np.array([[0.50, 0.50, 0.50], [0.40, 0.50, 0.60], [0.5, 0.52, 0.48]])
    found = estimate([SuiteArrays(np.zeros(50), np.repeat(levels[:, :, None], 50, axis=2))], gain_contrasts(3))
    own = levels.var(axis=1, ddof=1)
    np.testing.assert_allclose(found.seed_variance, np.maximum(own, own.mean()))


def test_degrees_of_freedom_grow_with_arms_unless_seeds_move_them_alike() -> None:
    rng = np.random.default_rng(8)
    alike = np.repeat((0.5 + 0.1 * rng.normal(size=(1, 4, 1))), 5, axis=0) * np.ones((5, 4, 30))
    contrary = np.array([[0.1, -0.1, 0.1, -0.1], [-0.1, 0.1, -0.1, 0.1]])[:, :, None] * np.ones((2, 4, 30))
    assert estimate([SuiteArrays(np.zeros(30), alike)], gain_contrasts(5)).seed_df == pytest.approx(3, rel=0.01)
    assert estimate([SuiteArrays(np.zeros(30), contrary)], gain_contrasts(2)).seed_df == pytest.approx(6)
    assert estimate(
        [SuiteArrays(np.zeros(30), drawn(rng, 5, 4, 30)[1])], pair_contrasts(5)[1]
    ).seed_df == pytest.approx(12)


def test_arms_that_never_differ_still_have_a_width() -> None:
    base = np.ones(200)
    found = estimate([SuiteArrays(base, np.ones((2, 3, 200)))], gain_contrasts(2))
    assert (found.mean == 0).all()
    assert (found.half_width(0.025) > 0.005).all()


def test_one_item_bounds_next_to_nothing_and_does_not_fail() -> None:
    found = estimate([SuiteArrays(np.ones(1), np.ones((2, 3, 1)))], gain_contrasts(2))
    assert (found.half_width(0.025) > 1).all()


def test_nothing_to_estimate_is_refused() -> None:
    with pytest.raises(ValueError, match="no suite"):
        estimate([], gain_contrasts(2))
    with pytest.raises(ValueError, match="no contrast"):
        estimate([SuiteArrays(np.ones(3), np.ones((1, 1, 3)))], pair_contrasts(1)[1])


@pytest.mark.parametrize(("lost", "won"), [(0, 0), (0, 5), (3, 3), (10, 2), (40, 61)])
def test_mcnemar_is_that_of_statsmodels(lost: int, won: int) -> None:
    reference = mcnemar([[5, lost], [won, 5]], exact=True).pvalue if lost + won else 1.0
    assert mcnemar_exact(lost, won) == pytest.approx(reference)


def clustered(rng: np.random.Generator, clusters: int = 60, largest: int = 8, seeds: int = 1) -> SuiteArrays:
    """Clusters of 1 to `largest` items that gain or lose together more often than not."""
    sizes = rng.integers(1, largest + 1, clusters)
    of = np.repeat(np.arange(clusters), sizes)
    together = rng.normal(size=clusters)[of]
    base = (together + rng.normal(size=of.size) > 0).astype(float)
    scores = (0.8 * rng.normal(size=clusters)[of] + 0.3 + rng.normal(size=(2, seeds, of.size)) > 0).astype(float)
    return SuiteArrays(base, scores, of)


def test_clusters_of_one_item_change_nothing() -> None:
    rng = np.random.default_rng(9)
    plain = drawn(rng, items=200)
    own = plain._replace(clusters=rng.permutation(200))
    one, other = (estimate([suite], pair_contrasts(3)[1]) for suite in (plain, own))
    np.testing.assert_allclose(one.item_variance, other.item_variance)
    np.testing.assert_allclose(one.residual_variance, other.residual_variance)
    assert one.unit_counts == other.unit_counts


def test_the_item_part_of_clusters_is_the_cluster_robust_variance_of_statsmodels() -> None:
    suite = clustered(np.random.default_rng(10), clusters=150)
    assert suite.clusters is not None
    changes = suite.scores[0, 0] - suite.base
    fitted = sm.OLS(changes, np.ones(changes.size)).fit(cov_type="cluster", cov_kwds={"groups": suite.clusters})
    found = estimate([suite], gain_contrasts(2))
    assert found.mean[0] == pytest.approx(float(fitted.params[0]))
    assert np.sqrt(found.variance[0]) == pytest.approx(float(fitted.bse[0]), rel=0.02)
    alone = estimate([suite._replace(clusters=None)], gain_contrasts(2))
    assert found.variance[0] > 1.5 * alone.variance[0]
    assert found.unit_counts == (150,)


def test_the_bootstrap_draws_clusters() -> None:
    suite = clustered(np.random.default_rng(11), clusters=150, seeds=4)
    ratio = bootstrap_variance([suite], gain_contrasts(2), np.random.default_rng(0), 2000)
    ratio = np.sqrt(ratio / estimate([suite], gain_contrasts(2)).variance)
    assert (ratio > 0.85).all()
    assert (ratio < 1.2).all()


def test_intervals_over_clusters_cover() -> None:
    rng = np.random.default_rng(12)
    truth = np.mean([s.scores.mean(axis=(1, 2)) - s.base.mean() for s in (clustered(rng, 20_000) for _ in range(4))], 0)
    hits = {True: 0.0, False: 0.0}
    for _ in range(400):
        suite = clustered(rng, clusters=40)
        for clusters in hits:
            found = estimate([suite if clusters else suite._replace(clusters=None)], gain_contrasts(2))
            hits[clusters] += float((np.abs(found.mean - truth) < found.half_width(0.025)).mean()) / 400
    assert hits[True] >= 0.93
    assert hits[False] < 0.92
