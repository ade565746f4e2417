"""Table -> chart, continued: the matrix, recall against reasoning, curves, cost. Computes no statistic either."""

from __future__ import annotations

import math

import altair as alt
import pandas as pd

from rankscope.report.chart_drawing import (
    CHARACTER_PIXELS,
    SHAPES,
    Chart,
    Record,
    arm_axis,
    chart,
    domain,
    inline,
    layer,
    records,
)
from rankscope.report.charts import POINTS, tooltips

PLOT_WIDTH = 780
CHANGE_TOOLTIP = (
    ("base_accuracy", "base (%)", ".1f"),
    ("accuracy", "arm (%)", ".1f"),
    ("change", "change (points)", "+.1f"),
    ("change_low", "interval from", "+.1f"),
    ("change_high", "to", "+.1f"),
)


def matrix(changes: pd.DataFrame, column: str, title: str) -> Chart | None:
    """Change from the base: training set and arm down, `column` (suite or domain) across; in-domain cells framed.

    Columns: frames.change_frame, of one base model.
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
        *CHANGE_TOOLTIP,
    )
    cells = alt.Chart().mark_rect().encode(x=x, y=y, color=_change_colour(rows), tooltip=told)
    frame = alt.Chart().mark_rect(filled=False, strokeWidth=1.6, stroke="gray").encode(x=x, y=y)
    text = alt.Chart().mark_text(fontSize=11).encode(x=x, y=y, text=alt.Text("change:Q", format="+.1f"), tooltip=told)
    parts = layer(cells, frame.transform_filter("datum.relation == 'in-domain'"), text)
    for row in rows:
        row["panel"] = f"trained on {row['train_set']}"
    sized = parts.properties(width=alt.Step(step), height=alt.Step(26))
    faceted = sized.facet(row=alt.Row("panel:N", header=_panel_header()), data=inline(rows))
    return faceted.properties(title=f"{title} ({POINTS})")


def _change_colour(rows: list[Record]) -> alt.Color:
    """Diverging from 0. Its ends follow the changes outside the training domain, which gains would wash out."""
    changes = [abs(row["change"]) for row in rows]
    outside = [abs(row["change"]) for row in rows if row["relation"] != "in-domain"]
    reach = math.ceil(min(max(changes), max(5.0, 1.4 * max(outside, default=0.0), 0.3 * max(changes))))
    scale = alt.Scale(domain=[-reach, reach], domainMid=0, interpolate="rgb", clamp=True)
    signed = "datum.value == 0 ? '0' : format(datum.value, '+')"
    title = ["points", f"(ends at ±{reach})"]
    legend = alt.Legend(title=title, gradientLength=100, values=[-reach, 0, reach], labelExpr=signed)
    return alt.Color("change:Q", scale=scale, legend=legend)


def _panel_header() -> alt.Header:
    return alt.Header(title=None, labelAnchor="start", labelFontWeight="bold", labelOrient="top")


def by_kind(kinds: pd.DataFrame) -> Chart | None:
    """Change on recall and on reasoning, arms in order of size; a panel for each relation to the training set."""
    rows = [row for row in records(kinds, "change") if row["kind"] is not None]
    if not rows:
        return None
    arms, names = arm_axis(rows), sorted({str(row["kind"]) for row in rows})
    angle = -30 if len(arms) > 6 else 0
    axis = alt.Axis(labelAngle=angle, grid=True, bandPosition=1, labelLimit=160)
    x = alt.X("arm:N", sort=arms, title="Arm, fewest trainable parameters first", axis=axis)
    offset = alt.XOffset("kind:N", sort=names, scale=alt.Scale(paddingInner=0.5, paddingOuter=0.8))
    legend = alt.Legend(title=None, orient="top")
    colour = alt.Color("kind:N", scale=alt.Scale(domain=names), legend=legend)
    shape = alt.Shape("kind:N", scale=alt.Scale(domain=names, range=SHAPES[: len(names)]), legend=legend)
    told = tooltips(("arm", "arm", ""), ("kind", "kind", ""), ("relation", "relation", ""), *CHANGE_TOOLTIP)
    change = "Change (points)"
    whole = "isValid(datum.change_low) && isValid(datum.change_high)"
    bars = alt.Chart().transform_filter(whole).mark_rule(strokeWidth=1.6)
    dots = alt.Chart().mark_point(filled=True, size=65, opacity=1)
    parts = layer(
        alt.Chart().mark_rule(color="gray").encode(y=alt.datum(0)),
        bars.encode(x=x, xOffset=offset, y=alt.Y("change_low:Q", title=change), y2="change_high:Q", color=colour),
        dots.encode(x=x, xOffset=offset, y=alt.Y("change:Q", title=change), color=colour, shape=shape, tooltip=told),
    )
    panels = {name: f"{name} suites" for name in ("in-domain", "out-of-domain", "general")}
    for entry in rows:
        entry["panel"] = panels[str(entry["relation"])]
    row = alt.Row("panel:N", sort=list(panels.values()), header=_panel_header())
    faceted = parts.properties(width=PLOT_WIDTH, height=150).facet(row=row, data=inline(rows))
    title = f"Recall and reasoning: change from the base ({POINTS})"
    return faceted.resolve_scale(y="independent").properties(title=title)


def _loss_scale(losses: list[float]) -> alt.Scale:
    """The same in every panel; logarithmic where a diverged curve would flatten all others."""
    if min(losses) > 0 and max(losses) > 10 * min(losses):
        return alt.Scale(type="log", domain=[min(losses) / 1.25, max(losses) * 1.25], nice=False)
    return alt.Scale(domain=list(domain(losses)), nice=False, zero=False)


def _columns(count: int) -> int:
    return min(count, 3 if count in (5, 6, 9) else 4)


def _panels(drawn: list[alt.LayerChart], columns: int, title: str) -> Chart:
    return alt.concat(*drawn, columns=columns, spacing=14).properties(title=title)


def learning(curves: pd.DataFrame) -> Chart | None:
    """Training and validation loss by step, a panel an arm, a line a seed. Columns: frames.learning_frame."""
    rows = [{name: row[name] for name in CURVE} for row in records(curves, "step", "loss")]
    if not rows:
        return None
    arms, series = arm_axis(records(curves, "step", "loss")), sorted({str(row["series"]) for row in rows})
    steps = alt.Scale(domain=[0, max(row["step"] for row in rows)], nice=False)
    x = alt.X("step:Q", title="Step", scale=steps, axis=alt.Axis(tickCount=4, format="~s"))
    y_scale = _loss_scale([row["loss"] for row in rows])
    y = alt.Y("loss:Q", title="Nats per token", scale=y_scale, axis=alt.Axis(tickCount=5))
    shown = alt.Legend(title=None, orient="top", symbolType="stroke", symbolStrokeWidth=3, symbolOpacity=1)
    legend = shown if len(series) > 1 else None
    colour = alt.Color("series:N", scale=alt.Scale(domain=["training", "validation"]), legend=legend)
    told = tooltips(
        ("arm", "arm", ""),
        ("seed", "seed", "d"),
        ("series", "loss", ""),
        ("step", "step", ",d"),
        ("loss", "nats per token", ".4f"),
    )
    columns = _columns(len(arms))
    base = alt.Chart().encode(x=x, y=y, color=colour, detail="seed:N", tooltip=told)
    trained = base.transform_filter("datum.series == 'training'").mark_line(strokeWidth=1, opacity=0.55)
    parts = [trained]
    if "validation" in series:
        held_out = base.transform_filter("datum.series == 'validation'")
        parts.append(held_out.mark_line(strokeWidth=2.2, point=alt.OverlayMarkDef(size=34, opacity=1)))
    sized = layer(*parts).properties(width=PLOT_WIDTH // max(3, columns) - 45, height=120)
    header = alt.Header(title=None, labelFontWeight="bold", labelLimit=240, labelPadding=4)
    panels = alt.Facet("arm:N", sort=arms, header=header)
    faceted = sized.facet(panels, columns=columns, data=inline(rows)).properties(spacing=14)
    return faceted.properties(title="Loss by training step, a line for each seed (nats per token)")


CURVE = ("arm", "seed", "series", "step", "loss")
"""What a panel of learning needs of a row: with thousands of rows, every field counts."""


def _panel_title(text: str) -> alt.TitleParams:
    return alt.TitleParams(text, fontSize=12, anchor="middle", offset=6, limit=240)


def searches(curves: pd.DataFrame) -> Chart | None:
    """Validation loss against learning rate, a panel a search, the chosen rate ringed. Columns: frames.search_frame."""
    rows = records(curves, "learning_rate", "loss")
    if not rows:
        return None
    names = list(dict.fromkeys(str(row["search"]) for row in rows))
    rates = [row["learning_rate"] for row in rows]
    x_scale = alt.Scale(type="log", domain=[min(rates) / 1.8, max(rates) * 1.8], nice=False)
    decades = [
        10.0**power for power in range(math.floor(math.log10(min(rates))), math.ceil(math.log10(max(rates))) + 1)
    ]
    axis = alt.Axis(format=".0e", values=decades, labelOverlap=True, grid=False)
    x = alt.X("learning_rate:Q", scale=x_scale, title="Learning rate", axis=axis)
    y_scale = _loss_scale([row["loss"] for row in rows])
    told = tooltips(
        ("search", "arms", ""),
        ("learning_rate", "learning rate", ".2~e"),
        ("steps", "steps trained", ",d"),
        ("loss", "validation loss", ".4f"),
    )
    rungs = sorted({row["steps"] for row in rows})
    legend = alt.Legend(title="steps trained", orient="top", values=rungs)
    size = alt.Size("steps:Q", legend=legend, scale=alt.Scale(domain=[0, rungs[-1]], range=[15, 110]))
    columns = _columns(len(names))
    drawn = []
    for index, name in enumerate(names):
        title = "Nats per token" if index % columns == 0 else None
        y = alt.Y("loss:Q", scale=y_scale, title=title, axis=alt.Axis(tickCount=4))
        base = chart([row for row in rows if row["search"] == name]).encode(x=x, y=y)
        parts = layer(
            base.mark_line(strokeWidth=1, opacity=0.5),
            base.mark_point(filled=True, opacity=1).encode(size=size, tooltip=told),
            base.transform_filter("datum.chosen").mark_point(size=330, strokeWidth=2, filled=False),
        )
        width = PLOT_WIDTH // max(3, columns) - 45
        drawn.append(parts.properties(width=width, height=140, title=_panel_title(name)))
    return _panels(drawn, columns, "Validation loss by learning rate, when its trial ended (nats per token)")


def cost(prices: pd.DataFrame) -> Chart | None:
    """Time, memory and disk, a bar an arm; what was not measured says `none`. Columns: frames.cost_frame."""
    every = records(prices)
    if not any(row["value"] is not None for row in every):
        return None
    arms = arm_axis(every)
    panels = [
        _bars([row for row in every if row["price"] == price], arms, named=index == 0)
        for index, price in enumerate(dict.fromkeys(str(row["price"]) for row in every))
    ]
    return alt.hconcat(*panels, spacing=34).properties(title="What each arm costs")


def _bars(rows: list[Record], arms: list[str], *, named: bool) -> alt.LayerChart:
    for row in rows:
        row["text"] = "none" if row["value"] is None else f"{row['value']:.3g}"
        row["length"] = row["value"] or 0
    unit = str(rows[0]["unit"])
    axis = alt.Axis(labels=named, ticks=False, domain=False, labelLimit=180)
    base = chart(rows).encode(y=alt.Y("arm:N", sort=arms, title=None, axis=axis))
    length = alt.X("length:Q", title=unit, scale=alt.Scale(zero=True), axis=alt.Axis(tickCount=4))
    bars = base.mark_bar(height={"band": 0.65}).encode(
        x=length, tooltip=tooltips(("arm", "arm", ""), ("text", unit, ""))
    )
    text = base.mark_text(align="left", dx=4, fontSize=11).encode(x=length, text="text:N")
    return layer(bars, text).properties(width=205, height=alt.Step(24), title=str(rows[0]["price"]))
