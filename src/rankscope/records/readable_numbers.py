"""Writes numbers as people read them: points of accuracy, intervals, counts, sizes, durations, rates.

Shared by the sentences of the verdict, the report, the terminal and the model card. A number that is missing is said to
be missing; nothing here computes a statistic.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import ROUND_HALF_UP, Decimal

from rankscope.records.arm_record import NOT_TRAINED_HERE, ArmCost, ArmVerdict, Interval
from rankscope.study.study_settings import Metric

NOT_MEASURED = "not measured"


def is_number(value: object) -> bool:
    """Whether a cell holds a finite number (pandas writes a missing one as NaN, a record as None)."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def listing(names: Sequence[str], joiner: str = "and") -> str:
    """`a, b and c`."""
    if len(names) <= 1:
        return "".join(names)
    return f"{', '.join(names[:-1])} {joiner} {names[-1]}"


# ---- shares of accuracy, in points and percent ----------------------------------------------------------------------


def points(share: float | None, *, sign: bool = True) -> str:
    """A difference of accuracy as percentage points with one decimal: 0.123 is `+12.3`."""
    if share is None or not math.isfinite(share):
        return "?"
    rounded = _one_decimal(100 * share)
    return f"{rounded:+}" if sign and rounded else str(rounded)


def points_lost(share: float | None) -> str:
    """Forgetting in points, as sentences have it: an amount, without a plus sign."""
    return points(share, sign=False)


def nats_lost(value: float | None) -> str:
    """Forgetting in nats per token: an amount, without a plus sign."""
    return nats(value, sign=False)


def _one_decimal(value: float) -> Decimal:
    """Halves away from 0, as the charts round, and no -0.0; float noise (8.749999999) is not seen."""
    return Decimal(f"{value:.6f}").quantize(Decimal("0.1"), ROUND_HALF_UP) + Decimal("0.0")


def interval_points(interval: Interval, *, sign: bool = True) -> str:
    """`+12.3 points (+10.1 to +14.5)`; without an interval it says so."""
    if interval.mean is None:
        return NOT_MEASURED
    mean = f"{points(interval.mean, sign=sign)} points"
    if interval.low is None or interval.high is None:
        return f"{mean} (no interval)"
    return f"{mean} ({points(interval.low, sign=sign)} to {points(interval.high, sign=sign)})"


def percent(share: float | None) -> str:
    """0.314 as `31.4 %`."""
    return NOT_MEASURED if share is None or not math.isfinite(share) else f"{_one_decimal(100 * share)} %"


def whole_percent(probability: float) -> str:
    """0.984 as `98 %`; never 0 or 100, for draws cannot say that."""
    return "over 99 %" if probability > 0.99 else "under 1 %" if probability < 0.01 else f"{100 * probability:.0f} %"


def reason_points(share: float) -> str:
    """As a reason of the verdict has it: 0.0312 is `3.1`, a whole number such as a margin of 0.03 is `3`.

    Unlike `points` it rounds the binary number, as every verdict.json has been written so far.
    """
    whole = abs(100 * share - round(100 * share)) < 1e-9
    return f"{round(100 * share, 1) + 0.0:.0f}" if whole else reason_decimal(share)


def reason_decimal(share: float) -> str:
    """`reason_points` with the decimal of whole numbers too: 0.03 is `3.0`."""
    return f"{round(100 * share, 1) + 0.0:.1f}"


def counted_points(share: float) -> str:
    """0.01 is `1 point`, 0.03 is `3 points`."""
    return f"{reason_points(share)} point{'' if reason_points(share) == '1' else 's'}"


# ---- points and nats ------------------------------------------------------------------------------------------------


def nats(value: float | None, *, sign: bool = True) -> str:
    """A difference of losses in nats per token with three decimals: 0.0123 is `+0.012`."""
    if value is None or not math.isfinite(value):
        return "?"
    rounded = Decimal(f"{value:.9f}").quantize(Decimal("0.001"), ROUND_HALF_UP) + Decimal("0.000")
    return f"{rounded:+}" if sign and rounded else str(rounded)


def interval_nats(interval: Interval, *, sign: bool = True) -> str:
    """`+0.012 nats (+0.010 to +0.014)`; without an interval it says so."""
    if interval.mean is None:
        return NOT_MEASURED
    mean = f"{nats(interval.mean, sign=sign)} nats"
    if interval.low is None or interval.high is None:
        return f"{mean} (no interval)"
    return f"{mean} ({nats(interval.low, sign=sign)} to {nats(interval.high, sign=sign)})"


def interval_of(interval: Interval, metric: Metric, *, sign: bool = True) -> str:
    """`interval_points` of a score, `interval_nats` of a loss."""
    return interval_points(interval, sign=sign) if metric == "score" else interval_nats(interval, sign=sign)


def lost_interval(change: Interval) -> Interval:
    """A change from the base as what was lost: above 0 is loss, as of forgetting everywhere."""
    ends = (change.mean, change.high, change.low)
    mean, low, high = (None if value is None else -value for value in ends)
    return Interval(mean=mean, low=low, high=high)


def interval_in_units(share: Interval, loss: Interval | None, *, sign: bool = True) -> str:
    """What was measured in points, in nats, or in both."""
    if loss is None or loss.mean is None:
        return interval_points(share, sign=sign)
    told = interval_nats(loss, sign=sign)
    return told if share.mean is None else f"{interval_points(share, sign=sign)} and {told}"


def unit_name(metric: Metric) -> str:
    """`points` of a score, `nats` of a loss."""
    return "points" if metric == "score" else "nats"


def bare(value: float | None, metric: Metric, *, sign: bool = False) -> str:
    """A measured number without its unit: `3.0` points, `0.020` nats; `sign` gives one above 0 its plus."""
    return points(value, sign=sign) if metric == "score" else nats(value, sign=sign)


def in_units(share: Interval, loss: Interval | None, *, sign: bool = True) -> list[tuple[Metric, str, str]]:
    """The metric, the mean and the range (`+1.0 to +3.0`, `no interval`), without a unit, of points and of nats as far
    as they were measured."""
    parts: tuple[tuple[Metric, Interval | None], ...] = (("score", share), ("loss", loss))
    found: list[tuple[Metric, str, str]] = []
    for metric, part in parts:
        if part is not None and part.mean is not None:
            known = part.low is not None and part.high is not None
            ends = [bare(end, metric, sign=sign) for end in (part.low, part.high)]
            found.append((metric, bare(part.mean, metric, sign=sign), " to ".join(ends) if known else "no interval"))
    return found


def reason_amount(value: float, metric: Metric) -> str:
    """A measured number of a reason, without its unit: `3.0` points, `0.020` nats."""
    return reason_decimal(value) if metric == "score" else nats(value, sign=False)


def bare_amount(value: float, metric: Metric) -> str:
    """A margin as a reason has it, points without their unit: `3`, `0.02 nats`."""
    return reason_points(value) if metric == "score" else f"{value:g} nats"


def amount(value: float, metric: Metric, *, exact: bool = True) -> str:
    """With its unit, `exact` for a margin that a study gives: `3 points`, `0.02 nats`; else `3.0 points`."""
    if exact:
        return counted_points(value) if metric == "score" else f"{value:g} nats"
    return f"{reason_amount(value, metric)} {'points' if metric == 'score' else 'nats'}"


# ---- what has a unit ------------------------------------------------------------------------------------------------


def parameters(count: int | float | None) -> str:
    """Three digits at most: 1_234_567 is `1.23 M`."""
    if count is None or not is_number(count):
        return NOT_MEASURED
    for unit_count, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if count >= unit_count:
            return f"{count / unit_count:.3g}{unit}"
    return str(int(count))


def size(byte_count: int | float | None) -> str:
    """Bytes in decimal units, as disks and cards are sold: 1_500_000 is `1.5 MB`."""
    if byte_count is None or not is_number(byte_count):
        return NOT_MEASURED
    for unit_bytes, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if byte_count >= unit_bytes:
            number = byte_count / unit_bytes
            return f"{number:.0f} {unit}" if number >= 100 else f"{number:.1f} {unit}"
    return f"{int(byte_count)} B"


def duration(seconds: float | None) -> str:
    """90.0 is `1.5 min`."""
    if seconds is None or not is_number(seconds):
        return NOT_MEASURED
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h"


def rate(learning_rate: float | None) -> str:
    """A learning rate as people write it: 0.0002 is `2e-4`."""
    if learning_rate is None or not math.isfinite(learning_rate):
        return "none"
    mantissa, exponent = f"{learning_rate:.1e}".split("e")
    return f"{mantissa.removesuffix('.0')}e{int(exponent)}"


def arm_rate(arm: ArmVerdict) -> str:
    """The learning rate that an arm was trained at, as `rate` has it."""
    return rate(arm.learning_rate) if arm.cost.trained_here else "not known"


def training_time(cost: ArmCost) -> str:
    """How long a run of an arm trained, as `duration` has it."""
    return duration(cost.train_seconds) if cost.trained_here else NOT_TRAINED_HERE


def relation_name(relation: object) -> str:
    """How people are told a suite's relation to a training set; `general` is also what suites are called."""
    return "no domain" if relation == "general" else str(relation)
