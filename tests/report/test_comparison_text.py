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
    more = [*settings, SettingDifference(name="execution.threads", first="1", second="2")]
    whole = Comparison(
        first="a", second="b", confidence=0.95, settings=more, main=settings, pairs=[pair], unmatched=lonely
    )
    console = Console(width=100, highlight=False, force_terminal=False)
    with console.capture() as capture:
        print_comparison(console, whole)
    text = " ".join(capture.get().split())
    assert text.index("b: Recommended: lora-r16.") < text.index("+2.1 (+0.4") < text.index("budget.epochs 2 3")
    assert text.index("Not the same: budget.epochs. What moved may come") < text.index("+2.1 (+0.4")
    assert "2 settings differ; --settings lists them" in text
    assert "execution.threads" not in text
    assert 'The verdict was "cannot distinguish" and is "lora-r16, recommended".' in text
    assert "+2.1 (+0.4 to +3.8)" in text
    assert "-1.2 (-3.0 to +0.6)" in text
    assert "rate 1e-3, then 3e-3" in text
    assert "Only in the first: lora-r1." in text
    assert "one seed" in text
    assert "unpaired: other seeds (0 and 1), so the interval is that of two independent samples." in text
    assert "Not compared: x (only in b)." in text


def test_an_answer_that_stayed_is_said_to_have_stayed() -> None:
    same = ANSWERS.model_copy(update={"kind": ("no_gain",) * 2, "recommended": (None, None), "best_bet": ("full",) * 2})
    assert answer_sentence(same) == (
        'The verdict is the same: "no gain". The best bet was full (61 %) and is full (97 %).'
    )


def printed(*arms: ArmDifference, every_setting: bool = False) -> str:
    name = ("m trained on t",) * 2
    pair = PairComparison(name=name, answers=ANSWERS, arms=list(arms), only_first=[], only_second=[])
    rows = [SettingDifference(name="execution.threads", first="1", second="2")]
    found = Comparison(first="a", second="b", confidence=0.95, settings=rows, pairs=[pair], unmatched=[])
    console = Console(width=100, highlight=False, force_terminal=False)
    with console.capture() as capture:
        print_comparison(console, found, every_setting=every_setting)
    return " ".join(capture.get().split())


def test_suites_of_one_study_alone_are_named_once_and_nothing_is_called_paired_over_none() -> None:
    some = {"suites": ("law", "med"), "alone": ("sums",)}
    text = printed(arm(**some), arm(arm="full", **some))
    assert text.count("Over law and med; in one study only, or judged otherwise: sums.") == 1
    nothing = Interval(mean=None, low=None, high=None)
    text = printed(arm(paired=False, gain=nothing, forgetting=nothing, alone=("law", "sums")))
    assert "not compared" in text
    assert "No suite is judged alike in both: law, sums." in text
    assert "paired" not in text


def test_units_are_those_that_were_compared_and_every_setting_is_listed_where_it_is_asked_for() -> None:
    loss = Interval(mean=0.02, low=0.01, high=0.03)
    nothing = Interval(mean=None, low=None, high=None)
    text = printed(arm(gain=nothing, forgetting=nothing, gain_nats=loss, forgetting_nats=loss), every_setting=True)
    assert "Second minus first, in nats, with 95 % intervals" in text
    assert "+0.020 nats (+0.010 to +0.030)" in text
    assert "execution.threads 1 2" in text
