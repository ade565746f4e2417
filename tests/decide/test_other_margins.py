"""Settings at other margins: the same rule with another limit, judged where the study's seeds were there."""

from __future__ import annotations

import pandas as pd
import pytest

from rankscope.decide.other_margins import ALLOWED, at_other_margins
from rankscope.decide.setting_choice import ArmPoints, choose_settings
from rankscope.decide.setting_points import JUDGED, KEYS, operating_points
from rankscope.records import ArmSetting, PlannedChoice, SettingPoint, WorthAt
from rankscope.study.study import Decision

CHOICE = PlannedChoice(model="m", train_set="t", select="retention", limit=0.02)


def point(arm: str, rate: float, dial: float, loss: float, lost: float) -> SettingPoint:
    """Enough labelled items that the fit is what was measured; the divergence rises with what was lost."""
    return SettingPoint(
        arm=arm, learning_rate=rate, dial=dial, source="search", seeds=1, validation_loss=loss, forgetting=lost,
        kl_first_token_nats=lost, select_items=10_000.0,
    )  # fmt: skip


A = [point("a", 1e-3, 0.5, 3.0, 0.005), point("a", 1e-3, 1.0, 2.0, 0.018), point("a", 3e-3, 1.0, 1.0, 0.06)]
B = [point("b", 1e-3, 0.5, 3.0, 0.03), point("b", 1e-3, 1.0, 2.0, 0.09)]


def found(choice: PlannedChoice = CHOICE, *, rate: float | None = None) -> dict[tuple[float, str], WorthAt]:
    settings = choose_settings([ArmPoints("a", A, rate), ArmPoints("b", B)], choice)
    columns = ["model", "train_set", "arm", "learning_rate", "dial", "judged_seeds"]
    numbers = ["gain", "gain_low", "gain_high", "forgetting", "forgetting_low", "forgetting_high"]
    judged = pd.DataFrame(
        [
            ["m", "t", "a", 1e-3, dial, 3, gain, gain - 0.1, gain + 0.1, 0.01, 0.0, 0.02]
            for dial, gain in ((0.5, 0.2), (1.0, 0.4))
        ],
        columns=[*columns, *numbers],
    ).reindex(columns=["model", "train_set", *KEYS, *JUDGED])
    points = operating_points(settings, judged)
    rows = at_other_margins(settings, choice, points, decision=Decision(), seed_count=3)
    return {(row.allowed, row.arm): row for row in rows}


def test_each_margin_has_the_setting_that_the_rule_gives_at_two_thirds_of_it() -> None:
    rows = found()
    assert {allowed for allowed, _ in rows} == set(ALLOWED)
    at = {allowed: (rows[allowed, "a"].learning_rate, rows[allowed, "a"].dial) for allowed in ALLOWED}
    assert at == {0.01: (1e-3, 0.5), 0.03: (1e-3, 1.0), 0.05: (1e-3, 1.0), 0.10: (3e-3, 1.0)}


def test_at_the_studys_own_margin_it_is_the_studys_own_setting() -> None:
    (own, _) = choose_settings([ArmPoints("a", A), ArmPoints("b", B)], CHOICE)
    row = found()[0.03, "a"]
    assert (row.learning_rate, row.dial) == (own.learning_rate, own.dial)


def test_what_the_seeds_were_not_trained_at_is_not_judged() -> None:
    rows = found()
    assert rows[0.03, "a"].gain == pytest.approx(0.4)
    assert rows[0.03, "a"].runs_needed == 0
    assert (rows[0.10, "a"].gain, rows[0.10, "a"].runs_needed) == (None, 3)


def test_an_arm_that_keeps_no_such_margin_has_its_least_bad_setting_and_says_so() -> None:
    rows = found()
    assert (rows[0.01, "b"].admissible, rows[0.01, "b"].dial) == (False, 0.5)
    assert rows[0.05, "b"].admissible


def test_a_given_rate_stays_at_every_margin() -> None:
    rows = found(rate=1e-3)
    assert {rows[allowed, "a"].learning_rate for allowed in ALLOWED} == {1e-3}


def test_what_was_chosen_blind_to_forgetting_has_no_rows() -> None:
    settings: list[ArmSetting] = choose_settings([ArmPoints("a", A)], CHOICE)
    blind = CHOICE.model_copy(update={"select": "loss"})
    assert at_other_margins(settings, blind, pd.DataFrame(), decision=Decision(), seed_count=3) == []


def test_a_margin_of_the_study_s_own_stands_among_the_others() -> None:
    settings = choose_settings([ArmPoints("a", A)], CHOICE)
    judged = pd.DataFrame(columns=["model", "train_set", *KEYS, *JUDGED])
    points = operating_points(settings, judged)
    rows = at_other_margins(settings, CHOICE, points, decision=Decision(retention_margin=0.02), seed_count=3)
    assert [row.allowed for row in rows] == [0.01, 0.02, 0.03, 0.05, 0.10]


def test_where_all_is_judged_by_loss_the_margins_are_in_nats_and_so_is_what_was_judged() -> None:
    lost = [(0.5, 3.0, 0.004), (1.0, 2.0, 0.03)]
    own = [
        point("a", 1e-3, dial, loss, nats).model_copy(update={"forgetting": None, "forgetting_nats": nats})
        for dial, loss, nats in lost
    ]
    choice = CHOICE.model_copy(update={"limit_nats": 0.02 * 2 / 3})
    settings = choose_settings([ArmPoints("a", own)], choice)
    columns = ["model", "train_set", *KEYS, "judged_seeds", "gain_nats", "forgetting_nats"]
    judged = pd.DataFrame([["m", "t", "a", 1e-3, 0.5, 3, 0.2, 0.01]], columns=columns)
    points = operating_points(settings, judged.reindex(columns=["model", "train_set", *KEYS, *JUDGED]))
    rows = at_other_margins(settings, choice, points, decision=Decision(), seed_count=3)
    assert [row.allowed_nats for row in rows] == pytest.approx([0.01, 0.02, 0.04, 0.08])
    assert [row.dial for row in rows] == [0.5, 0.5, 0.5, 1.0]
    assert (rows[0].gain, rows[0].gain_nats, rows[0].runs_needed) == (None, 0.2, 0)
    assert (rows[3].gain_nats, rows[3].runs_needed) == (None, 3)


def test_limits_in_nats_grow_alike() -> None:
    both = CHOICE.model_copy(update={"limit_nats": 0.012})
    wider = both.at_margin(5)
    assert (wider.limit, wider.limit_nats) == (pytest.approx(0.1), pytest.approx(0.06))
    assert CHOICE.at_margin(5).limit_nats is None
