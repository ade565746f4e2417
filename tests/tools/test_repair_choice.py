"""The choice among remedies on made-up scores, and its intervals against scipy's."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from rankscope.records import Interval
from rankscope.tools.repair_choice import SuiteScores, against_first, choose, judged, why_not


def suite(base: np.ndarray, arms: list[np.ndarray], select: int) -> SuiteScores:
    selects = np.zeros(len(base), dtype=bool)
    selects[:select] = True
    return SuiteScores(base.astype(float), np.array(arms, dtype=float), selects)


def shares(count: int, right: float) -> np.ndarray:
    """So many items, of which in any long stretch this share is right."""
    return np.array([int((i + 1) * right) > int(i * right) for i in range(count)], dtype=float)


def made(gains: list[float], losses: list[float], count: int = 400) -> tuple[list[SuiteScores], list[SuiteScores]]:
    task = suite(np.zeros(count), [shares(count, gain) for gain in gains], count // 4)
    keep = suite(np.ones(count), [1 - shares(count, lost) for lost in losses], count // 4)
    return [task], [keep]


def test_the_largest_gain_within_two_thirds_of_the_margin() -> None:
    task, keep = made([0.8, 0.7, 0.5, 0.2], [0.4, 0.1, 0.05, 0.0])
    divergences = np.array([4.0, 3.0, 2.0, 1.0])
    assert choose(task, keep, divergences, 0.03).place == 3
    assert choose(task, keep, divergences, 0.09).place == 2
    assert choose(task, keep, divergences, 0.2).place == 1
    assert choose(task, keep, divergences, 0.9).place == 0


def test_where_nothing_stays_within_it_the_least_forgetting() -> None:
    task, keep = made([0.8, 0.5], [0.5, 0.3])
    found = choose(task, keep, np.array([2.0, 1.0]), 0.03)
    assert found.place == 1
    assert found.fitted[1] > 0.02


def test_what_is_there_for_comparison_is_never_chosen() -> None:
    task, keep = made([0.8, 0.7, 0.5], [0.4, 0.0, 0.0])
    divergences, may = np.array([4.0, 3.0, 2.0]), np.array([True, False, True])
    assert choose(task, keep, divergences, 0.03).place == 1
    assert choose(task, keep, divergences, 0.03, may).place == 2
    task, keep = made([0.8, 0.7], [0.4, 0.3])
    assert choose(task, keep, np.array([2.0, 1.0]), 0.03, np.array([True, False])).place == 0


def test_equals_go_to_the_smaller_divergence() -> None:
    task, keep = made([0.5, 0.5, 0.5], [0.0, 0.0, 0.0])
    assert choose(task, keep, np.array([3.0, 1.0, 2.0]), 0.03).place == 1


def test_the_items_that_choose_do_not_judge() -> None:
    count = 100
    right_where_chosen = np.concatenate([np.ones(25), np.zeros(75)])
    task = [suite(np.zeros(count), [np.zeros(count), right_where_chosen], 25)]
    (_, gain) = judged(task, 0.95)
    assert choose(task, [suite(np.ones(count), [np.ones(count)] * 2, 25)], np.zeros(2), 0.1).select_gain[1] == 1
    assert gain.mean == 0


def test_intervals_are_paired_t_intervals_with_a_flip_each_way_added() -> None:
    dice = np.random.default_rng(0)
    base, first, second = (dice.integers(0, 2, 300).astype(float) for _ in range(3))
    keep = [suite(base, [first, second], 60)]
    saved = against_first(keep, 1, 0.95)
    difference = (second - first)[60:]
    assert saved.mean == pytest.approx(difference.mean())
    plain = stats.t.isf(0.05, len(difference) - 1) * difference.std(ddof=1) / np.sqrt(len(difference))
    assert saved.mean - saved.low == pytest.approx(plain, rel=0.02)
    assert against_first(keep, 1, 0.95, sign=-1).mean == pytest.approx(-difference.mean())


def test_clusters_widen() -> None:
    dice = np.random.default_rng(1)
    whole = np.repeat(dice.integers(0, 2, 60), 5).astype(float)
    plain = SuiteScores(np.zeros(300), np.array([np.zeros(300), whole]), np.arange(300) < 60)
    clustered = plain._replace(clusters=np.repeat(np.arange(60), 5))
    one, other = against_first([plain], 1, 0.95), against_first([clustered], 1, 0.95)
    assert one.mean == other.mean
    assert other.mean - other.low > 1.8 * (one.mean - one.low)


@pytest.mark.parametrize(
    ("place", "gain", "saved", "word"),
    [
        (0, 0.5, 0.1, "as it is was chosen"),
        (1, 0.5, -0.1, "not surely above 0"),
        (1, -0.01, 0.1, "gain that it leaves"),
        (1, 0.5, 0.1, ""),
    ],
)
def test_what_helps_surely(place: int, gain: float, saved: float, word: str) -> None:
    whole = Interval(mean=0.5, low=0.4, high=0.6)
    found = why_not(place, whole, Interval(mean=0.6, low=gain, high=0.9), Interval(mean=0.2, low=saved, high=0.3))
    assert (word in found) if word else found == ""
