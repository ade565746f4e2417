"""What a schedule costs in money, at a price that the user gives, in whatever currency he thinks in.

`2.5/gpu-hour` is a price of one GPU for an hour, `3/hour` of the whole machine, of several nodes of each. GPUs are paid
for from the first job to the last, idle or not, as rented machines are; what the busy hours alone would cost, where
somebody bills by the job, stands beside it.
"""

from __future__ import annotations

import math
import re
from dataclasses import asdict, dataclass
from typing import Any, Literal

from rankscope.records import Schedule
from rankscope.records.readable_numbers import duration
from rankscope.study.problems import InputProblems, Problem, show

Unit = Literal["gpu-hour", "hour"]

_PATTERN = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*/\s*(gpu-hour|hour)")
_EXPECTED = "a number and a unit: 2.5/gpu-hour (one GPU for an hour), or 3/hour (the whole machine)"


@dataclass(frozen=True)
class Price:
    """`amount` of any currency for one `unit`."""

    amount: float
    unit: Unit


_LEAST_MONEY = 0.005
"""Less is rounded to nothing, and is told so."""


@dataclass(frozen=True)
class Cost:
    """What a schedule takes of a unit, and its money.

    `hours` is the wall clock until the last job has ended, `units` what is paid for (GPU hours, or hours), of which
    `busy_units` compute; `amount` and `busy_amount` are those times the price.
    """

    price: float
    unit: Unit
    hours: float
    units: float
    busy_units: float
    amount: float
    busy_amount: float

    def as_json(self) -> dict[str, Any]:
        """`cost` of `plan --json`; money is a number without a currency."""
        return asdict(self)

    @property
    def said(self) -> str:
        """One sentence for people."""
        unit = {"gpu-hour": "GPU hour", "hour": "hour of the machine"}[self.unit]
        text = f"At {self.price:g} per {unit}: {_about(self.amount)} for {duration(self.hours * 3600)}"
        if self.unit == "hour":
            return f"{text}."
        idle = self.units - self.busy_units
        paid = f"{self.units:,.2g}" if self.units < 10 else f"{self.units:,.0f}"
        text += f" ({paid} GPU hours until the last job has ended"
        return (
            f"{text}; {money(idle * self.price)} of the price is for idle GPUs)."
            if idle > 0.005 * self.units
            else f"{text})."
        )


def parse_price(text: str) -> Price:
    """`--price` as a user writes it. Raises InputProblems, one line, where it says no price."""
    found = _PATTERN.fullmatch(text.strip().lower())
    amount = float(found.group(1)) if found else math.nan
    if found is None or not math.isfinite(amount):
        raise InputProblems([Problem("--price", "", show(text), _EXPECTED)])
    return Price(amount, "gpu-hour" if found.group(2) == "gpu-hour" else "hour")


def cost_of(schedule: Schedule, price: Price) -> Cost | None:
    """What a schedule costs; None where GPU hours are priced and nothing runs on a GPU."""
    hours = schedule.makespan_seconds / 3600
    units = busy = hours * schedule.node_count
    if price.unit == "gpu-hour":
        if schedule.device != "cuda":
            return None
        units, busy = hours * len(schedule.devices), schedule.gpu_hours
    return Cost(
        price=price.amount, unit=price.unit, hours=hours, units=units, busy_units=busy,
        amount=units * price.amount, busy_amount=busy * price.amount,
    )  # fmt: skip


NO_GPU_HOURS = (
    "No GPU is used here, so a price of GPU hours says nothing: --price AMOUNT/hour prices the hours of this machine, "
    "--gpus 8x80GB plans for GPUs."
)
"""What is said in place of a cost where no GPU is used."""


def _about(amount: float) -> str:
    return money(amount) if 0 < amount < _LEAST_MONEY else f"about {money(amount)}"


def money(amount: float) -> str:
    """An amount without a currency: cents below 100, whole numbers above."""
    if 0 < amount < _LEAST_MONEY:
        return "less than 0.01"
    return f"{amount:,.2f}" if amount < 100 else f"{amount:,.0f}"
