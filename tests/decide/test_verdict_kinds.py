"""The rule on bounds made by hand, its kinds of answer, and what it costs to add one."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_report import make_report, make_verdict
from made_studies import Study
from rich.console import Console
from table_of_docs import table

from rankscope.decide import verdict_kinds
from rankscope.decide.error_spending import simultaneous_alpha
from rankscope.decide.verdict import decide
from rankscope.decide.verdict_bounds import Bounds
from rankscope.decide.verdict_kinds import KINDS, Facts, Judged, VerdictKind, judge
from rankscope.decide.verdict_rule import Standing, indices
from rankscope.records import VerdictFile
from rankscope.report.page import render
from rankscope.report.verdict_text import print_results
from rankscope.study.study import Decision

DECISION = Decision()


class Ruled(NamedTuple):
    """A ruling as the tests read it."""

    answer: str
    recommended: int | None
    candidates: tuple[int, ...]
    refuted: tuple[int, ...]
    status: tuple[str, ...]
    good_enough: tuple[bool, ...]


def ruled_on(limits: Bounds, cost: list[float], gain: list[float], decision: Decision = DECISION) -> Ruled:
    ruling = judge(limits, cost, gain, decision)
    standing = ruling.standing
    return Ruled(
        ruling.kind.name,
        ruling.recommended,
        ruling.candidates,
        tuple(indices(standing.refuted)),
        tuple(standing.status(a) for a in range(len(cost))),
        tuple(standing.good_enough.tolist()),
    )


def ruled(
    gain: list[float],
    forgetting: list[float],
    width: float = 0.005,
    cost: list[float] | None = None,
    decision: Decision = DECISION,
) -> Ruled:
    """The rule where every bound is `width` away from its mean; arms cost 1, 2, 3, ... unless said."""
    g, f = np.array(gain), np.array(forgetting)
    limits = Bounds(g - width, g + width, f - width, f + width, g[:, None] - g[None, :] - width)
    return ruled_on(limits, cost or [float(a + 1) for a in range(len(gain))], gain, decision)


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
    ruling = ruled_on(limits, [1, 2, 3], [0.4, 0.45, 0.40])
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
    ruling = ruled_on(limits, [1, 2], [0.35, 0.35])
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


@given(st.data(), st.integers(1, 4))
def test_how_arms_stand_is_the_rule_arm_by_arm(data: st.DataObject, count: int) -> None:
    """The rule of DESIGN as loops over arms and rivals, on any bounds."""
    numbers = st.lists(st.floats(-0.2, 0.2), min_size=count, max_size=count)
    gain_low, gain_high, lost_low, lost_high = (np.array(data.draw(numbers)) for _ in range(4))
    better_by = np.array([data.draw(numbers) for _ in range(count)])
    ruling = ruled_on(Bounds(gain_low, gain_high, lost_low, lost_high, better_by), [1.0] * count, [0.0] * count)
    for a in range(count):
        rivals = [b for b in range(count) if b != a]
        eligible = [b for b in rivals if lost_high[b] <= DECISION.retention_margin]
        matched = [b for b in rivals if not lost_low[b] > DECISION.retention_margin]
        assert ruling.good_enough[a] == all(better_by[a, b] > -DECISION.task_margin for b in matched)
        beaten = any(better_by[b, a] > DECISION.task_margin for b in eligible)
        assert (a in ruling.refuted) == (lost_low[a] > DECISION.retention_margin or beaten)


# ---- a kind is one value --------------------------------------------------------------------------------------------


def test_the_guide_has_every_kind_by_its_title() -> None:
    told = [title.split(":")[0] for title in table("verdict.md", "answer")]
    assert sorted(told) == sorted(kind.title for kind in KINDS)
    assert len({kind.name for kind in KINDS}) == len(KINDS)


def test_each_kind_of_verdict_has_its_sentence() -> None:
    said = {
        kind: make_verdict(kind=kind).sentence for kind in ("recommended", "tradeoff", "no_gain", "cannot_distinguish")
    }
    assert said["recommended"].startswith("Use lora-r16: it gains +30.3 points (+28.2 to +32.4) and forgets 1.4 points")
    assert "the choice is yours" in said["tradeoff"]
    assert "keep the base model" in said["no_gain"]
    assert "lora-r4, lora-r16 and lora-r64 remain possible" in said["cannot_distinguish"]
    assert "2 more seeds or 900 more items in each suite" in said["cannot_distinguish"]


class TooClose(VerdictKind):
    """A toy kind: every arm is good enough."""

    name, title, tone = "too_close", "All alike", "good"
    reasons_with_answer = True

    def holds(self, standing: Standing) -> bool:
        return bool(standing.good_enough.all())

    def sentence(self, facts: Facts) -> str:
        return f"Take any of {len(facts.arms)} arms."

    def reasons(self, judged: Judged) -> list[str]:
        return [f"All {len(judged.arms)} arms are alike."]


def test_a_new_kind_is_one_class(monkeypatch: pytest.MonkeyPatch) -> None:
    """The record, the terminal and the page tell it, though they do not know it."""
    monkeypatch.setattr(verdict_kinds, "KINDS", (TooClose(), *KINDS))
    frames = Study({"lora-r4": 0.70, "lora-r16": 0.70}, {"lora-r4": 0.80, "lora-r16": 0.80}).frames()
    verdict = decide(frames, model="small", train_set="facts", decision=DECISION, bootstrap_draws=50)
    assert (verdict.kind, verdict.decided, verdict.recommended) == ("too_close", True, None)
    assert verdict.reasons[0] == "All 2 arms are alike."
    console = Console(width=100, force_terminal=False)
    with console.capture() as capture:
        print_results(console, verdict)
    assert "All alike. Take any of 2 arms." in capture.get()
    assert "All 2 arms are alike." in capture.get()
    page = render(replace(make_report(), verdicts=VerdictFile(verdicts=[verdict]), tables={}, searches=[]))
    assert '<article class="verdict good' in page
    assert "Take any of 2 arms." in page
