"""Which runs would help: the variance of a new mean, and the saving against a full simulation of what happens next."""

from __future__ import annotations

import numpy as np
import pytest

from rankscope.decide.best_bet import Axes, Outcomes, judge_draws
from rankscope.decide.bet_likelihood import Observed
from rankscope.decide.bet_next_runs import HONEST_SHARE, new_mean_variance, next_arms, wanted
from rankscope.study.decision_settings import Margins

POINTS = Margins(task=3.0, retention=3.0, least_gain=1.0)


def test_a_new_mean_of_that_variance_does_what_a_seed_does() -> None:
    """Seeds drawn: their mean's variance with one more is that of the old mean combined with the new one."""
    items, seeds, counts = np.array([0.4, 0.1]), np.array([2.0, 3.0]), np.array([3, 5])
    new = new_mean_variance(items, seeds, counts)
    before = items + seeds / counts
    combined = 1 / (1 / before + 1 / new)
    rng = np.random.default_rng(0)
    for a in range(2):
        shared = np.sqrt(items[a]) * rng.normal(size=200_000)
        drawn = shared + np.sqrt(seeds[a]) * rng.normal(size=(counts[a] + 1, 200_000)).mean(axis=0)
        assert combined[a] == pytest.approx(drawn.var(), rel=0.02)
    assert new_mean_variance(items, np.zeros(2), counts).tolist() == [np.inf, np.inf]


def test_the_bet_and_the_two_that_it_could_most_regret_not_to_be() -> None:
    regret = np.array([[0.0, 1.0, 4.0, 2.0, 9.0], [3.0, 0.0, 2.5, 0.5, 9.0]])
    outcomes = Outcomes(regret, np.zeros_like(regret, dtype=bool))
    assert next_arms(outcomes, 0, [True] * 4) == [0, 1, 3]
    assert next_arms(outcomes, 0, [True, False, True, True]) == [0, 3, 2]
    assert next_arms(outcomes, 0, [False, True, True, True]) == [1, 3]
    assert next_arms(outcomes, 4, [True] * 4) == [1, 3]  # the base gets no seed, and arm 0 ties with none of these


def seen(mean: list[float], seed_variance: float) -> Observed:
    count = len(mean)
    return Observed(np.array(mean), 0.01 * np.eye(count), seed_variance / 3 * np.eye(count), np.full(count, 3), (1000,))


def test_the_saving_is_that_of_conjugate_updating() -> None:
    """Two arms that keep the margin, gains independent and normal: after new means the better posterior mean is taken,
    and E max of two normal values is known."""
    rng = np.random.default_rng(1)
    gain, lost = seen([20.0, 20.0], 3.0), seen([0.0, 0.0], 0.0)
    before = 0.01 + 1.0
    truths = 20 + np.sqrt(before) * rng.normal(size=(4000, 2))
    axes = Axes(truths, np.zeros((4000, 2)), POINTS)
    outcomes = judge_draws([axes])
    found = np.mean(
        [
            wanted([truths, axes.lost], [gain, lost], outcomes, [0, 1], np.random.default_rng(seed)).saving
            for seed in range(6)
        ]
    )
    fall = before - (0.01 + 0.75)  # of the variance of each mean, which the new posterior mean has
    expected = np.sqrt(2 * fall) / np.sqrt(2 * np.pi)  # E max of two with that variance
    assert found == pytest.approx(HONEST_SHARE * expected, rel=0.12)


def test_nothing_is_saved_where_the_answer_is_sure_or_nobody_can_be_run() -> None:
    truths = np.array([20.0, 10.0]) + 0.1 * np.random.default_rng(2).normal(size=(1000, 2))
    axes = Axes(truths, np.zeros((1000, 2)), POINTS)
    outcomes = judge_draws([axes])
    both = [seen([20.0, 10.0], 0.1), seen([0.0, 0.0], 0.1)]
    assert wanted([truths, axes.lost], both, outcomes, [0, 1], np.random.default_rng(0)).saving < 1e-6
    assert wanted([truths, axes.lost], both, outcomes, [], np.random.default_rng(0)) == ((), 0.0)
