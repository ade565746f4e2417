"""What each arm is worth if another amount of forgetting is allowed: its setting chosen again by the same rule.

The verdict's guarantee holds for the study's own margin; these rows are descriptive.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from rankscope.decide.setting_choice import ArmPoints, choose_settings, fitted_share
from rankscope.decide.setting_points import JUDGED, KEYS
from rankscope.records import ArmSetting, PlannedChoice

ALLOWED = (0.01, 0.03, 0.05, 0.10)
"""Forgetting that may be allowed, as shares of accuracy: 1, 3, 5 and 10 points."""

ALLOWED_COLUMNS = [
    "model", "train_set", "allowed", "arm", "learning_rate", "dial", "admissible", "judged", "runs_needed",
    *JUDGED[1:],
]  # fmt: skip


def allowed_frame(
    settings: Sequence[ArmSetting],
    choices: Sequence[PlannedChoice],
    judged: pd.DataFrame,
    *,
    retention_margin: float,
    seed_count: int,
) -> pd.DataFrame:
    """One row for each amount of ALLOWED and each arm: ALLOWED_COLUMNS.

    `settings` hold every point that an arm's setting was chosen from, and `judged` (model, train_set, KEYS, JUDGED) what
    the study's seeds measured. Limits in points and in nats grow in proportion to what is allowed. An arm whose rate
    there was not trained on the study's seeds is not judged; `runs_needed` runs (`seed_count`) would judge it.
    `admissible`: the fitted forgetting is within the limit. Settings that were chosen by the loss alone have no rows.
    """
    rows = []
    for choice in choices:
        mine = [s for s in settings if (s.model, s.train_set) == (choice.model, choice.train_set) and s.points]
        if choice.select == "loss" or not choice.limit or not mine:
            continue
        for allowed in ALLOWED:
            rows += _rows_at(allowed, mine, choice.at_margin(allowed / retention_margin))
    where = ["model", "train_set", *KEYS]
    frame = pd.DataFrame(rows, columns=ALLOWED_COLUMNS[:7]).merge(judged[[*where, *JUDGED[1:]]], on=where, how="left")
    frame["judged"] = frame["gain"].notna()
    frame["runs_needed"] = (~frame["judged"]).astype(int) * seed_count
    return frame[ALLOWED_COLUMNS].drop_duplicates(ALLOWED_COLUMNS[:6]).reset_index(drop=True)


def _rows_at(allowed: float, settings: Sequence[ArmSetting], choice: PlannedChoice) -> list[list[object]]:
    """The arms of one base model and training set with the setting that this limit gives them."""
    arms = [
        ArmPoints(
            setting.arm,
            setting.points,
            setting.learning_rate if setting.rate_given else None,
            setting.dial if setting.how == "given" else None,
        )
        for setting in settings
    ]
    found = []
    for chosen in choose_settings(arms, choice):
        within = chosen.point is not None and fitted_share(chosen.point, choice) <= 1
        found.append(
            [choice.model, choice.train_set, allowed, chosen.arm, chosen.learning_rate, chosen.dial, within]
        )  # fmt: skip
    return found
