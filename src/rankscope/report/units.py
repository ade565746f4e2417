"""The units of gain and forgetting: percentage points, and of suites judged by their loss nats per token.

A study may judge all suites in one of them, or some in each; a chart has one unit an axis, and a table says which.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from rankscope.records import Metric, Verdict, WorthAt
from rankscope.records.readable_numbers import bare, listing, unit_name
from rankscope.study.study import Decision

MEASURES = ("gain", "forgetting")


@dataclass(frozen=True)
class Unit:
    """What a metric is shown in: `factor` times what records and tables have.

    `suffix` is what their names end with; charts write `decimals` of it, and colours reach at least to `reach`.
    """

    metric: Metric
    name: str
    suffix: str
    factor: float
    decimals: int
    reach: float

    @property
    def short(self) -> str:
        """`points` or `nats`."""
        return unit_name(self.metric)

    def form(self, measure: str) -> str:
        """How charts write it: a gain or a change has its sign, forgetting is an amount, as in sentences and tables."""
        return f"{'' if measure == 'forgetting' else '+'}.{self.decimals}f"

    def shown(self, value: float | None) -> float | None:
        """A value of a record or a table as charts have it."""
        return None if value is None else self.factor * value

    def said(self, shown: float, *, sign: bool = True) -> str:
        """A value that is shown, in words, without the unit."""
        return bare(shown / self.factor, self.metric, sign=sign)

    def margin(self, decision: Decision, measure: str) -> float:
        """What is shown of the least gain that counts, or of the forgetting that is allowed."""
        margins = decision.margins(self.metric)
        return self.factor * (margins.least_gain if measure == "gain" else margins.retention)

    def worth(self, one: WorthAt, name: str) -> float | None:
        """`allowed`, `gain` or `forgetting` at another margin, as it is shown; None where it is not known."""
        return self.shown(getattr(one, f"{name}{self.suffix}"))


IN_POINTS = Unit("score", "percentage points", "", 100.0, 1, 5.0)
IN_NATS = Unit("loss", "nats per token", "_nats", 1.0, 3, 0.05)
Units = Mapping[str, Unit]
"""The unit of each of MEASURES."""
POINTS_ALONE: Units = dict.fromkeys(MEASURES, IN_POINTS)


def units_in(verdict: Verdict, measure: str) -> list[Unit]:
    """The units that some arm has this measure in, points first."""
    found = []
    for unit in (IN_POINTS, IN_NATS):
        parts = (getattr(arm, f"{measure}{unit.suffix}") for arm in verdict.arms)
        if any(part is not None and part.mean is not None for part in parts):
            found.append(unit)
    return found


def units_of(verdict: Verdict) -> Units:
    """The unit in which a picture shows each measure: points, nats where there are only these."""
    return {measure: next(iter(units_in(verdict, measure)), IN_POINTS) for measure in MEASURES}


def header_units(verdicts: Iterable[Verdict], measure: str) -> str:
    """The units of a table's column: `points`, `nats`, or `points or nats`."""
    every = {unit.short: None for verdict in verdicts for unit in units_in(verdict, measure)}
    return listing(sorted(every, reverse=True), "or") or IN_POINTS.short


def title_units(units: Units) -> str:
    """The units of a picture of both measures: `percentage points`, or `percentage points and nats per token`."""
    return listing(list(dict.fromkeys(units[measure].name for measure in MEASURES)))
