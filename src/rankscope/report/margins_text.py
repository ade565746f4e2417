"""The terminal's table of what each arm is worth if other amounts of forgetting are allowed."""

from __future__ import annotations

from rich.markup import escape
from rich.table import Table

from rankscope.records import Verdict, WorthAt
from rankscope.records.readable_numbers import points
from rankscope.report.plain_table import plain_table


def margins_text(verdict: Verdict) -> Table:
    """A line for each arm, a column for each amount of forgetting that may be allowed: the gain and the dial there.

    `not judged`: at a rate that the study's seeds were not trained at; `-`: no setting is expected to keep so little.
    """
    cells = {(one.arm, one.allowed): one for one in verdict.at_other_margins}
    amounts = sorted({one.allowed for one in verdict.at_other_margins})
    table = plain_table()
    table.add_column("arm", overflow="fold", min_width=8)
    for amount in amounts:
        heading = "1 point" if amount == 0.01 else f"{100 * amount:g} points"
        table.add_column(heading, justify="right", no_wrap=True)
    for arm in verdict.arms_by_size:
        own = [cells.get((arm.label, amount)) for amount in amounts]
        if any(own):
            table.add_row(escape(arm.label), *(_worth(one) for one in own))
    return table


def _worth(one: WorthAt | None) -> str:
    if one is None or not one.admissible:
        return "-"
    return "not judged" if one.gain is None else f"{points(one.gain)} x{one.dial:g}"
