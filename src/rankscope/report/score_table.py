"""What the terminal prints of `rankscope score`: models and adapters on suites, beside the base."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from rankscope.records import Interval
from rankscope.report.plain_table import plain_table


def print_scores(console: Console, suites: Sequence[Any], confidence: float, notes: Sequence[str]) -> None:
    """`suites` have name, n and arms, each with adapter, accuracy, change, lost, won, p_value, loss_nats_per_token."""
    table = plain_table()
    table.add_column("suite", overflow="fold", min_width=8)
    table.add_column("items", justify="right", no_wrap=True)
    table.add_column("model", overflow="fold", min_width=8)
    for heading in ("accuracy", "to the base", "lost", "won", "p"):
        table.add_column(heading, justify="right", no_wrap=True)
    adapters = {arm.adapter for suite in suites for arm in suite.arms if arm.adapter is not None}
    names = [Path(adapter).name for adapter in adapters]
    for suite in suites:
        for place, arm in enumerate(suite.arms):
            first = (escape(suite.name), f"{suite.n:,}") if place == 0 else ("", "")
            table.add_row(*first, escape(_name(arm.adapter, names)), *_score_cells(arm))
    console.print(table)
    console.print(
        f"\nAccuracy in %, differences in percentage points with {100 * confidence:g} % intervals over items; lost and "
        "won count items against the base, p is McNemar's exact test."
    )
    for note in notes:
        console.print(f"Note: {escape(note)}")


def _name(adapter: str | None, names: Sequence[str]) -> str:
    """The adapter's folder without its path, where that tells it from the others."""
    if adapter is None:
        return "base"
    short = Path(adapter).name
    return short if names.count(short) == 1 else adapter


def _score_cells(arm: Any) -> list[str]:
    if arm.loss_nats_per_token is not None:
        return [f"{arm.loss_nats_per_token:.3f} nats/token", "", "", "", ""]
    if arm.accuracy.mean is None:
        return ["-", "", "", "", ""]
    flips = ["" if value is None else f"{value:,}" for value in (arm.lost, arm.won)]
    p_value = "" if arm.p_value is None else f"{arm.p_value:.2g}"
    return [_span(arm.accuracy, ""), _span(arm.change, "+"), *flips, p_value]


def _span(interval: Interval, sign: str) -> str:
    if interval.mean is None:
        return ""
    mean = f"{100 * interval.mean:{sign}.1f}"
    if interval.low is None or interval.high is None:
        return mean
    return f"{mean} ({100 * interval.low:{sign}.1f} to {100 * interval.high:{sign}.1f})"
