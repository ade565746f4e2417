"""The terminal's table of what each arm is worth if other amounts of forgetting are allowed."""

from __future__ import annotations

from rich.markup import escape
from rich.table import Table

from rankscope.records import Verdict, WorthAt
from rankscope.records.readable_numbers import NOT_MEASURED
from rankscope.report.plain_table import plain_table
from rankscope.report.units import Unit, units_of


def margins_text(verdict: Verdict) -> Table:
    """A line for each arm, a column for each amount of forgetting that may be allowed: the gain and the dial there.

    `not judged`: at a rate that the study's seeds were not trained at; `-`: no setting is expected to keep so little.
    """
    units = units_of(verdict)
    cells = {(one.arm, one.allowed): one for one in verdict.at_other_margins}
    amounts = {one.allowed: units["forgetting"].worth(one, "allowed") for one in verdict.at_other_margins}
    table = plain_table()
    table.add_column("arm", overflow="fold", min_width=8)
    for allowed in sorted(amounts):
        table.add_column(amount_allowed(amounts[allowed], units["forgetting"]), justify="right", no_wrap=True)
    for arm in verdict.arms_by_size:
        own = [cells.get((arm.label, amount)) for amount in sorted(amounts)]
        if any(own):
            table.add_row(escape(arm.label), *(_worth(one, units["gain"]) for one in own))
    return table


def amount_allowed(shown: float | None, unit: Unit) -> str:
    """`1 point`, `3 points`, `0.02 nats`: forgetting that may be allowed, as it is shown."""
    if shown is None:
        return NOT_MEASURED
    return f"{shown:.3g} {unit.short[:-1] if f'{shown:.3g}' == '1' else unit.short}"


def _worth(one: WorthAt | None, unit: Unit) -> str:
    if one is None or not one.admissible:
        return "-"
    gain = unit.worth(one, "gain")
    return "not judged" if gain is None else f"{unit.said(gain)} x{one.dial:g}"
