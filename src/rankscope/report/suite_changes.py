"""What was gained and forgotten on each suite and in each domain: the frames and the heat maps."""

from __future__ import annotations

import math
from collections.abc import Sequence

import altair as alt
import pandas as pd

from rankscope.records import Verdict, VerdictFile
from rankscope.records.readable_numbers import relation_name
from rankscope.report.chart_drawing import (
    CHARACTER_PIXELS,
    PLOT_WIDTH,
    Chart,
    Figure,
    Record,
    Section,
    Tables,
    arm_axis,
    figure,
    inline,
    label_expression,
    layer,
    panel_header,
    records,
    short_names,
    tooltips,
)
from rankscope.report.rank_charts import of_pair
from rankscope.report.units import IN_NATS, IN_POINTS, Unit

MOST_CHARACTERS = 24
"""Of a name beside a heat map; of a longer one the middle is left out."""


def change_tooltip(unit: Unit) -> list[tuple[str, str, str]]:
    """(field, title, format) of what happened on a suite, and of what base and arm had where these are shares."""
    shares = [("base_accuracy", "base (%)", ".1f"), ("accuracy", "arm (%)", ".1f")] if unit is IN_POINTS else []
    form = unit.form("gain")
    told = [("amount", f"gain, or forgetting ({unit.short})", form), ("amount_low", "from", form)]
    return [*shares, *told, ("amount_high", "to", form)]


def change_frame(table: pd.DataFrame | None, verdicts: Sequence[Verdict], unit: Unit = IN_POINTS) -> pd.DataFrame:
    """A table of changes (forgetting, matrix or kinds) of these verdicts, of the suites judged in this unit.

    Adds order (of the arm) and renames n, low and high to items, change_low and change_high; the other columns stay.
    Adds amount, amount_low and amount_high: the gain in the training domain, elsewhere the forgetting, above 0 a loss.
    """
    pieces = []
    for verdict in verdicts:
        rows = of_pair(table, verdict)
        if "metric" in rows.columns:
            rows = rows[rows["metric"] == unit.metric]
        elif unit is not IN_POINTS:  # a study from before losses were judged has scores only
            continue
        if rows.empty:
            continue
        orders = {arm.label: order for order, arm in enumerate(verdict.arms_by_size)}
        rows = rows.rename(columns={"n": "items", "low": "change_low", "high": "change_high"})
        shares = ["base_accuracy", "accuracy", "change", "change_low", "change_high"]
        rows = rows.assign(order=rows["arm"].map(orders), **{name: unit.factor * rows[name] for name in shares})
        pieces.append(_with_amounts(rows))
    if not pieces:
        return pd.DataFrame()
    joined = pd.concat(pieces, ignore_index=True)
    if "domain" in joined.columns:
        joined["domain"] = joined["domain"].astype(object).where(joined["domain"].notna(), "(no domain)")
    return joined.sort_values("order", kind="stable", ignore_index=True)


def _with_amounts(rows: pd.DataFrame) -> pd.DataFrame:
    gained = rows["relation"] == "in-domain"
    ends = {"amount": "change", "amount_low": "change_high", "amount_high": "change_low"}
    lost = {name: 0.0 - rows[column] for name, column in ends.items()}  # no -0.0
    same = {"amount": "change", "amount_low": "change_low", "amount_high": "change_high"}
    return rows.assign(**{name: rows[same[name]].where(gained, value) for name, value in lost.items()})


def matrix_chart(changes: pd.DataFrame, column: str, title: str, unit: Unit = IN_POINTS) -> Chart | None:
    """Gain and forgetting: training set and arm down, `column` (suite or domain) across; in-domain cells framed.

    Colours tell better from worse. Columns: those of `change_frame`, of one base model.
    """
    rows = records(changes, "change")
    if not rows:
        return None
    names = list(dict.fromkeys(str(row[column]) for row in sorted(rows, key=lambda r: (r["domain"], r[column]))))
    arms = arm_axis(rows)
    short = short_names(names, MOST_CHARACTERS)
    step = max(60, min(120, (PLOT_WIDTH - 140) // len(names)))
    angle = 0 if max(map(len, short.values())) * CHARACTER_PIXELS < step - 4 else -25
    across = alt.Axis(labelAngle=angle, labelLimit=220, domain=False, **label_expression(short))
    down = alt.Axis(labelLimit=200, **label_expression(short_names(arms, MOST_CHARACTERS)))
    x = alt.X(f"{column}:N", sort=names, title=None, axis=across)
    y = alt.Y("arm:N", sort=arms, title=None, axis=down)
    told = tooltips(
        ("train_set", "trained on", ""),
        ("arm", "arm", ""),
        (column, column, ""),
        ("domain", "domain", ""),
        ("where", "relation", ""),
        ("items", "items", ",d"),
        *change_tooltip(unit),
    )
    cells = alt.Chart().mark_rect().encode(x=x, y=y, color=_change_colour(rows, unit), tooltip=told)
    frame = alt.Chart().mark_rect(filled=False, strokeWidth=1.6, stroke="gray").encode(x=x, y=y)
    text = alt.Chart().mark_text(fontSize=11).encode(x=x, y=y, text=alt.Text("shown:N"), tooltip=told)
    parts = layer(cells, frame.transform_filter("datum.relation == 'in-domain'"), text)
    for row in rows:
        row["panel"] = f"trained on {row['train_set']}"
        said = unit.said(row["amount"], sign=row["relation"] == "in-domain")
        row["shown"] = said.replace("-", "−")  # a proper minus sign, as axes have it
        row["where"] = relation_name(row["relation"])
    sized = parts.properties(width=alt.Step(step), height=alt.Step(26))
    faceted = sized.facet(row=alt.Row("panel:N", header=panel_header()), data=inline(rows))
    return faceted.properties(title=f"{title} ({unit.name})")


def _change_colour(rows: list[Record], unit: Unit) -> alt.Color:
    """Diverging from 0 to the largest change either way. It bends (symlog), else gains would wash out what was lost."""
    step = 1.0 if unit is IN_POINTS else 0.01
    reach = round(step * math.ceil(max(unit.reach, *(abs(row["change"]) for row in rows)) / step), 2)
    scale = alt.Scale(
        type="symlog", constant=unit.reach, domain=[-reach, reach], domainMid=0, interpolate="rgb", clamp=True
    )
    said = "datum.value == 0 ? '0' : format(abs(datum.value), '') + (datum.value < 0 ? ' worse' : ' better')"
    legend = alt.Legend(title=unit.short, gradientLength=180, values=[-reach, 0, reach], labelExpr=said)
    return alt.Color("change:Q", scale=scale, legend=legend)


def matrix_section(verdicts: VerdictFile, tables: Tables) -> Section:
    """What was gained and forgotten of every domain and every suite, a figure a base model; of domains none where each
    has one suite."""
    found: list[Figure] = []
    models = list(dict.fromkeys(verdict.model for verdict in verdicts.verdicts))
    alike = one_suite_a_domain(change_frame(tables.get("forgetting"), verdicts.verdicts))
    for model in models:
        mine = [verdict for verdict in verdicts.verdicts if verdict.model == model]
        name = model if len(models) > 1 else ""
        for table, column, title, unit in (
            ("matrix", "domain", "Gained and forgotten, by domain", IN_POINTS),
            ("forgetting", "suite", "Gained and forgotten, by suite", IN_POINTS),
            ("forgetting", "suite", "Gained and forgotten, by suite judged by loss", IN_NATS),
        ):
            if alike and column == "domain":
                continue
            drawn = matrix_chart(change_frame(tables.get(table), mine, unit), column, title, unit)
            found += figure(drawn, f"{title[0].lower()}{title[1:]}, in {unit.short}", name)
    said = " Each domain has one suite, so the suites stand for the domains." if alike and found else ""
    return Section(
        "matrix",
        "What was forgotten",
        f"What training on each set did to every domain and every suite, arm by arm.{said}",
        "Framed cells are of the training set's own domain and show the gain; all others show the forgetting, which "
        "above 0 is a loss, as everywhere on this page. Blue is better than the base, orange worse. Of suites judged "
        "by loss the unit is nats per token.",
        found,
        "No suite was scored for both the base and an arm.",
        wide=False,
    )


def one_suite_a_domain(changes: pd.DataFrame) -> bool:
    """Whether a picture of domains would show the same numbers as that of suites. Columns: those of `change_frame`."""
    if changes.empty:
        return False
    places = changes[["model", "train_set", "domain", "suite"]].drop_duplicates()
    return not places.duplicated(["model", "train_set", "domain"]).any()
