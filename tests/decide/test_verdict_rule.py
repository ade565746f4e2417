from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rankscope.decide.verdict_rule import Bounds, Ruling, judge, simultaneous_alpha
from rankscope.study.study import Decision

DECISION = Decision()


def ruled(
    gain: list[float],
    forgetting: list[float],
    width: float = 0.005,
    cost: list[float] | None = None,
    decision: Decision = DECISION,
) -> Ruling:
    """The rule where every bound is `width` away from its mean; arms cost 1, 2, 3, ... unless said."""
    g, f = np.array(gain), np.array(forgetting)
    limits = Bounds(g - width, g + width, f - width, f + width, g[:, None] - g[None, :] - width)
    return judge(limits, cost or list(range(1, len(gain) + 1)), gain, decision)


def test_the_smallest_good_enough_arm_is_recommended() -> None:
    ruling = ruled([0.30, 0.39, 0.40, 0.40], [0.0, 0.0, 0.01, 0.01])
    assert (ruling.answer, ruling.recommended, ruling.refuted) == ("recommended", 1, (0,))


def test_cheaper_arms_that_are_open_are_candidates() -> None:
    ruling = ruled([0.39, 0.395, 0.40], [0.028, 0.0, 0.0])
    assert ruling.status == ("open", "eligible", "eligible")
    assert (ruling.recommended, ruling.candidates) == (1, (0,))


def test_an_ineligible_rival_need_not_be_matched() -> None:
    ruling = ruled([0.20, 0.50], [0.0, 0.20])
    assert (ruling.answer, ruling.recommended, ruling.refuted) == ("recommended", 0, (1,))


def test_an_open_rival_must_be_matched_and_does_not_refute() -> None:
    ruling = ruled([0.20, 0.50], [0.0, 0.03])
    assert (ruling.answer, ruling.refuted, ruling.candidates) == ("cannot_distinguish", (), (0, 1))


def test_good_enough_is_against_every_rival_not_the_best_observed_only() -> None:
    better_by = np.array([[-9.0, -0.01, -0.05], [-0.01, -9.0, -0.01], [-0.02, -0.01, -9.0]])
    flat = np.zeros(3)
    limits = Bounds(flat + 0.3, flat + 0.5, flat - 0.01, flat + 0.01, better_by)
    ruling = judge(limits, [1, 2, 3], [0.4, 0.45, 0.40], DECISION)
    assert ruling.good_enough == (False, True, True)
    assert ruling.recommended == 1


def test_no_gain_and_tradeoff() -> None:
    assert ruled([0.0, 0.002], [0.0, 0.0]).answer == "no_gain"
    assert ruled([0.3, 0.4], [0.1, 0.2]).answer == "tradeoff"
    # One arm that may gain and keeps what it must is enough for no trade-off.
    assert ruled([0.3, 0.4], [0.0, 0.2]).answer == "recommended"
    # An eligible arm that cannot gain enough does not spoil the trade-off.
    assert ruled([0.0, 0.4], [0.0, 0.2]).answer == "tradeoff"


def test_a_gain_surely_above_zero_and_below_the_least_gain_is_no_gain() -> None:
    assert ruled([0.02], [0.0], decision=Decision(min_gain=0.05)).answer == "no_gain"


def test_a_gain_that_may_be_nothing_is_not_recommended() -> None:
    assert ruled([0.02], [0.0], width=0.025).answer == "cannot_distinguish"


def test_unmeasured_forgetting_leaves_every_arm_open() -> None:
    infinite = np.full(2, np.inf)
    better_by = np.full((2, 2), 0.0)
    limits = Bounds(np.array([0.3, 0.3]), np.array([0.4, 0.4]), -infinite, infinite, better_by)
    ruling = judge(limits, [1, 2], [0.35, 0.35], DECISION)
    assert (ruling.answer, ruling.status) == ("cannot_distinguish", ("open", "open"))


def test_equal_cost_goes_by_observed_gain() -> None:
    assert ruled([0.395, 0.40], [0.0, 0.0], cost=[5, 5]).recommended == 1


def test_the_bonferroni_share() -> None:
    assert simultaneous_alpha(0.95, 5) == pytest.approx(0.005)


means = st.lists(st.floats(-0.2, 0.5), min_size=1, max_size=5)


@given(means, st.data(), st.floats(0.001, 0.2), st.floats(0.1, 0.99))
def test_tighter_bounds_around_the_same_means_never_undo_a_decision(
    gain: list[float], data: st.DataObject, width: float, shrink: float
) -> None:
    forgetting = data.draw(st.lists(st.floats(-0.1, 0.3), min_size=len(gain), max_size=len(gain)))
    wide, tight = ruled(gain, forgetting, width), ruled(gain, forgetting, width * shrink)
    assert set(wide.refuted) <= set(tight.refuted)
    if wide.answer != "cannot_distinguish":
        assert tight.answer != "cannot_distinguish"


@given(means, st.data(), st.floats(0.001, 0.1))
def test_what_is_recommended_is_eligible_good_enough_and_not_refuted(
    gain: list[float], data: st.DataObject, width: float
) -> None:
    forgetting = data.draw(st.lists(st.floats(-0.1, 0.3), min_size=len(gain), max_size=len(gain)))
    ruling = ruled(gain, forgetting, width)
    if ruling.recommended is not None:
        assert ruling.status[ruling.recommended] == "eligible"
        assert ruling.good_enough[ruling.recommended]
        assert ruling.recommended not in ruling.refuted
        assert all(a < ruling.recommended for a in ruling.candidates)
