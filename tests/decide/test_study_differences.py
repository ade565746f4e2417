"""Differences of one arm between two studies, against plain paired and Welch arithmetic of scipy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from made_studies import Study
from scipy import stats

from rankscope.decide.paired_items import Frames, Pairing, pair
from rankscope.decide.study_differences import moved, unlike

SAME = frozenset({"med", "law", "sums"})


def frames(gain: float, kept: float, seeds: tuple[int, ...] = (0,), rng_seed: int = 0, items: int = 1200) -> Frames:
    learned, held = {"full": gain}, {"full": kept}
    return Study(learned=learned, kept=held, seeds=seeds, items=items, noise=0.1, rng_seed=rng_seed).frames()


def of(made: Frames) -> Pairing:
    model, train_set = str(made.runs["model"].iloc[0]), str(made.runs["train_set"].iloc[0])
    return pair(made, model=model, train_set=train_set, only=["full"])


def changes(pairing: Pairing, suite: str) -> np.ndarray:
    """Of each item the arm's score, mean over seeds, minus the base's."""
    found = next(one for one in pairing.suites if one.name == suite)
    return np.asarray(found.scores[0].mean(axis=0) - found.base)


def test_one_seed_on_the_same_items_is_the_paired_t_interval() -> None:
    first, second = of(frames(0.5, 0.78)), of(frames(0.6, 0.70))
    found = moved(first, second, SAME, 0.95)
    assert found.why is None
    differences = changes(second, "med") - changes(first, "med")
    expected = stats.ttest_1samp(differences, 0.0).confidence_interval(0.95)
    assert found.gain.mean == pytest.approx(differences.mean())
    assert (found.gain.low, found.gain.high) == pytest.approx((expected.low, expected.high), abs=6e-4)
    lost = -np.mean([(changes(second, name) - changes(first, name)).mean() for name in ("law", "sums")])
    assert found.forgetting.mean == pytest.approx(lost)


def test_other_items_are_compared_as_independent_samples() -> None:
    first, second = of(frames(0.5, 0.78)), of(frames(0.6, 0.70, rng_seed=1))
    found = moved(first, second, SAME - {"med"}, 0.95)
    assert found.why == "other items in med"
    own = changes(second, "med"), changes(first, "med")
    expected = stats.ttest_ind(*own, equal_var=False).confidence_interval(0.95)
    assert found.gain.mean == pytest.approx(own[0].mean() - own[1].mean())
    assert (found.gain.low, found.gain.high) == pytest.approx((expected.low, expected.high), abs=6e-4)


def test_pairing_narrows_and_says_what_keeps_studies_from_it() -> None:
    first, second = of(frames(0.5, 0.78, (0, 1, 2))), of(frames(0.51, 0.78, (0, 1, 2)))
    paired, apart = moved(first, second, SAME, 0.95), moved(first, second, SAME - {"sums"}, 0.95)

    def width(interval: object) -> float:
        return interval.high - interval.low  # type: ignore[attr-defined]

    assert width(paired.gain) < 0.7 * width(apart.gain)
    assert paired.gain.mean == pytest.approx(apart.gain.mean)
    assert unlike(first, of(frames(0.5, 0.78, (0, 1, 3))), SAME) == "other seeds (0, 1, 2 and 0, 1, 3)"
    fewer = frames(0.5, 0.78, (0, 1, 2))
    fewer = fewer._replace(suites=fewer.suites[fewer.suites["suite"] != "law"])
    over = moved(first, of(fewer), SAME, 0.95)
    assert (over.why, over.suites, over.alone) == (None, ("med", "sums"), ("law",))
    assert over.forgetting.mean == pytest.approx(0.0), "law, which only one study has, takes no part"
    assert moved(first, first, SAME, 0.95).gain.mean == 0.0


def test_what_the_bases_differ_is_taken_out_of_a_paired_difference() -> None:
    """The same predictions of the arm over a base that is 1 on other items: the gain differs by that, and no item's
    noise is added."""
    first = of(frames(0.5, 0.78))
    made = frames(0.5, 0.78)
    rows = (made.predictions["arm"] == "base") & (made.predictions["suite"] == "med")
    made.predictions.loc[rows, "score"] = 0.0
    second = of(made)
    found = moved(first, second, SAME, 0.95)
    base = next(suite for suite in first.suites if suite.name == "med").base
    assert found.gain.mean == pytest.approx(base.mean())


def test_intervals_of_equal_studies_hold_nothing_nineteen_times_in_twenty() -> None:
    hits = 0
    for trial in range(40):
        first, second = (of(frames(0.5, 0.78, (0, 1), 2 * trial + k, 150)) for k in (0, 1))
        gain = moved(first, second, frozenset(), 0.95).gain
        assert gain.low is not None
        assert gain.high is not None
        hits += gain.low <= 0 <= gain.high
    assert hits >= 35  # 38 expected; fewer than 35 in one of 70


def test_a_suite_that_no_mean_is_over_neither_counts_nor_keeps_from_pairing() -> None:
    """At chance in both studies, with other items."""
    sides = []
    for gain, kept in ((0.5, 0.78), (0.6, 0.70)):
        one = of(frames(gain, kept))
        suites = tuple(replace(s, left_out_of_mean="at chance") if s.name == "law" else s for s in one.suites)
        sides.append(replace(one, suites=suites))
    found = moved(sides[0], sides[1], SAME - {"law"}, 0.95)
    assert (found.why, found.suites, found.alone) == (None, ("med", "sums"), ())
