"""What a plan says of its own power, against simulated studies with the assumed variances."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from rankscope.decide.planned_power import DIFFERENCE, FORGETTING, Assumed, _bound, _one
from rankscope.study.study import Decision

WIDE = Decision(task_margin=0.06, retention_margin=0.06)


def simulated(assumed: Assumed, items: int, seeds: int, studies: int) -> np.ndarray:
    """Means of a contrast that is truly 0."""
    rng = np.random.default_rng(0)
    error = np.sqrt(assumed.item / items + (assumed.residual / items + assumed.seed_sd**2) / seeds)
    return rng.normal(size=studies) * error


@pytest.mark.parametrize("assumed", [DIFFERENCE, FORGETTING])
def test_the_standard_error_is_that_of_the_assumed_variances(assumed: Assumed) -> None:
    _, error = _bound(assumed, [800], 4, 5, 0.005)
    # The residual stands in both parts of the closed form, which errs towards wide.
    assert 1.0 <= error / simulated(assumed, 800, 5, 20_000).std() < 1.15


def test_the_chance_is_that_of_a_bound_within_the_margin() -> None:
    found = _one("m", "t", 4, 5, [2000], [2000, 2000], WIDE, ())
    half, error = _bound(DIFFERENCE, [2000], 4, 5, 0.05 / 8)
    assert found.chance_good_enough == pytest.approx(float(norm.cdf((0.06 - half) / error)))
    assert found.detectable_gain == pytest.approx(half + 0.8416 * error, abs=1e-4)


def test_more_seeds_items_and_margin_give_more_power() -> None:
    few = _one("m", "t", 4, 3, [300], [300], WIDE, ())
    many = _one("m", "t", 4, 8, [300], [300], WIDE, ())
    large = _one("m", "t", 4, 8, [3000], [3000], WIDE, ())
    assert few.chance_good_enough < many.chance_good_enough < large.chance_good_enough
    assert few.chance_eligible < many.chance_eligible < large.chance_eligible
    assert few.seeds_for_power is not None
    enough = _one("m", "t", 4, few.seeds_for_power, [300], [300], WIDE, ())
    assert min(enough.chance_good_enough, enough.chance_eligible) >= 0.8


def test_narrow_margins_are_said_to_be_out_of_reach() -> None:
    narrow = Decision(task_margin=0.001, retention_margin=0.001)
    found = _one("m", "t", 4, 3, [300], [300], narrow, ())
    assert (found.seeds_for_power, found.items_for_power) == (None, None)
    assert "wider margins only" in "\n".join(found.said)


def test_adaptive_seeds_expect_fewer_runs_where_the_first_look_can_decide() -> None:
    easy = _one("m", "t", 4, 8, [5000], [5000], Decision(task_margin=0.2, retention_margin=0.2), (3, 5, 8))
    hard = _one("m", "t", 4, 8, [200], [200], Decision(), (3, 5, 8))
    assert easy.expected_runs == 12
    assert hard.expected_runs is not None
    assert 28 <= hard.expected_runs <= 32
