"""Suites on which the base only guesses are no part of the mean that forgetting is."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from made_studies import Study
from scipy.stats import binomtest

from rankscope.decide.chance_level import chance_of, knows_nothing
from rankscope.decide.paired_items import Frames
from rankscope.decide.verdict import decide
from rankscope.records import Verdict
from rankscope.study.study import Decision

STUDY = Study({"lora-r4": 0.70, "full": 0.70}, {"lora-r4": 0.79, "full": 0.79}, items=800)


def judged(frames: Frames) -> Verdict:
    return decide(frames, model="small", train_set="facts", decision=Decision(), bootstrap_draws=0)


def guessed(frames: Frames, suite: str, level: float) -> Frames:
    """The base has `suite` right by guessing among four, and the arms alike."""
    rng = np.random.default_rng(0)
    rows = frames.predictions.copy()
    here = rows["suite"] == suite
    rows.loc[here, "score"] = (rng.random(here.sum()) < level).astype(float)
    rows["choice_logprobs"] = pd.Series([np.zeros(4)] * len(rows), index=rows.index).where(rows["arm"] == "base")
    return frames._replace(predictions=rows)


def test_the_chance_of_choices_is_the_mean_of_one_over_their_number() -> None:
    base = pd.DataFrame({"choice_logprobs": [np.zeros(4), [0.0, 0.0], None]})
    assert chance_of(base, "choices") == pytest.approx((1 / 4 + 1 / 2) / 2)
    assert chance_of(base, "open") == 0.0
    assert chance_of(base[["choice_logprobs"]].iloc[2:], "choices") is None
    assert chance_of(pd.DataFrame(), "choices") is None


@pytest.mark.parametrize("right", [20, 27, 32, 33, 34, 40])
def test_the_test_is_the_one_sided_binomial(right: int) -> None:
    scores = np.array([1.0] * right + [0.0] * (100 - right))
    wanted = binomtest(right, 100, 0.25, alternative="greater").pvalue > 0.05
    assert knows_nothing(scores, 0.25) == wanted


def test_an_open_suite_is_at_the_floor_where_nothing_is_right() -> None:
    assert knows_nothing(np.zeros(50), 0.0)
    assert not knows_nothing(np.array([1.0] + [0.0] * 49), 0.0)
    assert not knows_nothing(np.array([0.2] + [0.0] * 49), 0.0)  # a grader's score between 0 and 1


def test_a_suite_at_chance_is_shown_and_leaves_the_mean() -> None:
    verdict = judged(guessed(STUDY.frames(), "law", 0.25))
    arm = next(arm for arm in verdict.arms if arm.label == "full")
    outcomes = {outcome.suite: outcome for outcome in arm.per_suite}
    assert set(outcomes) == {"law", "med", "sums"}
    assert outcomes["law"].chance == 0.25
    assert outcomes["law"].left_out is not None
    assert outcomes["sums"].left_out is None
    assert arm.forgetting.mean == pytest.approx(-(outcomes["sums"].change.mean or 0.0))
    assert any("law: the base has" in reason and "guessing has 25.0 %" in reason for reason in verdict.reasons)


def test_an_in_domain_suite_at_chance_is_where_gain_is_measured() -> None:
    frames = guessed(STUDY.frames(), "law", 0.8)
    rows = frames.predictions
    here = (rows["suite"] == "med") & (rows["arm"] == "base")
    rows.loc[here, "score"] = (np.arange(here.sum()) % 4 == 0).astype(float)
    verdict = judged(frames)
    outcome = next(outcome for outcome in verdict.arms[0].per_suite if outcome.suite == "med")
    assert (outcome.chance, outcome.left_out) == (0.25, None)
    assert verdict.arms[0].gain.mean == pytest.approx(outcome.change.mean)


def test_where_the_base_knows_nothing_no_arm_is_recommended() -> None:
    frames = guessed(STUDY.frames(), "law", 0.25)
    rows = frames.predictions
    rows.loc[rows["suite"] == "sums", "score"] = 0.0
    verdict = judged(frames)
    assert not verdict.decided
    assert any("is the base surely better than guessing" in reason for reason in verdict.reasons)
    assert verdict.arms[0].forgetting.mean is None
