"""The choice among remedies on made-up scores, and its intervals against scipy's."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from rankscope.decide.setting_choice import ArmPoints, choose_settings
from rankscope.plan.selection_split import LIMIT_SHARE
from rankscope.records import Interval, PlannedChoice, SettingPoint
from rankscope.tools.repair_choice import Chosen, SuiteScores, Tried, against_first, choose, judged, why_not


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


def chosen(gains: list[float], losses: list[float], divergences: list[float], margin: float, *tried: Tried) -> Chosen:
    task, keep = made(gains, losses)
    apart = [Tried(f"change {i}") for i in range(len(gains))]
    return choose(task, keep, np.array(divergences), list(tried) or apart, LIMIT_SHARE * margin)


def test_the_largest_gain_within_two_thirds_of_the_margin() -> None:
    found = [
        chosen([0.8, 0.7, 0.5, 0.2], [0.4, 0.1, 0.05, 0.0], [4.0, 3.0, 2.0, 1.0], margin)
        for margin in (0.03, 0.09, 0.2, 0.9)
    ]
    assert [(one.place, one.how) for one in found] == [(place, "retention") for place in (3, 2, 1, 0)]


def test_where_nothing_stays_within_it_the_least_forgetting() -> None:
    found = chosen([0.8, 0.5], [0.5, 0.3], [2.0, 1.0], 0.03)
    assert (found.place, found.how) == (1, "none admissible")
    assert found.fitted[1] > 0.02


def test_what_is_there_for_comparison_is_never_chosen() -> None:
    losses, divergences = [0.4, 0.0, 0.0], [4.0, 3.0, 2.0]
    assert chosen([0.8, 0.7, 0.5], losses, divergences, 0.03).place == 1
    shown = [Tried("whole"), Tried("control", may_be_chosen=False), Tried("cut")]
    assert chosen([0.8, 0.7, 0.5], losses, divergences, 0.03, *shown).place == 2
    assert chosen([0.8, 0.7], [0.4, 0.3], [2.0, 1.0], 0.03, *shown[:2]).place == 0


def test_equals_go_to_the_smaller_divergence_and_then_to_the_smaller_dial() -> None:
    assert chosen([0.5, 0.5, 0.5], [0.0, 0.0, 0.0], [3.0, 1.0, 2.0], 0.03).place == 1
    dials = [Tried("whole", 1.0), Tried("whole", 0.5)]
    assert chosen([0.5, 0.5], [0.0, 0.0], [1.0, 1.0], 0.03, *dials).place == 1


def test_a_remedy_is_chosen_as_the_setting_of_an_arm_is() -> None:
    """The same numbers as points of one rate: dials of one change, with minus the gain as the validation loss."""
    gains, losses, divergences = [0.8, 0.62, 0.6, 0.2], [0.3, 0.02, 0.06, 0.0], [4.0, 3.0, 2.0, 1.0]
    dials = [1.0, 0.85, 0.7, 0.5]
    task, keep = made(gains, losses)
    tried = [Tried("whole", dial) for dial in dials]
    for margin in (0.01, 0.03, 0.06, 0.09, 0.6):
        found = choose(task, keep, np.array(divergences), tried, LIMIT_SHARE * margin)
        points = [
            SettingPoint(
                arm="a", learning_rate=1.0, dial=dial, source="runs", seeds=1, validation_loss=-gain, forgetting=lost,
                kl_first_token_nats=moved, select_items=100,
            )
            for dial, gain, lost, moved in zip(
                dials, found.select_gain, found.select_forgetting, divergences, strict=True
            )
        ]  # fmt: skip
        choice = PlannedChoice(model="m", train_set="t", select="retention", limit=LIMIT_SHARE * margin)
        (setting,) = choose_settings([ArmPoints("a", points)], choice)
        assert (setting.dial, setting.how) == (dials[found.place], found.how)
        assert [point.fitted for point in setting.points] == pytest.approx(list(found.fitted))


def test_the_items_that_choose_do_not_judge() -> None:
    count = 100
    right_where_chosen = np.concatenate([np.ones(25), np.zeros(75)])
    task = [suite(np.zeros(count), [np.zeros(count), right_where_chosen], 25)]
    (_, gain) = judged(task, 0.95)
    keep = [suite(np.ones(count), [np.ones(count)] * 2, 25)]
    assert choose(task, keep, np.zeros(2), [Tried("whole"), Tried("cut")], 0.1).select_gain[1] == 1
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
