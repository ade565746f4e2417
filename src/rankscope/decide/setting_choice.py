"""Chooses the setting of every arm, its rate and its dial, from points that were measured on items that never judge.

The rule is that of `retention_rule.py`: a point's forgetting is fitted over all points of all arms, and along the dials
of one rate of one arm.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rankscope.decide.retention_rule import Rated, choose, fitted_forgetting
from rankscope.records import ArmSetting, PlannedChoice, SettingPoint
from rankscope.records.settings_record import How

Floats = NDArray[np.float64]

Predictor = Literal["kl_first_token_nats", "kl_choices_nats"]
"""What forgetting is fitted on, of the two divergences that are measured."""


class ArmPoints(NamedTuple):
    """An arm with all points that were measured of it. `rate`: the study's own, None where it is chosen (or not known,
    of an arm that was trained elsewhere); `dial`: the one that the study fixes, None where it is chosen."""

    arm: str
    points: Sequence[SettingPoint]
    rate: float | None = None
    dial: float | None = None


def choose_settings(arms: Sequence[ArmPoints], choice: PlannedChoice) -> list[ArmSetting]:
    """The setting of each arm of one base model and training set, in their order.

    Of the points whose fitted forgetting is at most the limit, in points and in nats, the one with the lowest
    validation loss; ties go to the one that moves less. Where there is none, the one whose fitted forgetting is least.
    With `loss` the lowest validation loss at dial 1, as with `given`, where there is one. An arm without any point has
    its own rate, and its own dial or 1.
    """
    fitted = with_fits([point for arm in arms for point in arm.points])
    predictor = predictor_of(fitted)
    found, start = [], 0
    for arm in arms:
        own = fitted[start : start + len(arm.points)]
        start += len(arm.points)
        found.append(_setting(arm, own, choice, predictor))
    return found


def _setting(arm: ArmPoints, points: Sequence[SettingPoint], choice: PlannedChoice, predictor: Predictor) -> ArmSetting:
    by_loss = choice.select != "retention"
    dial = arm.dial if arm.dial is not None or not by_loss else 1.0
    open_points = [
        point
        for point in points
        if point.validation_loss is not None
        and (dial is None or point.dial == dial)
        and (arm.rate is None or point.learning_rate == arm.rate)
    ]
    best, how = _best(open_points, choice, predictor)
    elsewhere = bool(points) and all(point.learning_rate is None for point in points)
    if dial is not None and (arm.rate is not None or elsewhere):
        how = "given"
    return ArmSetting(
        model=choice.model, train_set=choice.train_set, arm=arm.arm,
        learning_rate=arm.rate if best is None else best.learning_rate,
        dial=best.dial if best is not None else dial if dial is not None else 1.0,
        how=how, rate_given=arm.rate is not None,
        limit=None if by_loss else choice.limit, limit_nats=None if by_loss else choice.limit_nats,
        points=list(points),
    )  # fmt: skip


def _best(
    points: Sequence[SettingPoint], choice: PlannedChoice, predictor: Predictor
) -> tuple[SettingPoint | None, How]:
    """The point that is chosen, and by what."""
    if choice.select != "retention" or not points:
        return min(points, key=lambda point: _by_loss(point, predictor), default=None), "loss"
    place, how = choose([Rated(fitted_share(point, choice), *_by_loss(point, predictor)) for point in points])
    return points[place], how


def fitted_share(point: SettingPoint, choice: PlannedChoice) -> float:
    """Fitted forgetting as a share of the limit, the larger of points and nats; infinite where nothing was fitted."""
    shares = [
        value / limit
        for value, limit in ((point.fitted, choice.limit), (point.fitted_nats, choice.limit_nats))
        if value is not None and limit
    ]
    return max(shares, default=math.inf)


def _by_loss(point: SettingPoint, predictor: Predictor) -> tuple[float, float, float]:
    """Validation loss, then the divergence, then the dial."""
    loss, moved = point.validation_loss, getattr(point, predictor)
    return (math.inf if loss is None else loss, math.inf if moved is None else float(moved), point.dial)


# ---- the fit ---------------------------------------------------------------------------------------------------------


def predictor_of(points: Sequence[SettingPoint]) -> Predictor:
    """The divergence over the items' choices where every point that was measured has it, else that over the whole
    vocabulary. On a real base model the first orders rates and dials by what they forget, the second only the dials of
    one rate (docs/log.md has the table)."""
    measured = [point for point in points if point.kl_first_token_nats is not None]
    known = bool(measured) and all(point.kl_choices_nats is not None for point in measured)
    return "kl_choices_nats" if known else "kl_first_token_nats"


def with_fits(points: Sequence[SettingPoint]) -> list[SettingPoint]:
    """The points, in their order, with the forgetting that the two isotonic fits give together."""
    moved, dials, labels = (_column(points, name) for name in (predictor_of(points), "dial", "select_items"))
    changes = [(point.arm, point.learning_rate, point.source) for point in points]
    fits = {
        name: fitted_forgetting(_column(points, name), moved, dials, labels, changes)
        for name in ("forgetting", "forgetting_nats")
    }
    return [
        point.model_copy(
            update={"fitted": _known(fits["forgetting"][i]), "fitted_nats": _known(fits["forgetting_nats"][i])}
        )
        for i, point in enumerate(points)
    ]


def _column(points: Sequence[SettingPoint], name: str) -> Floats:
    return np.array([np.nan if (v := getattr(point, name)) is None else v for point in points], dtype=float)


def _known(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def exceeds_everywhere(points: Sequence[SettingPoint], choice: PlannedChoice) -> bool:
    """Whether every one of these points, fitted already, exceeds the limit; not where nothing is known of any."""
    shares = [share for point in points if math.isfinite(share := fitted_share(point, choice))]
    return bool(shares) and min(shares) > 1
