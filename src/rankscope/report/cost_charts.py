"""Charts of what arms cost, and of what a smaller adapter made without training would give."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import pandas as pd

from rankscope.records.readable_numbers import duration, size
from rankscope.report.chart_drawing import (
    HEIGHT,
    PLOT_WIDTH,
    SHAPES,
    WIDTH,
    Chart,
    Figure,
    Pair,
    Record,
    Section,
    Tables,
    arm_axis,
    chart,
    domain,
    each,
    figure,
    inline,
    layer,
    records,
    tooltips,
)
from rankscope.report.rank_charts import of_pair
from rankscope.report.units import IN_POINTS
from rankscope.study.methods import METHODS

_BYTES = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))
PRICES = (
    (
        "Training time",
        "train_seconds",
        ((3600.0, "hours, one run"), (60.0, "minutes, one run"), (1.0, "seconds, one run")),
    ),
    ("Peak memory", "peak_memory_bytes", _BYTES),
    ("Adapter on disk", "adapter_bytes", _BYTES),
)


# ---- what arms cost -------------------------------------------------------------------------------------------------


def cost_frame(arms: pd.DataFrame) -> pd.DataFrame:
    """One row for each arm and price, in the unit that suits the largest: arm, order, price, value or None, unit, and
    the text that tables have too."""
    rows = []
    for title, column, units in PRICES:
        known = [value for value in arms[column] if value is not None]
        written = duration if column.endswith("seconds") else size
        scale, unit = next(((s, u) for s, u in units if known and max(known) >= s), units[-1])
        for arm in arms.to_dict("records"):
            value = None if arm[column] is None else arm[column] / scale
            said = "none" if arm[column] is None else written(arm[column])
            named = {"arm": arm["arm"], "order": arm["order"], "price": title, "unit": unit}
            rows.append({**named, "value": value, "text": said})
    return pd.DataFrame(rows).astype(object).where(lambda frame: frame.notna(), None)


def cost_chart(prices: pd.DataFrame) -> Chart | None:
    """Time, memory and disk, a bar an arm; what was not measured says `none`. Columns: those of `cost_frame`."""
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
        row["length"] = row["value"] or 0
    unit = str(rows[0]["unit"])
    axis = alt.Axis(labels=named, ticks=False, domain=False, labelLimit=180)
    base = chart(rows).encode(y=alt.Y("arm:N", sort=arms, title=None, axis=axis))
    length = alt.X("length:Q", title=unit, scale=alt.Scale(zero=True), axis=alt.Axis(tickCount=4))
    bars = base.mark_bar(height={"band": 0.65}).encode(
        x=length, tooltip=tooltips(("arm", "arm", ""), ("text", str(rows[0]["price"]), ""))
    )
    text = base.mark_text(align="left", dx=4, fontSize=11).encode(x=length, text="text:N")
    return layer(bars, text).properties(width=205, height=alt.Step(24), title=str(rows[0]["price"]))


def cost_section(pairs: Sequence[Pair]) -> Section:
    """Time, memory and disk of each arm, for every pair."""
    return Section(
        "cost",
        "Cost",
        "What one run of each arm took on this machine: time, memory, and the size of what it leaves.",
        "Arms from the fewest trainable parameters to the most. 'none' means not measured, or, for full fine-tuning, "
        "no adapter.",
        each(pairs, lambda pair: cost_chart(cost_frame(pair.arms)), "cost of each arm"),
        "No run was timed.",
    )


# ---- smaller without training ---------------------------------------------------------------------------------------


def derived_frame(derived: pd.DataFrame, arms: pd.DataFrame) -> pd.DataFrame:
    """series, rank, measure (gain, forgetting), value in points: the trained LoRA arms beside the truncated adapter."""
    rows = []
    for row in arms.to_dict("records"):
        low_rank = row["method"] in METHODS and METHODS[row["method"]].delta == "factored"
        if low_rank and row["rank"] is not None and not pd.isna(row["rank"]):
            rows += [("trained at this rank", row["rank"], m, row[m], row["arm"]) for m in ("gain", "forgetting")]
    for key, means in _derived_means(derived):
        if key["derivation"] in ("truncated", "energy"):
            rank = key["rank"] if key["derivation"] == "truncated" else key["mean_rank"]
            name = "largest, truncated" if key["derivation"] == "truncated" else "largest, 90 % of energy"
            rows += [(name, rank, measure, value, key["arm"]) for measure, value in means.items()]
    frame = pd.DataFrame(rows, columns=["series", "rank", "measure", "value", "arm"]).dropna(subset=["value"])
    return (
        frame.astype({"rank": float, "value": float})
        if (frame["series"] != "trained at this rank").any()
        else frame.head(0)
    )


def intervention_frame(derived: pd.DataFrame, seeds: pd.DataFrame, arms: pd.DataFrame) -> pd.DataFrame:
    """what, measure, value in points: the adapter as trained, with its intruders scaled, and the control.

    `seeds` has gain and forgetting of each seed; without it the trained arm is shown as the mean of its seeds.
    """
    names = {"intruders": "intruders times {factor:g}", "control": "as much off the whole change"}
    found = [(key, means) for key, means in _derived_means(derived) if key["derivation"] in names]
    if not found:
        return pd.DataFrame()
    arm, seed = found[0][0]["arm"], found[0][0]["seed"]
    trained, called = arms[arms["arm"] == arm], "as trained (mean of seeds)"
    if len(seeds) and len(own := seeds[(seeds["arm"] == arm) & (seeds["seed"] == seed)]):
        trained, called = own, "as trained"
    rows = [(called, measure, value) for measure in ("gain", "forgetting") for value in trained[measure]]
    for key, means in sorted(found, key=lambda entry: list(names).index(str(entry[0]["derivation"]))):
        what = names[str(key["derivation"])].format(factor=key["factor"])
        rows += [(what, measure, value) for measure, value in means.items()]
    return pd.DataFrame(rows, columns=["what", "measure", "value"]).dropna(subset=["value"])


def _derived_means(derived: pd.DataFrame) -> list[tuple[dict[str, object], dict[str, float]]]:
    """For each derived run its facts, and gain and forgetting in points: means over suites."""
    keys = ["arm", "seed", "derivation", "rank", "mean_rank", "factor"]
    found = []
    for values, group in derived.groupby(keys, dropna=False) if len(derived) else []:
        inside = group["relation"] == "in-domain"
        means = {"gain": 100 * group["change"][inside].mean(), "forgetting": -100 * group["change"][~inside].mean()}
        found.append((dict(zip(keys, values, strict=True)), means))
    return found


def truncation_chart(curve: pd.DataFrame, measure: str) -> Chart | None:
    """Gain or forgetting against rank: arms trained at it, and the largest adapter truncated to it.

    Columns: those of `derived_frame`.
    """
    rows = [row for row in records(curve, "rank", "value") if row["measure"] == measure]
    if not rows:
        return None
    series = list(dict.fromkeys(str(row["series"]) for row in rows))
    legend = alt.Legend(title=None, orient="top", columns=2, labelLimit=220)
    colour = alt.Color("series:N", scale=alt.Scale(domain=series), legend=legend)
    shape = alt.Shape("series:N", scale=alt.Scale(domain=series, range=SHAPES[: len(series)]), legend=legend)
    ranks = sorted({row["rank"] for row in rows})
    x_scale = alt.Scale(type="log", domain=[ranks[0] / 1.3, ranks[-1] * 1.3], nice=False)
    whole = [rank for rank in ranks if rank == int(rank)]
    base = chart(rows).encode(
        x=alt.X("rank:Q", title="Rank", scale=x_scale, axis=alt.Axis(values=whole, format="d", grid=False)),
        y=alt.Y(
            "value:Q",
            title=f"{measure.capitalize()} (points)",
            scale=alt.Scale(domain=list(domain([r["value"] for r in rows], include=[0]))),
        ),
        color=colour,
        tooltip=tooltips(
            ("series", "which", ""),
            ("arm", "arm", ""),
            ("rank", "rank", ".1f"),
            ("value", f"{measure} (points)", IN_POINTS.form(measure)),
        ),
    )
    return layer(base.mark_line(strokeWidth=1.6), base.mark_point(filled=True, size=60).encode(shape=shape)).properties(
        width=WIDTH, height=HEIGHT, title=f"{measure.capitalize()}: trained and truncated ({IN_POINTS.name})"
    )


def intervention_chart(bars: pd.DataFrame) -> Chart | None:
    """Gain and forgetting as trained, with intruders scaled, and in the control.

    Columns: those of `intervention_frame`.
    """
    rows = records(bars, "value")
    if not rows:
        return None
    names = list(dict.fromkeys(str(row["what"]) for row in rows))
    base = alt.Chart().encode(y=alt.Y("what:N", sort=names, title=None, axis=alt.Axis(labelLimit=240)))
    x = alt.X("value:Q", title="Points")
    told = tooltips(("what", "adapter", ""), ("measure", "measure", ""), ("value", "points", "+.1f"))
    drawn = layer(
        base.mark_bar(height={"band": 0.6}).encode(x=x, tooltip=told),
        base.mark_text(align="left", dx=4).encode(x=x, text=alt.Text("value:Q", format="+.1f")),
    ).properties(width=PLOT_WIDTH // 2 - 150, height=alt.Step(28))
    facet = alt.Facet("measure:N", header=alt.Header(title=None, labelFontWeight="bold"))
    return drawn.facet(facet=facet, columns=2, data=inline(rows)).properties(
        title=f"Intruder dimensions scaled ({IN_POINTS.name})"
    )


def derived_section(pairs: Sequence[Pair], tables: Tables) -> Section:
    """The largest adapter truncated, and with its intruders scaled, for every pair."""
    found: list[Figure] = []
    for pair in pairs:
        derived, name = of_pair(tables.get("derived"), pair.verdict), pair.name if len(pairs) > 1 else ""
        curve = derived_frame(derived, pair.arms)
        for measure in ("gain", "forgetting"):
            found += figure(truncation_chart(curve, measure), f"{measure} by rank, trained and truncated", name)
        drawn = intervention_chart(intervention_frame(derived, pair.seeds, pair.arms))
        found += figure(drawn, "gain and forgetting with intruder dimensions scaled", name)
    return Section(
        "derived",
        "Smaller without training",
        "The largest adapter cut to each lower rank by SVD, and with its intruder dimensions made smaller.",
        "Where the truncated curve lies on the trained one, the rank curve costs one run. Intruders matter by "
        "themselves only where scaling them lowers forgetting more than taking as much off the whole change. One seed "
        "of the largest adapter; no candidate of the verdict.",
        found,
        "No run was derived.",
        wide=False,
    )
