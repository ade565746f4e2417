"""What a recommendation does not hide: the worst suite, and arms that learn more but forget too much."""

from __future__ import annotations

import pandas as pd
import pytest
from made_studies import Study

from rankscope.decide.paired_items import Frames
from rankscope.decide.verdict import decide
from rankscope.records import Verdict
from rankscope.study.study import Decision


def judged(frames: Frames, decision: Decision | None = None) -> Verdict:
    chosen = decision or Decision()
    return decide(frames, model="small", train_set="facts", decision=chosen, bootstrap_draws=0)


def unlike_suites(law: dict[str, float], sums: dict[str, float], learned: dict[str, float]) -> Frames:
    """A study whose arms keep `law` and `sums` differently."""
    first, second = Study(learned, law, items=2500).frames(), Study(learned, sums, items=2500).frames()
    here, there = first.predictions["suite"] != "sums", second.predictions["suite"] == "sums"
    rows = pd.concat([first.predictions[here], second.predictions[there]], ignore_index=True)
    return first._replace(predictions=rows)


LEARNED = {"lora-r4": 0.70, "lora-r16": 0.70}


@pytest.fixture(scope="module")
def offset() -> Frames:
    """Law loses 12 points and sums win 12: nothing is forgotten on average."""
    return unlike_suites(dict.fromkeys(LEARNED, 0.68), dict.fromkeys(LEARNED, 0.92), LEARNED)


def test_the_suite_that_loses_most_stands_in_headline_and_sentence(offset: Frames) -> None:
    verdict = judged(offset)
    assert verdict.kind == "recommended"
    row = next(arm for arm in verdict.arms if arm.label == "lora-r4")
    lost = {outcome.suite: -(outcome.change.mean or 0.0) for outcome in row.per_suite}
    assert verdict.headline == f"Recommended: lora-r4, though law loses {100 * lost['law']:.1f} points"
    assert f"most on law ({100 * lost['law']:.1f} points)" in verdict.sentence


def test_nothing_is_said_of_a_suite_that_loses_less_than_the_margin() -> None:
    verdict = judged(Study(LEARNED, {"lora-r4": 0.79, "lora-r16": 0.79}).frames())
    assert verdict.headline == "Recommended: lora-r4"


def test_a_margin_of_single_suites_is_off_and_can_be_asked_for(offset: Frames) -> None:
    assert Decision().suite_margin is None
    strict = judged(offset, Decision(suite_margin=0.10))
    assert strict.kind == "tradeoff"
    assert {arm.status for arm in strict.arms} == {"ineligible"}
    assert "10 points on any suite" in strict.rule
    wide = judged(offset, Decision(suite_margin=0.20))
    assert wide.kind == "recommended"
    near = judged(offset, Decision(suite_margin=0.12))  # the truth lies on it
    assert {arm.status for arm in near.arms} == {"open"}


def test_an_arm_that_learns_more_and_forgets_too_much_is_named() -> None:
    learned = {"lora-r1": 0.40, "full": 0.76}
    verdict = judged(Study(learned, {"lora-r1": 0.80, "full": 0.50}).frames())
    assert verdict.recommended is not None
    assert verdict.recommended.label == "lora-r1"
    assert "behind every rival that may forget as little" in verdict.reasons[0]
    gains = {arm.label: arm.gain.mean or 0.0 for arm in verdict.arms}
    ahead = 100 * (gains["full"] - gains["lora-r1"])
    assert f"full learns {ahead:.1f} points more, but surely forgets more than your margin." in verdict.sentence
