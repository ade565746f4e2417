"""Table -> chart: spectra, maps of layers, drift, overlap, diagnostics, derived runs. Computes nothing."""

from __future__ import annotations

import altair as alt
import pandas as pd

from rankscope.report.chart_drawing import SHAPES, Chart, Record, arm_axis, chart, domain, inline, layer, records
from rankscope.report.charts import HEIGHT, POINTS, WIDTH, tooltips
from rankscope.report.charts_tables import PLOT_WIDTH

_CELL, _SMALLEST_CELL = 22, 12
"""Pixels of a cell of a map: the smallest where all arms' panels then stand in one row."""

_PANEL_EDGES = 60

_MATRICES = (
    "q_proj",
    "k_proj",
    "v_proj",
    "o_proj",
    "qkv_proj",
    "c_attn",
    "gate_proj",
    "up_proj",
    "gate_up_proj",
    "c_fc",
)
"""The order in which a token meets the matrices of a block; others follow by name."""


def _arm_colour(arms: list[str]) -> alt.Color:
    return alt.Color("arm:N", scale=alt.Scale(domain=arms), legend=alt.Legend(title=None, orient="top", columns=8))


def spectra(curves: pd.DataFrame) -> Chart | None:
    """Singular values of the change over the largest, by index. Columns: frames_inside.curve_frame."""
    rows = [row for row in records(curves, "index", "share") if row["share"] > 1e-6]
    if not rows:
        return None
    arms = arm_axis(rows)
    told = tooltips(("arm", "arm", ""), ("index", "singular value", "d"), ("share", "over the largest", ".3f"))
    base = chart(rows).encode(
        x=alt.X("index:Q", title="Singular value, from the largest", scale=alt.Scale(type="log", nice=False)),
        y=alt.Y("share:Q", title="Size over the largest", scale=alt.Scale(type="log", nice=False)),
        color=_arm_colour(arms),
        tooltip=told,
    )
    dots = base.mark_point(filled=True, size=26).encode(
        shape=alt.Shape("arm:N", scale=alt.Scale(domain=arms, range=_shapes(arms)), legend=None)
    )
    return layer(base.mark_line(strokeWidth=1.8), dots).properties(
        width=PLOT_WIDTH, height=HEIGHT, title="Spectrum of the change, mean over matrices and seeds"
    )


def _shapes(arms: list[str]) -> list[str]:
    return [SHAPES[i % len(SHAPES)] for i in range(len(arms))]


def module_map(modules: pd.DataFrame, value: str, title: str, unit: str, form: str) -> Chart | None:
    """Layer down, kind of matrix across, a panel an arm. Columns: frames_inside.module_frame."""
    rows = records(modules, "layer", value)
    if not rows:
        return None
    return _map(rows, "layer", "matrix", value, title, unit, form)


def head_map(heads: pd.DataFrame, value: str, title: str, unit: str, form: str) -> Chart | None:
    """Layer down, head across, a panel an arm. Columns: frames_inside.head_frame."""
    rows = records(heads, "layer", "head", value)
    if not rows:
        return None
    return _map(rows, "layer", "head", value, title, unit, form)


def _map(rows: list[Record], down: str, across: str, value: str, title: str, unit: str, form: str) -> Chart:
    arms = arm_axis(rows)
    signed = min(row[value] for row in rows) < 0
    reach = max(abs(row[value]) for row in rows) or 1.0
    scale = (
        alt.Scale(domain=[-reach, reach], domainMid=0, interpolate="rgb")
        if signed
        else alt.Scale(domain=[0, reach], range="ramp", interpolate="rgb")
    )
    kind = "O" if across == "head" else "N"
    places = sorted({row[across] for row in rows}, key=_place)
    room = PLOT_WIDTH / len(arms) - _PANEL_EDGES / 2
    one_row = room / len(places) >= _SMALLEST_CELL
    cell = min(_CELL, int(room / len(places))) if one_row else _CELL
    shown = [{k: row[k] for k in ("arm", down, across, value)} for row in rows]
    cells = (
        alt.Chart()
        .mark_rect()
        .encode(
            x=alt.X(
                f"{across}:{kind}",
                sort=places,
                title=across.capitalize(),
                axis=alt.Axis(labelAngle=-45 if kind == "N" else 0),
            ),
            y=alt.Y(f"{down}:O", title=down.capitalize(), sort="ascending"),
            color=alt.Color(f"{value}:Q", scale=scale, legend=alt.Legend(title=unit, gradientLength=100)),
            tooltip=tooltips(
                ("arm", "arm", ""), (down, down, "d"), (across, across, "" if kind == "N" else "d"), (value, unit, form)
            ),
        )
        .properties(width=alt.Step(cell), height=alt.Step(_CELL if len({r[down] for r in rows}) <= 16 else 9))
    )
    columns = len(arms) if one_row else max(1, PLOT_WIDTH // (len(places) * cell + _PANEL_EDGES))
    header = alt.Header(title=None, labelFontWeight="bold")
    facet = alt.Facet("arm:N", sort=arms, header=header)
    return cells.facet(facet=facet, columns=columns, data=inline(shown)).properties(title=title)


def _place(across: object) -> tuple[int, str, int]:
    """Where a head or a kind of matrix stands in a map."""
    if isinstance(across, int):
        return 0, "", across
    name = str(across)
    return (_MATRICES.index(name) if name in _MATRICES else len(_MATRICES)), name, 0


def drift(drifts: pd.DataFrame) -> Chart | None:
    """By layer, a line an arm, a panel a measure. Columns: frames_inside.drift_frame."""
    rows = records(drifts, "layer", "value")
    if not rows:
        return None
    arms, measures = arm_axis(rows), list(dict.fromkeys(str(row["measure"]) for row in rows))
    told = tooltips(("arm", "arm", ""), ("layer", "layer", "d"), ("value", "value", ".3f"))
    panels = []
    for measure in measures:
        base = chart([row for row in rows if row["measure"] == measure]).encode(
            x=alt.X("layer:O", title="Layer", axis=alt.Axis(labelAngle=0, labelOverlap=True)),
            y=alt.Y("value:Q", title=None, scale=alt.Scale(zero=True)),
            color=_arm_colour(arms),
            tooltip=told,
        )
        shape = alt.Shape("arm:N", scale=alt.Scale(domain=arms, range=_shapes(arms)), legend=None)
        lines = layer(base.mark_line(strokeWidth=1.8), base.mark_point(filled=True, size=40).encode(shape=shape))
        heading = alt.TitleParams(measure, fontSize=12, anchor="middle")
        panels.append(lines.properties(width=PLOT_WIDTH // 3 - 60, height=160, title=heading))
    return alt.concat(*panels, columns=3, spacing=16).properties(
        title="How far each layer moved, mean over suites and seeds"
    )


def similarity(pairs: pd.DataFrame) -> Chart | None:
    """Arm against arm, a panel for directions and one for neurons. Columns: frames_inside.similarity_frame."""
    rows = records(pairs, "value")
    if not rows:
        return None
    arms = arm_axis(rows)
    x = alt.X("other_arm:N", sort=arms, title=None, axis=alt.Axis(labelAngle=-35, labelLimit=160))
    y = alt.Y("arm:N", sort=arms, title=None, axis=alt.Axis(labelLimit=160))
    colour = alt.Color(
        "value:Q", scale=alt.Scale(domain=[0, 1], range="ramp"), legend=alt.Legend(title="overlap", gradientLength=100)
    )
    told = tooltips(("arm", "arm", ""), ("other_arm", "and", ""), ("value", "overlap", ".3f"))
    cells = alt.Chart().mark_rect().encode(x=x, y=y, color=colour, tooltip=told)
    text = alt.Chart().mark_text(fontSize=11).encode(x=x, y=y, text=alt.Text("value:Q", format=".2f"), tooltip=told)
    sized = layer(cells, text).properties(width=alt.Step(46), height=alt.Step(26))
    facet = alt.Facet("what:N", header=alt.Header(title=None, labelFontWeight="bold"))
    return sized.facet(facet=facet, columns=2, data=inline(rows)).properties(title="What two arms have in common")


def diagnostics(found: pd.DataFrame) -> Chart | None:
    """The partial rank correlation of each measure with forgetting. Columns: those of the diagnostics table."""
    rows = records(found, "partial")
    if not rows:
        return None
    rows.sort(key=lambda row: -abs(row["partial"]))
    names = [str(row["measure"]) for row in rows]
    y = alt.Y("measure:N", sort=names, title=None, axis=alt.Axis(labelLimit=260))
    scale = alt.Scale(domain=[-1, 1])
    x = alt.X("partial:Q", scale=scale, title="Partial rank correlation with forgetting, given rank and learning rate")
    told = tooltips(
        ("measure", "measure", ""),
        ("partial", "partial correlation", "+.2f"),
        ("partial_low", "from", "+.2f"),
        ("partial_high", "to", "+.2f"),
        ("correlation", "plain correlation", "+.2f"),
        ("p_corrected", "p, corrected", ".3f"),
        ("runs", "runs", "d"),
    )
    base = chart(rows)
    colour = alt.Color(
        "predicts:N", scale=alt.Scale(domain=["yes", "no"]), legend=alt.Legend(title="predicts", orient="top")
    )
    shape = alt.Shape("predicts:N", scale=alt.Scale(domain=["yes", "no"], range=SHAPES[:2]), legend=None)
    bars = base.transform_filter("isValid(datum.partial_low)").mark_rule(strokeWidth=1.6)
    return layer(
        base.mark_rule(color="gray").encode(x=alt.datum(0)),
        bars.encode(x=alt.X("partial_low:Q", scale=scale), x2="partial_high:Q", y=y, color=colour),
        base.mark_point(filled=True, size=70).encode(x=x, y=y, color=colour, shape=shape, tooltip=told),
    ).properties(width=PLOT_WIDTH - 260, height=alt.Step(22), title="Do the diagnostics predict forgetting?")


def truncated(curve: pd.DataFrame, measure: str) -> Chart | None:
    """Gain or forgetting against rank: arms trained at it, and the largest adapter truncated to it.

    Columns: frames_inside.derived_frame.
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
            ("value", f"{measure} (points)", "+.1f"),
        ),
    )
    return layer(base.mark_line(strokeWidth=1.6), base.mark_point(filled=True, size=60).encode(shape=shape)).properties(
        width=WIDTH, height=HEIGHT, title=f"{measure.capitalize()}: trained and truncated ({POINTS})"
    )


def intervention(bars: pd.DataFrame) -> Chart | None:
    """Gain and forgetting as trained, with intruders scaled, and in the control.

    Columns: frames_inside.intervention_frame.
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
        title=f"Intruder dimensions scaled ({POINTS})"
    )
