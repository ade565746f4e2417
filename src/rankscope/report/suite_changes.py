"""What changed on each suite and in each domain: the frames and the matrix of changes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import altair as alt
import pandas as pd

from rankscope.records import Verdict, VerdictFile
from rankscope.records.readable_numbers import nats, points
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
    records,
    relation_name,
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


@dataclass(frozen=True)
class Unit:
    """What changes of one metric are shown in: `factor` times what a table has; colours reach at least to `reach`."""

    metric: str
    name: str
    short: str
    factor: float
    reach: float


IN_POINTS = Unit("score", POINTS, "points", 100.0, 5.0)
IN_NATS = Unit("loss", "nats per token", "nats", 1.0, 0.05)


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
        ("where", "relation", ""),
        ("items", "items", ",d"),
        *(CHANGE_TOOLTIP if unit is IN_POINTS else LOSS_TOOLTIP),
    )
    cells = alt.Chart().mark_rect().encode(x=x, y=y, color=_change_colour(rows, unit), tooltip=told)
    frame = alt.Chart().mark_rect(filled=False, strokeWidth=1.6, stroke="gray").encode(x=x, y=y)
    text = alt.Chart().mark_text(fontSize=11).encode(x=x, y=y, text=alt.Text("shown:N"), tooltip=told)
    parts = layer(cells, frame.transform_filter("datum.relation == 'in-domain'"), text)
    for row in rows:
        row["panel"] = f"trained on {row['train_set']}"
        said = points(row["change"] / 100) if unit is IN_POINTS else nats(row["change"])
        row["shown"] = said.replace("-", "−")  # a proper minus sign, as axes have it
        row["where"] = relation_name(row["relation"])
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
        "What was forgotten",
        "How far training on each set moved every domain and every suite, arm by arm.",
        "Each cell is the change from the base, in percentage points or, of suites judged by loss, in nats per token "
        "by which the loss is lower: blue is better than the base, orange worse. "
        "Framed cells are of the training set's own domain.",
        found,
        "No suite was scored for both the base and an arm.",
        wide=False,
    )
