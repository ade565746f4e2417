"""What changed on each suite and on each item: the matrix of changes, and the flipped items that a page can carry."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import altair as alt
import pandas as pd

from rankscope.records import Verdict, VerdictFile
from rankscope.report.chart_drawing import (
    CHARACTER_PIXELS,
    PLOT_WIDTH,
    POINTS,
    Chart,
    Figure,
    Record,
    Section,
    Tables,
    arm_axis,
    figure,
    inline,
    layer,
    panel_header,
    plain,
    records,
    tooltips,
)
from rankscope.report.rank_charts import of_pair

CHANGE_TOOLTIP = (
    ("base_accuracy", "base (%)", ".1f"),
    ("accuracy", "arm (%)", ".1f"),
    ("change", "change (points)", "+.1f"),
    ("change_low", "interval from", "+.1f"),
    ("change_high", "to", "+.1f"),
)
LOSS_TOOLTIP = (
    ("change", "change (nats per token)", "+.3f"),
    ("change_low", "interval from", "+.3f"),
    ("change_high", "to", "+.3f"),
)
MAX_ROWS = 2000
MAX_CHARACTERS = 900_000
MAX_TEXT = 2500
"""A longer prompt or answer is shown up to here, with the number of characters left out."""

TEXTS = ("prompt", "answer", "base_predicted", "arm_predicted")
GROUP = ("model", "train_set", "arm", "suite", "way")


# ---- suites ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Unit:
    """What changes of one metric are shown in: `factor` times what a table has; colours reach at least to `reach`."""

    metric: str
    name: str
    short: str
    factor: float
    format: str
    reach: float


IN_POINTS = Unit("score", POINTS, "points", 100.0, "+.1f", 5.0)
IN_NATS = Unit("loss", "nats per token", "nats", 1.0, "+.3f", 0.05)


def change_frame(table: pd.DataFrame | None, verdicts: Sequence[Verdict], unit: Unit = IN_POINTS) -> pd.DataFrame:
    """A table of changes (forgetting, matrix or kinds) of these verdicts, of the suites judged in this unit.

    Adds order (of the arm) and renames n, low and high to items, change_low and change_high; the other columns stay.
    """
    pieces = []
    for verdict in verdicts:
        rows = of_pair(table, verdict)
        if "metric" in rows.columns:
            rows = rows[rows["metric"] == unit.metric]
        if rows.empty:
            continue
        orders = {arm.label: order for order, arm in enumerate(verdict.arms_by_size)}
        rows = rows.rename(columns={"n": "items", "low": "change_low", "high": "change_high"})
        shares = ["base_accuracy", "accuracy", "change", "change_low", "change_high"]
        pieces.append(rows.assign(order=rows["arm"].map(orders), **{name: unit.factor * rows[name] for name in shares}))
    if not pieces:
        return pd.DataFrame()
    joined = pd.concat(pieces, ignore_index=True)
    if "domain" in joined.columns:
        joined["domain"] = joined["domain"].astype(object).where(joined["domain"].notna(), "(no domain)")
    return joined.sort_values("order", kind="stable", ignore_index=True)


def matrix_chart(changes: pd.DataFrame, column: str, title: str, unit: Unit = IN_POINTS) -> Chart | None:
    """Change from the base: training set and arm down, `column` (suite or domain) across; in-domain cells framed.

    Columns: those of `change_frame`, of one base model.
    """
    rows = records(changes, "change")
    if not rows:
        return None
    names = list(dict.fromkeys(str(row[column]) for row in sorted(rows, key=lambda r: (r["domain"], r[column]))))
    step = max(60, min(120, (PLOT_WIDTH - 140) // len(names)))
    angle = 0 if max(map(len, names)) * CHARACTER_PIXELS < step - 4 else -25
    x = alt.X(f"{column}:N", sort=names, title=None, axis=alt.Axis(labelAngle=angle, labelLimit=220, domain=False))
    y = alt.Y("arm:N", sort=arm_axis(rows), title=None, axis=alt.Axis(labelLimit=200))
    told = tooltips(
        ("train_set", "trained on", ""),
        ("arm", "arm", ""),
        (column, column, ""),
        ("domain", "domain", ""),
        ("relation", "relation", ""),
        ("items", "items", ",d"),
        *(CHANGE_TOOLTIP if unit is IN_POINTS else LOSS_TOOLTIP),
    )
    cells = alt.Chart().mark_rect().encode(x=x, y=y, color=_change_colour(rows, unit), tooltip=told)
    frame = alt.Chart().mark_rect(filled=False, strokeWidth=1.6, stroke="gray").encode(x=x, y=y)
    text = (
        alt.Chart().mark_text(fontSize=11).encode(x=x, y=y, text=alt.Text("change:Q", format=unit.format), tooltip=told)
    )
    parts = layer(cells, frame.transform_filter("datum.relation == 'in-domain'"), text)
    for row in rows:
        row["panel"] = f"trained on {row['train_set']}"
    sized = parts.properties(width=alt.Step(step), height=alt.Step(26))
    faceted = sized.facet(row=alt.Row("panel:N", header=panel_header()), data=inline(rows))
    return faceted.properties(title=f"{title} ({unit.name})")


def _change_colour(rows: list[Record], unit: Unit) -> alt.Color:
    """Diverging from 0. Its ends follow the changes outside the training domain, which gains would wash out."""
    changes = [abs(row["change"]) for row in rows]
    outside = [abs(row["change"]) for row in rows if row["relation"] != "in-domain"]
    least = max(unit.reach, 1.4 * max(outside, default=0.0), 0.3 * max(changes))
    step = 1.0 if unit is IN_POINTS else 0.01
    reach = round(step * math.ceil(min(max(changes), least) / step), 2)
    scale = alt.Scale(domain=[-reach, reach], domainMid=0, interpolate="rgb", clamp=True)
    signed = "datum.value == 0 ? '0' : format(datum.value, '+')"
    title = [unit.short, f"(ends at ±{reach:g})"]
    legend = alt.Legend(title=title, gradientLength=100, values=[-reach, 0, reach], labelExpr=signed)
    return alt.Color("change:Q", scale=scale, legend=legend)


def matrix_section(verdicts: VerdictFile, tables: Tables) -> Section:
    """How far every domain and every suite moved, a figure a base model."""
    found: list[Figure] = []
    models = list(dict.fromkeys(verdict.model for verdict in verdicts.verdicts))
    for model in models:
        mine = [verdict for verdict in verdicts.verdicts if verdict.model == model]
        name = model if len(models) > 1 else ""
        for table, column, title, unit in (
            ("matrix", "domain", "Change by training set and domain", IN_POINTS),
            ("forgetting", "suite", "Change by training set and suite", IN_POINTS),
            ("forgetting", "suite", "Change of suites judged by loss", IN_NATS),
        ):
            drawn = matrix_chart(change_frame(tables.get(table), mine, unit), column, title, unit)
            found += figure(drawn, f"{title.lower()}, each cell the change from the base in {unit.short}", name)
    return Section(
        "matrix",
        "In and out of domain",
        "How far training on each set moved every domain and every suite, arm by arm.",
        "Each cell is the change from the base, in percentage points or, of suites judged by loss, in nats per token "
        "by which the loss is lower: blue is better than the base, orange worse. "
        "Framed cells are of the training set's own domain.",
        found,
        "No suite was scored for both the base and an arm.",
    )


# ---- items ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PackedItems:
    """`payload` is what the page's script reads; `shown` of `total` flips are in it."""

    payload: dict[str, Any]
    shown: int
    total: int


def sample_flips(flips: pd.DataFrame) -> pd.DataFrame:
    """As many rows that flipped as a page may hold, in an order of which every beginning is a fair sample.

    A row counts as forgotten where seeds_lost > 0, as gained where seeds_won > 0; other rows are no flips. Rows are
    drawn in turn from every model, training set, arm, suite and direction, in a seeded random order.
    """
    flipped = _flipped(flips)
    if flipped.empty:
        return flipped
    generator = random.Random(0)
    groups = [list(places) for places in flipped.groupby(list(GROUP), dropna=False, sort=False).indices.values()]
    for group in groups:
        generator.shuffle(group)
    turns = (group[turn] for turn in range(max(map(len, groups))) for group in groups if turn < len(group))
    return flipped.iloc[list(islice(turns, MAX_ROWS))].reset_index(drop=True)


def pack_items(items: pd.DataFrame, total: int | None = None) -> PackedItems:
    """Pack flipped items, in the order of `sample_flips`, until the page is full; `total` is how many flips there are
    in all (the rows given, where unknown)."""
    flipped = _flipped(items)
    questions: dict[tuple[str, str, str], int] = {}
    asked: list[list[str]] = []
    packed: list[list[Any]] = []
    characters = 0
    for row in map(_row, flipped.to_dict("records")):
        key = (row["model"], row["suite"], row["item_id"])
        new = 0 if key in questions else len(row["prompt"]) + len(row["answer"]) + len(row["base_predicted"])
        new += len(row["arm_predicted"]) + 60
        if len(packed) >= MAX_ROWS or characters + new > MAX_CHARACTERS:
            break
        characters += new
        if key not in questions:
            questions[key] = len(asked)
            asked.append([row["item_id"], row["prompt"], row["answer"], row["base_predicted"]])
        packed.append([row[name] for name in ("way", *GROUP[:-1])] + [questions[key]] + _tail(row))
    payload = {"questions": asked, "rows": packed}
    return PackedItems(payload, len(packed), max(len(flipped), total or 0))


def _tail(row: dict[str, Any]) -> list[Any]:
    return [row["arm_predicted"], row["flipped"], row["seeds"]]


def _flipped(items: pd.DataFrame) -> pd.DataFrame:
    """The rows that flipped, with `way` and `flipped` (the seeds in which they did); the others are left out."""
    if items.empty:
        return items
    lost, won = (pd.to_numeric(items[name]).fillna(0).astype(int) for name in ("seeds_lost", "seeds_won"))
    way = lost.gt(0).map({True: "forgotten", False: "gained"})
    return items.assign(way=way, flipped=lost.where(lost > 0, won))[(lost > 0) | (won > 0)]


def _row(cells: dict[Any, Any]) -> dict[str, Any]:
    row: dict[str, Any] = {name: _item_text(cells.get(name)) for name in TEXTS}
    choices = cells.get("choices")
    if choices is not None and not isinstance(choices, str) and hasattr(choices, "__len__") and len(choices):
        row["prompt"] += "\n" + "\n".join(f"– {_item_text(choice)}" for choice in choices)
    for name in (*GROUP, "item_id"):
        row[name] = _item_text(cells.get(name), missing="")
    row["flipped"] = int(cells["flipped"])
    seeds = plain(cells.get("seeds_total"))
    row["seeds"] = None if seeds is None else int(seeds)
    return row


def _item_text(value: Any, *, missing: str = "(none)") -> str:
    value = plain(value)
    if value is None:
        return missing
    text = str(value)
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]} … ({len(text) - MAX_TEXT:,} more characters)"
