"""Validation loss at a few steps of a run: where it turns up while the training loss falls, the run over-fits.

It is only looked at. Nothing is chosen by it, no random number is drawn, and no weight is another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rankscope.records import Example
from rankscope.train.objective import Objective

POINTS = 5
"""Of a run, evenly spread, the last one after its last step."""

TOKEN_SHARE = 0.05
"""All points together see at most about this share of the tokens that a run trains on. A forward pass is at most half
of a training step, so the points take less than a fortieth of a run's time."""

_FEWEST_ROWS = 4
"""The loss of fewer says nothing."""


@dataclass(frozen=True)
class ValidationCurve:
    """The validation rows that are looked at while a run trains; none for no curve."""

    rows: Sequence[Example] = ()

    def at(self, step: int, step_count: int) -> Sequence[Example]:
        """The rows to look at after this step, counted from 0; none between two points. A run of fewer steps than
        points has one a step."""
        due = (step + 1) in {-(-step_count * point // POINTS) for point in range(1, POINTS + 1)}
        return self.rows if due else ()


NO_CURVE = ValidationCurve()


def validation_curve(validation: Sequence[Example], objective: Objective, train_tokens: int) -> ValidationCurve:
    """Every k-th validation row, so that all points stay within their share of the `train_tokens` of a run.

    The same rows for every arm and seed, so that their curves can be compared. No curve where too few rows fit.
    """
    tokens = sum(objective.row_tokens(row) for row in validation)
    allowed = TOKEN_SHARE * train_tokens / POINTS
    if allowed <= 0:
        return NO_CURVE
    rows = [validation[i] for i in range(0, len(validation), max(1, -(-tokens // max(1, int(allowed)))))]
    return ValidationCurve(rows) if len(rows) >= _FEWEST_ROWS else NO_CURVE
