"""The words of a best bet: how sure, in which unit, and what each part of the record says."""

from __future__ import annotations

from typing import Any

import pytest

from rankscope.decide.bet_words import BASE, Told, confidence_word, is_worth, worded
from rankscope.records import BestBet, BetSetting, LeastBadArm, NextRuns
from rankscope.study.study import Decision

TOLD = Told(Decision(), ("score",), None, {"lora-r1": 3, "lora-r16": 3})


def bet(told: Told = TOLD, **changes: Any) -> BestBet:
    fields: dict[str, Any] = {
        "label": "lora-r16", "setting": BetSetting(learning_rate=1e-3, dial=0.7), "probability": 0.84,
        "expected_regret": 0.0042, "runner_up": "lora-r64", "probability_base": 0.02,
        "next_runs": NextRuns(arms=["lora-r16", "lora-r64", "full"], saving=0.0012),
    }  # fmt: skip
    return worded(BestBet(**(fields | changes)), told)


@pytest.mark.parametrize(
    ("probability", "word"), [(0.8, "probably"), (0.79, "more likely than not"), (0.49, "a guess"), (0.0, "a guess")]
)
def test_how_sure(probability: float, word: str) -> None:
    assert confidence_word(probability) == word
    assert word in bet(probability=probability).headline
    assert word in bet(probability=probability).sentence


def test_an_arm() -> None:
    found = bet()
    assert found.headline == "Best bet: lora-r16, probably (84 %)"
    assert found.sentence == (
        "Use lora-r16 (rate 1e-3, dial 0.7): probably (84 %) it forgets at most 3 points and is within 3 points of the "
        "best arm that does."
    )
    assert found.why == (
        "It is expected to miss 0.4 points against the best choice (gain missed, and forgetting beyond the margin). "
        "Next best: lora-r64. That no arm is worth training has a probability of 2 %. One more seed each for lora-r16, "
        "lora-r64 and full would save about 0.1 points of that."
    )


def test_a_dial_of_one_and_a_rate_that_is_not_known_are_not_told() -> None:
    assert "(rate 1e-3):" in bet(setting=BetSetting(learning_rate=1e-3, dial=1.0)).sentence
    assert "Use lora-r16:" in bet(setting=BetSetting(learning_rate=None, dial=1.0)).sentence


def test_the_base_and_the_least_bad_arm() -> None:
    setting = BetSetting(learning_rate=3e-4, dial=0.5)
    worst = LeastBadArm(label="lora-r4", setting=setting, retention_margin=0.052, probability=0.6)
    found = bet(label=BASE, setting=None, runner_up="lora-r4", least_bad=worst, next_runs=None)
    assert found.headline == "Best bet: train none of these, probably (84 %)"
    assert "no arm that forgets at most 3 points gains 1 point" in found.sentence
    assert "lora-r4 (rate 3e-4, dial 0.5); it would keep a margin of 5.2 points with 80 %" in found.why
    assert "be right by that margin with 60 %" in found.why


def test_without_a_probability_the_reason_is_told() -> None:
    told = TOLD._replace(unknown="with one seed nobody knows how much the result depends on the seed")
    found = bet(told, probability=None, expected_regret=None, probability_base=None)
    assert found.headline == "Best bet: lora-r16"
    assert "cannot be said: with one seed nobody knows" in found.sentence
    assert "expected to miss" not in found.why


def test_both_units_are_told_and_regret_is_in_margins() -> None:
    found = bet(TOLD._replace(metrics=("score", "loss")), unit="margins", expected_regret=0.4)
    assert "forgets at most 3 points and 0.02 nats and is within 3 points and 0.02 nats" in found.sentence
    assert "miss 0.4 margins" in found.why


def test_neither_sure_nor_impossible() -> None:
    assert "over 99 %" in bet(probability=1.0).headline
    assert "under 1 %" in bet(probability=0.0).headline


def test_runs_that_save_too_little_are_not_asked_for() -> None:
    runs = NextRuns(arms=["a", "b"], saving=0.0003)
    assert not is_worth(runs, "accuracy", Decision())
    assert is_worth(runs, "accuracy", Decision(runs_worth=0.00015))
    assert is_worth(runs.model_copy(update={"saving": 0.0134}), "margins", Decision())  # 0.02 of 3 points a run
    assert not is_worth(runs.model_copy(update={"saving": 0.0132}), "margins", Decision())
    assert "hardly change it" in bet(next_runs=runs).why
    assert not is_worth(NextRuns(arms=["a"], saving=None), "accuracy", Decision())
