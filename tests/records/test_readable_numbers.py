"""Numbers as people read them: rounding, signs, units, and what is said of a missing one."""

from __future__ import annotations

import math
from typing import Any

import pytest

from rankscope.records import readable_numbers
from rankscope.records.readable_numbers import counted_points, points, reason_decimal, reason_points


@pytest.mark.parametrize(
    ("share", "said"),
    [
        (0.1234, "+12.3"),
        (-0.05, "-5.0"),
        (0.0, "0.0"),
        (-0.0001, "0.0"),
        (0.1125, "+11.3"),
        (-0.0875, "-8.8"),
        (None, "?"),
        (math.nan, "?"),
    ],
)
def test_points(share: float | None, said: str) -> None:
    assert points(share) == said


@pytest.mark.parametrize(
    ("function", "value", "said"),
    [
        (readable_numbers.parameters, 1_234_567, "1.23 M"),
        (readable_numbers.parameters, 999, "999"),
        (readable_numbers.parameters, None, "not measured"),
        (readable_numbers.size, 1_500_000, "1.5 MB"),
        (readable_numbers.size, 120, "120 B"),
        (readable_numbers.duration, 5.04, "5.0 s"),
        (readable_numbers.duration, 90.0, "1.5 min"),
        (readable_numbers.duration, 7200.0, "2.0 h"),
        (readable_numbers.duration, None, "not measured"),
        (readable_numbers.rate, 2e-4, "2e-4"),
        (readable_numbers.rate, 3.2e-5, "3.2e-5"),
        (readable_numbers.rate, None, "none"),
    ],
)
def test_units(function: Any, value: Any, said: str) -> None:
    assert function(value) == said


@pytest.mark.parametrize(
    ("share", "said", "counted", "decimal"),
    [(0.0312, "3.1", "3.1 points", "3.1"), (0.03, "3", "3 points", "3.0"), (0.01, "1", "1 point", "1.0"),
     (-0.0001, "0.0", "0.0 points", "0.0")],
)  # fmt: skip
def test_points_in_a_reason(share: float, said: str, counted: str, decimal: str) -> None:
    assert (reason_points(share), counted_points(share), reason_decimal(share)) == (said, counted, decimal)
