"""What each arm is worth if another amount of forgetting is allowed: its setting chosen again by the same rule.

The verdict's guarantee holds for the study's own margin; these rows are descriptive.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from rankscope.decide.setting_choice import ArmPoints, choose_settings, fitted_share
from rankscope.decide.setting_points import JUDGED
from rankscope.records import ArmSetting, PlannedChoice, WorthAt
from rankscope.study.study import Decision

ALLOWED = (0.01, 0.03, 0.05, 0.10)
"""Forgetting that may be allowed, as shares of accuracy: 1, 3, 5 and 10 points; beside the study's own margin."""

MARGINS_NATS = (0.5, 1.0, 2.0, 4.0)
"""The same where all that can be forgotten is judged by its loss, in margins of the study: nats have no common size."""


def at_other_margins(
    settings: Sequence[ArmSetting],
    choice: PlannedChoice,
    points: pd.DataFrame,
    *,
    decision: Decision,
    seed_count: int,
) -> list[WorthAt]:
    """For each amount that may be allowed every arm of one base model and training set, in the order of `settings`.

    `settings` hold every point that was measured, `points` (columns of tables/operating_points.parquet) what the
    study's seeds were judged to gain and forget. Limits in points and in nats grow in proportion to what is allowed.
    Empty where settings were given or chosen by the loss alone.
    """
    mine = [s for s in settings if (s.model, s.train_set) == (choice.model, choice.train_set) and s.points]
    if choice.select != "retention" or (choice.limit is None and choice.limit_nats is None) or not mine:
        return []
    margin = decision.retention_margin
    forgot = [point for setting in mine for point in setting.points]
    in_points = any(point.forgetting is not None for point in forgot)
    in_nats = any(point.forgetting_nats is not None for point in forgot)
    amounts = sorted({*ALLOWED, margin}) if in_points or not in_nats else [margin * share for share in MARGINS_NATS]
    own = points[(points["model"] == choice.model) & (points["train_set"] == choice.train_set)]
    measured = own[["gain", "gain_nats"]].notna().any(axis=1)
    judged = own[measured].drop_duplicates(["arm", "learning_rate", "dial"])
    found = []
    for allowed in amounts:
        held_to = choice.at_margin(allowed / margin)
        nats = decision.retention_margin_nats * allowed / margin if in_nats else None
        for chosen in choose_settings([_arm(setting) for setting in mine], held_to):
            rows = judged[
                (judged["arm"] == chosen.arm)
                & _at_rate(judged["learning_rate"], chosen.learning_rate)
                & (judged["dial"] == chosen.dial)
            ]
            found.append(_worth((allowed, nats), chosen, held_to, rows, seed_count))
    return found


def _at_rate(rates: pd.Series[float], rate: float | None) -> pd.Series[bool]:
    """Which rates are this one; of an arm that was trained elsewhere it is missing."""
    return rates.isna() if rate is None else rates == rate


def _arm(setting: ArmSetting) -> ArmPoints:
    """The arm with all that was measured of it, and with what the study fixes."""
    rate = setting.learning_rate if setting.rate_given else None
    return ArmPoints(setting.arm, setting.points, rate, setting.dial if setting.how == "given" else None)


def _worth(
    allowed: tuple[float, float | None],
    chosen: ArmSetting,
    choice: PlannedChoice,
    judged: pd.DataFrame,
    seed_count: int,
) -> WorthAt:
    """`allowed`: as a share of accuracy, and in nats where suites are judged in them."""
    row = judged.iloc[0].to_dict() if len(judged) else {}
    measured = {name: None if pd.isna(value := row.get(name)) else float(value) for name in JUDGED[1:]}
    return WorthAt(
        allowed=allowed[0],
        allowed_nats=allowed[1],
        arm=chosen.arm,
        learning_rate=chosen.learning_rate,
        dial=chosen.dial,
        admissible=chosen.point is not None and fitted_share(chosen.point, choice) <= 1,
        runs_needed=0 if len(judged) else seed_count,
        **measured,
    )
