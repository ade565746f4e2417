"""What its dial is worth to an arm: the arm at its setting against itself as it was trained, like any remedy."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from rankscope.decide.paired_items import Frames, pair
from rankscope.decide.remedy_outcomes import outcome_against
from rankscope.records import ArmSetting, RemedyOutcome


def dial_outcomes(
    frames: Frames, as_trained: Frames, settings: Sequence[ArmSetting], model: str, train_set: str, confidence: float
) -> list[RemedyOutcome]:
    """One for each arm that is judged at a dial below 1, in the settings' order.

    `frames` has the arms at their settings, `as_trained` the same runs at dial 1. Intervals are as those of
    `remedy_outcomes`. A dial costs neither tokens nor time.
    """
    found = []
    for setting in settings:
        if (setting.model, setting.train_set) != (model, train_set) or setting.dial == 1:
            continue
        arm, own = setting.arm, f"{setting.arm} as trained"
        both = Frames(
            _with_trained(frames.predictions, as_trained.predictions, arm, own),
            frames.suites,
            _with_trained(frames.runs, as_trained.runs, arm, own),
        )
        pairing = pair(both, model=model, train_set=train_set, only=[arm, own])
        if len(pairing.labels) == 2:
            runs = both.runs[(both.runs["model"] == model) & (both.runs["train_set"] == train_set)]
            dial = f"dial {setting.dial:g}"
            found.append(outcome_against(pairing, arm, own, dial, runs, confidence, subject=f"{arm} at {dial}"))
    return found


def _with_trained(frame: pd.DataFrame, trained: pd.DataFrame, arm: str, own: str) -> pd.DataFrame:
    """The rows, and those of `arm` in `trained` under the label `own`."""
    return pd.concat([frame, trained[trained["arm"] == arm].assign(arm=own)], ignore_index=True)
