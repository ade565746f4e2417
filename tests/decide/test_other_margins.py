"""Settings at other margins: the same rule with another limit, judged where the study's seeds were there."""

from __future__ import annotations

import pandas as pd
import pytest

from rankscope.decide.other_margins import ALLOWED, at_other_margins
from rankscope.decide.setting_choice import ArmPoints, choose_settings
from rankscope.decide.setting_points import operating_points
from rankscope.records import ArmSetting, PlannedChoice, SettingPoint, WorthAt

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
    )
    points = operating_points(settings, judged)
    rows = at_other_margins(settings, choice, points, retention_margin=0.03, seed_count=3)
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
    assert at_other_margins(settings, blind, pd.DataFrame(), retention_margin=0.03, seed_count=3) == []


def test_limits_in_nats_grow_alike() -> None:
    both = CHOICE.model_copy(update={"limit_nats": 0.012})
    wider = both.at_margin(5)
    assert (wider.limit, wider.limit_nats) == (pytest.approx(0.1), pytest.approx(0.06))
    assert CHOICE.at_margin(5).limit_nats is None
