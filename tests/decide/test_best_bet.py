"""The best bet against cases made by hand, each with the regret that one can read off."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rankscope.decide.best_bet import Axes, Outcomes, doublings, judge_draws, least_bad, place_bet
from rankscope.study.decision_settings import Margins

POINTS = Margins(task=3.0, retention=3.0, least_gain=1.0)


def one(gain: list[float], lost: list[float], margins: Margins = POINTS) -> Outcomes:
    return judge_draws([Axes(np.array([gain]), np.array([lost]), margins)])


def test_regret_is_the_gain_missed_and_what_is_forgotten_beyond_the_margin() -> None:
    found = one([10.0, 14.0, 30.0], [1.0, 2.5, 8.0])
    np.testing.assert_allclose(found.regret, [[4.0, 0.0, 5.0, 14.0]])  # the last option is the base
    np.testing.assert_array_equal(found.right, [[False, True, False, False]])


def test_within_the_task_margin_is_right() -> None:
    found = one([11.0, 14.0, 10.9], [0.0, 0.0, 0.0])
    assert found.right.tolist() == [[True, True, False, False]]


def test_where_nothing_keeps_the_margin_the_base_is_right() -> None:
    found = one([30.0, 40.0], [5.0, 3.5])
    np.testing.assert_allclose(found.regret, [[2.0, 0.5, 0.0]])
    assert found.right.tolist() == [[False, False, True]]


def test_where_nothing_gains_the_base_is_right_and_a_loss_is_regretted() -> None:
    found = one([0.5, -2.0], [0.0, 0.0])
    np.testing.assert_allclose(found.regret, [[0.0, 2.5, 0.5]])
    assert found.right.tolist() == [[False, False, True]]
    lost = one([-1.0, -2.0], [0.0, 0.0])
    np.testing.assert_allclose(lost.regret, [[1.0, 2.0, 0.0]])  # G* is never below 0


@given(arrays(float, (6, 4), elements=st.floats(-20, 40)), arrays(float, (6, 4), elements=st.floats(-5, 20)))
def test_some_option_is_always_right_and_some_has_no_regret(gain: np.ndarray, lost: np.ndarray) -> None:
    found = judge_draws([Axes(gain, lost, POINTS)])
    assert found.right.any(axis=1).all()
    np.testing.assert_allclose(found.regret.min(axis=1), 0)
    assert (found.regret[found.right] <= 3.0 + 1e-9).all()


def test_with_two_units_terms_are_in_margins_and_an_arm_must_hold_in_each() -> None:
    nats = Margins(task=0.02, retention=0.02, least_gain=0.0)
    points = Axes(np.array([[12.0, 6.0]]), np.array([[1.0, 1.0]]), POINTS)
    keeping = Axes(np.array([[0.10, 0.10]]), np.array([[0.0, 0.0]]), nats)
    found = judge_draws([points, keeping], in_margins=True)
    np.testing.assert_allclose(found.regret, [[0.0, 1.0, 4.5]])  # (12 / 3 + 0.1 / 0.02) / 2
    forgets = keeping._replace(lost=np.array([[0.03, 0.0]]))
    found = judge_draws([points, forgets], in_margins=True)
    np.testing.assert_allclose(found.regret, [[0.5, 0.0, 3.5]])
    assert found.right.tolist() == [[False, True, False]]


def made(regret: list[float]) -> Outcomes:
    count = len(regret)
    return Outcomes(np.array([regret]), np.zeros((1, count), dtype=bool))


def test_the_smaller_arm_is_bet_on_unless_it_costs_more_than_its_size_is_worth() -> None:
    cost = np.array([0.0, 0.05, 0.10])
    assert place_bet(made([0.30, 0.28, 0.20, 9.0]), cost, [True] * 3).option == 0
    found = place_bet(made([0.31, 0.28, 0.20, 9.0]), cost, [True] * 3)
    assert (found.option, found.runner_up) == (2, 0)


def test_the_base_is_bet_on_only_where_it_costs_least_whatever_the_sizes() -> None:
    cost = np.array([0.0, 0.5])
    assert place_bet(made([1.0, 0.9, 0.95]), cost, [True] * 2).option == 0
    found = place_bet(made([1.0, 0.9, 0.85]), cost, [True] * 2)
    assert (found.option, found.runner_up) == (2, 0)
    assert place_bet(made([1.0, 5.0, 2.0]), cost, [True] * 2).runner_up == 2


def test_of_two_alike_the_one_without_a_remedy() -> None:
    cost = np.zeros(2)
    assert place_bet(made([1.0, 1.0, 9.0]), cost, [False, True]).option == 1
    assert place_bet(made([1.0, 1.0, 9.0]), cost, [True, False]).option == 0


def test_a_whole_model_counts_as_one_doubling_above_the_largest_adapter() -> None:
    np.testing.assert_allclose(doublings([1e3, 4e3, 1e9], [False, False, True]), [0, 2, 3])
    np.testing.assert_allclose(doublings([1e3, 4e3, 6e3], [False, False, True]), [0, 2, np.log2(6)])
    np.testing.assert_allclose(doublings([1e9], [True]), [0])


def test_the_least_bad_arm_has_the_margin_that_it_keeps_four_times_in_five() -> None:
    rng = np.random.default_rng(0)
    gain = np.column_stack([np.full(4000, 10.0), np.full(4000, 12.0)])
    lost = np.column_stack([5 + rng.normal(size=4000), 9 + rng.normal(size=4000)])
    axes = [Axes(gain, lost, POINTS)]
    worst = least_bad(axes, judge_draws(axes))
    assert worst.arm == 0
    assert worst.margins[0] == pytest.approx(5 + 0.8416, abs=0.06)
    assert worst.probability == pytest.approx(0.8, abs=0.01)


def test_the_least_bad_arm_of_those_that_gain_nothing_keeps_the_study_s_margin() -> None:
    axes = [Axes(np.full((10, 2), -1.0), np.zeros((10, 2)), POINTS)]
    worst = least_bad(axes, judge_draws(axes))
    assert (worst.margins, worst.probability) == ((3.0,), 0.0)
