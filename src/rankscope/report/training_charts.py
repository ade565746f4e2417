"""Charts of training: the learning curve of every run, and the validation loss along every learning-rate search."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import altair as alt
import pandas as pd

from rankscope.records import SearchRecord
from rankscope.report.chart_drawing import (
    PLOT_WIDTH,
    Chart,
    Pair,
    Section,
    Tables,
    arm_axis,
    chart,
    domain,
    each,
    inline,
    layer,
    records,
    tooltips,
)
from rankscope.report.rank_charts import of_pair
from rankscope.study.study import SUPERVISED

CURVE_POINTS = 120
"""A training curve on the page has about this many steps at most (the page says so; train.jsonl has all)."""

CURVE = ("arm", "seed", "series", "step", "loss")
"""What a panel of learning needs of a row: with thousands of rows, every field counts."""

PAGE_POINTS = 9000
"""All training curves of a page together have about this many steps: the more runs, the fewer each."""


def curve_points(run_count: int) -> int:
    """How many steps of each curve a page with this many runs can carry."""
    return max(20, min(CURVE_POINTS, PAGE_POINTS // max(run_count, 1)))


def learning_frame(learning: pd.DataFrame, runs: pd.DataFrame, arms: pd.DataFrame, points: int) -> pd.DataFrame:
    """Curves of one pair: arm, order, seed, series (training, validation), step, loss.

    A longer curve keeps every k-th step, counted from its last, so that it has about `points` at most; of validation
    losses, which are few, each stays.
    """
    if learning.empty:
        return pd.DataFrame()
    if not {"arm", "seed"} <= set(learning.columns):
        if not {"run_id", "arm", "seed"} <= set(runs.columns):
            return pd.DataFrame()
        learning = learning.merge(runs[["run_id", "arm", "seed"]].drop_duplicates("run_id"), on="run_id")
    orders = dict(zip(arms["arm"], arms["order"], strict=True))
    rows = learning.assign(order=learning["arm"].map(orders)).dropna(subset=["order"])
    rows = rows.sort_values(["order", "seed", "step"])
    named = {"loss_nats_per_token": "training", "validation_loss_nats_per_token": "validation"}
    pieces = []
    for column, series in named.items():
        if column not in rows.columns:
            continue
        piece = rows[["arm", "order", "seed", "step", column]].rename(columns={column: "loss"}).assign(series=series)
        pieces.append(piece[pd.to_numeric(piece["loss"], errors="coerce").abs() < float("inf")])
    if not pieces:
        return pd.DataFrame()
    whole = pd.concat(pieces, ignore_index=True)
    groups = whole.groupby(["order", "seed", "series"], sort=False)
    stride = (groups["step"].transform("size") // points + 1).astype(int)
    from_last = groups.cumcount(ascending=False)  # counted from the end, so that the last step always stays
    return whole[from_last % stride == 0].reset_index(drop=True)


def search_frame(searches: Sequence[SearchRecord]) -> pd.DataFrame:
    """Learning-rate searches: search (its arms), learning_rate, loss (at the last rung it reached), steps, chosen."""
    rows: list[dict[str, Any]] = []
    for search in searches:
        for learning_rate, losses in zip(search.rates, search.losses, strict=True):
            reached = [
                (steps, loss) for steps, loss in zip(search.rung_steps, losses, strict=False) if loss is not None
            ]
            if not reached or not abs(reached[-1][1]) < float("inf"):
                continue
            rows.append(
                {
                    "search": ", ".join(search.arms),
                    "learning_rate": learning_rate,
                    "steps": reached[-1][0],
                    "loss": reached[-1][1],
                    "chosen": search.chosen is not None and abs(learning_rate - search.chosen) <= 1e-9 * search.chosen,
                }
            )
    return pd.DataFrame(rows)


def _loss_scale(losses: list[float]) -> alt.Scale:
    """The same in every panel; logarithmic where a diverged curve would flatten all others."""
    if min(losses) > 0 and max(losses) > 10 * min(losses):
        return alt.Scale(type="log", domain=[min(losses) / 1.25, max(losses) * 1.25], nice=False)
    return alt.Scale(domain=list(domain(losses)), nice=False, zero=False)


def _columns(count: int) -> int:
    return min(count, 3 if count in (5, 6, 9) else 4)


def _panels(drawn: list[alt.LayerChart], columns: int, title: str) -> Chart:
    return alt.concat(*drawn, columns=columns, spacing=14).properties(title=title)


def learning_chart(curves: pd.DataFrame) -> Chart | None:
    """Training and validation loss by step, a panel an arm, a line a seed. Columns: those of `learning_frame`."""
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
        ("loss", SUPERVISED.loss_unit, ".3f"),
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
    return faceted.properties(title=f"Loss by training step, a line for each seed ({SUPERVISED.loss_unit})")


def _panel_title(text: str) -> alt.TitleParams:
    return alt.TitleParams(text, fontSize=12, anchor="middle", offset=6, limit=240)


def search_chart(curves: pd.DataFrame) -> Chart | None:
    """Validation loss against learning rate, a panel a search, the chosen rate ringed. Columns: those of
    `search_frame`."""
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
        ("loss", "validation loss", ".3f"),
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
    return _panels(drawn, columns, f"Validation loss by learning rate, when its trial ended ({SUPERVISED.loss_unit})")


def learning_section(pairs: list[Pair], tables: Tables) -> Section:
    """The learning curves of every pair."""
    runs = tables.get("cost", pd.DataFrame())

    def curves(pair: Pair) -> Chart | None:
        steps = of_pair(tables.get("learning"), pair.verdict)
        return learning_chart(learning_frame(steps, runs, pair.arms, curve_points(len(runs))))

    return Section(
        "learning",
        "Learning curves",
        "The loss while training, on each batch before its update, and at a few steps on rows that are not trained on.",
        "Where the orange curve turns up while the blue one falls, the arm over-fits: from there on it memorises, and "
        "fewer epochs would do. Long curves are drawn at every k-th step; the runs' train.jsonl hold every step.",
        each(pairs, curves, "training and validation loss by step for each arm and seed"),
        "No training steps were recorded.",
    )


def search_section(pairs: list[Pair], searches: list[SearchRecord]) -> Section:
    """The learning-rate searches of every pair."""

    def curves(pair: Pair) -> Chart | None:
        key = (pair.verdict.model, pair.verdict.train_set)
        mine = [search for search in searches if (search.model, search.train_set) == key]
        return search_chart(search_frame(mine))

    return Section(
        "rates",
        "Learning rates",
        "The validation loss of every learning rate that was tried, search by search.",
        "The ring is the rate chosen. Small points were dropped early, so they were trained for fewer steps. A choice "
        "at the end of its grid is named in the warnings. Suites were never looked at.",
        each(pairs, curves, "validation loss against learning rate for each search"),
        "No learning rate was searched: the study gives them.",
    )
