"""What `rankscope repair` says: the card beside a repaired adapter, and the same table in the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from rankscope.records import Interval, RepairPoint, RepairRecord
from rankscope.study.yaml_text import dump_yaml

COLUMNS = ("remedy", "gain", "forgetting", "gain where chosen", "forgetting where chosen", "fitted", "rank left")


def repair_card(record: RepairRecord, *, adapter: bool) -> str:
    """README.md in Markdown: what was chosen and why, before and after, and the whole front."""
    front = {"base_model": record.base, "library_name": "peft" if adapter else "transformers", "tags": ["rankscope"]}
    lines = [
        f"---\n{dump_yaml(front)}---",
        f"# {'A repaired' if record.chosen else 'No repair of an'} {'adapter' if adapter else 'model'}",
        repair_sentence(record),
        f"Task: {', '.join(record.task)}. To be kept: {', '.join(record.keep)}. "
        f"{sum(record.select_items.values())} items chose and {sum(record.judge_items.values())} others judge; the "
        f"margin is {points(record.margin)} points. Intervals are two-sided at {record.confidence:.0%}, over items.",
        "## Before and after",
        _before_and_after(record),
        "## Every remedy that was tried",
        "\n".join(
            [
                "| " + " | ".join(COLUMNS) + " |",
                "|" + " --- |" * len(COLUMNS),
                *(_row(p, chosen=p.name == record.chosen) for p in record.points),
            ]
        ),
        "Gain and forgetting are in points, on the items that judge. `Fitted` is the forgetting by which a remedy may "
        f"be chosen, as an arm's setting is: at most {points(record.limit)} points. Only the chosen one is judged on "
        "items that had no part in the choice; of the others these numbers describe.",
    ]
    return "\n\n".join(lines) + "\n"


def repair_sentence(record: RepairRecord) -> str:
    """The answer in a sentence or two."""
    before = record.before
    start = f"As it is, it gains {points(before.gain.mean)} points and forgets {points(before.forgetting.mean)}."
    if record.chosen is None or record.after is None or record.saved is None or record.lost is None:
        return f"{start} Nothing that was tried helps surely: {record.reason}."
    after = record.after
    return (
        f"{start} With {record.chosen} it gains {points(after.gain.mean)} and forgets {points(after.forgetting.mean)}: "
        f"{points(record.saved.mean)} points of forgetting saved (at least {points(record.saved.low)}) for "
        f"{points(record.lost.mean)} of gain (at most {points(record.lost.high)}). Chosen as {record.reason}."
    )


def print_repair(console: Console, record: RepairRecord) -> None:
    """The answer, and the front as a table."""
    console.print(repair_sentence(record), highlight=False)
    table = Table(*COLUMNS)
    for point in record.points:
        chosen = point.name == record.chosen
        table.add_row(*_cells(point), style="bold" if chosen else None)
    console.print(table)


def points(share: float | None) -> str:
    """A share as points, `3.1`; `?` for nothing."""
    return "?" if share is None else f"{100 * share:.1f}"


def interval(value: Interval) -> str:
    """`3.1 (1.0 to 5.2)` in points."""
    if value.low is None or value.high is None:
        return points(value.mean)
    return f"{points(value.mean)} ({points(value.low)} to {points(value.high)})"


def _before_and_after(record: RepairRecord) -> str:
    rows = ["| | gain | forgetting |", "| --- | --- | --- |"]
    rows.append(f"| before | {interval(record.before.gain)} | {interval(record.before.forgetting)} |")
    if record.after is not None and record.chosen is not None:
        rows.append(f"| after | {interval(record.after.gain)} | {interval(record.after.forgetting)} |")
    return "\n".join(rows)


def _cells(point: RepairPoint) -> list[str]:
    left = "" if point.ranks_left is None else f"{point.ranks_left:.1f}"
    selected = points(point.select_gain), points(point.select_forgetting), points(point.fitted)
    return [point.name, interval(point.gain), interval(point.forgetting), *selected, left]


def _row(point: RepairPoint, *, chosen: bool) -> str:
    name, *cells = _cells(point)
    return "| " + " | ".join([f"**{name}**, chosen" if chosen else name, *cells]) + " |"
