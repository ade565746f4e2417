"""What changed between two studies, as the terminal says it."""

from __future__ import annotations

from rich.console import Console

from rankscope.records import Interval
from rankscope.records.comparison_record import (
    AnswerDifference,
    ArmDifference,
    Comparison,
    PairComparison,
    SettingDifference,
)
from rankscope.report.comparison_text import answer_sentence, print_comparison

ANSWERS = AnswerDifference(
    kind=("cannot_distinguish", "recommended"),
    headline=("Not decided yet", "Recommended: lora-r16"),
    recommended=(None, "lora-r16"),
    best_bet=("full", "lora-r16"),
    probability=(0.61, 0.97),
)


def arm(**changes: object) -> ArmDifference:
    gain, lost = Interval(mean=0.021, low=0.004, high=0.038), Interval(mean=-0.012, low=-0.03, high=0.006)
    fields = {
        "arm": "lora-r16", "learning_rate": (1e-3, 3e-3), "dial": (1.0, 0.7), "paired": True, "why": None,
        "seeds": ([0, 1], [0, 1]), "gain": gain, "forgetting": lost,
    }  # fmt: skip
    return ArmDifference.model_validate(fields | changes)


def test_answers_settings_and_arms_are_told() -> None:
    settings = [SettingDifference(name="budget.epochs", first="2", second="3")]
    found = arm(arm="full", paired=False, why="other seeds (0 and 1)", seeds=([0], [1]))
    name = "bundled trained on medical"
    arms = [arm(), found]
    pair = PairComparison(name=(name, name), answers=ANSWERS, arms=arms, only_first=["lora-r1"], only_second=[])
    lonely = ["x (only in b)"]
    whole = Comparison(first="a", second="b", confidence=0.95, settings=settings, pairs=[pair], unmatched=lonely)
    console = Console(width=100, highlight=False, force_terminal=False)
    with console.capture() as capture:
        print_comparison(console, whole)
    text = " ".join(capture.get().split())
    assert "budget.epochs 2 3" in text
    assert "The verdict was cannot distinguish and is lora-r16, recommended." in text
    assert "+2.1 (+0.4 to +3.8)" in text
    assert "-1.2 (-3.0 to +0.6)" in text
    assert "rate 1e-3, then 3e-3" in text
    assert "Only in the first: lora-r1." in text
    assert "one seed" in text
    assert "Not compared: x (only in b)." in text


def test_an_answer_that_stayed_is_said_to_have_stayed() -> None:
    same = ANSWERS.model_copy(update={"kind": ("no_gain",) * 2, "recommended": (None, None), "best_bet": ("full",) * 2})
    assert answer_sentence(same) == "The verdict is the same: no gain. The best bet was full (61 %) and is full (97 %)."
