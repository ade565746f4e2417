"""The margins of the verdict, in points and in nats, fixed in the study before any result.

The description of each setting is its only documentation, as in study_settings.py.
"""

from __future__ import annotations

from typing import NamedTuple

from pydantic import Field

from rankscope.study.methods import Fraction, Frozen
from rankscope.study.study_settings import Metric, Positive, Share


class Margins(NamedTuple):
    """What may be lost in one unit, points (as shares) or nats: of gain behind the best, of what the base knew; and the
    least gain that counts."""

    task: float
    retention: float
    least_gain: float


class Decision(Frozen):
    """The margins of the verdict, fixed before any result: differences of accuracy (0.03 is three points), and of
    losses in nats per token for suites with `metric: loss`."""

    task_margin: Share = Field(
        default=0.03,
        description="a difference of accuracy above 0 and below 1, such as 0.03. How much less an arm may gain.",
    )
    retention_margin: Share = Field(
        default=0.03,
        description="a difference of accuracy above 0 and below 1, such as 0.03. What an arm may forget.",
    )
    min_gain: Fraction = Field(
        default=0.01,
        description="a difference of accuracy from 0 to below 1, such as 0.01. A smaller gain counts as none; in nats "
        "the same share of the task margin does.",
    )
    task_margin_nats: Positive = Field(
        default=0.02,
        description="nats per token above 0, such as 0.02. How much less an arm may gain on suites judged by loss.",
    )
    retention_margin_nats: Positive = Field(
        default=0.02,
        description="nats per token above 0, such as 0.02. What an arm may forget on suites judged by loss.",
    )
    suite_margin: Share | None = Field(
        default=None,
        description="a difference of accuracy above 0 and below 1, or null for none. What an arm may forget on any "
        "single suite; the other margins are of means over suites.",
    )
    runs_worth: Fraction = Field(
        default=0.0002,
        description="a difference of accuracy from 0 to below 1, such as 0.0002. What a further run must save of the "
        "best bet's expected regret; with `seeds: {start, max}` seeds are added while it does.",
    )
    confidence: float = Field(
        default=0.95,
        ge=0.5,
        lt=1,
        allow_inf_nan=False,
        description="a number from 0.5 to below 1, such as 0.95. Of every interval, and of the verdict as a whole.",
    )

    def margins(self, metric: Metric) -> Margins:
        """The margins of suites of one metric. The least gain that counts is the same share of the task margin."""
        if metric == "score":
            return Margins(self.task_margin, self.retention_margin, self.min_gain)
        least = self.min_gain / self.task_margin * self.task_margin_nats
        return Margins(self.task_margin_nats, self.retention_margin_nats, least)
