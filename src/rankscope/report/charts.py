"""Table -> chart. Computes no statistic: it draws the columns that it is given (frames.py makes them ready).

Colours come from the page's theme (palettes safe for colour-blind readers, light and dark), shapes and dashes repeat
what colours say. A function returns None where there is nothing to draw; the page then says why.
"""

from __future__ import annotations

from itertools import pairwise

import altair as alt
import pandas as pd

from rankscope.report.chart_drawing import (
    SHAPES,
    Chart,
    Record,
    between,
    chart,
    domain,
    layer,
    place_labels,
    plain,
    records,
    spread,
)

WIDTH, HEIGHT = 345, 260
PLANE_WIDTH, PLANE_HEIGHT = 780, 420
POINTS = "percentage points"
ENDS = ("", "_low", "_high")


def tooltips(*fields: tuple[str, str, str]) -> list[alt.Tooltip]:
    """(field, title, number format); a format of "" is text."""
    return [
        alt.Tooltip(field=field, type="quantitative", title=title, format=form)
        if form
        else alt.Tooltip(field=field, type="nominal", title=title)
        for field, title, form in fields
    ]


def _arm_tooltip(*measures: str) -> list[alt.Tooltip]:
    numbers = [
        (f"{measure}{end}", f"{measure} {word}", "+.1f")
        for measure in measures
        for end, word in zip(ENDS, ("(points)", "from", "to"), strict=True)
    ]
    return tooltips(
        ("arm", "arm", ""),
        ("trainable_parameters", "trainable parameters", ",d"),
        ("learning_rate", "learning rate", ".2~e"),
        *numbers,
        ("seeds", "seeds", "d"),
        ("status", "status", ""),
    )


def _family(rows: list[Record], *, always: bool, columns: int) -> tuple[alt.Color, alt.Shape]:
    """Colour and shape of an arm's family, with one legend for both (none for a single family unless `always`)."""
    families = sorted({str(row["family"]) for row in rows}, key=lambda name: (name == "full", name))
    legend = (
        alt.Legend(title=None, orient="top", symbolOpacity=1, columns=columns) if always or len(families) > 1 else None
    )
    shapes = [SHAPES[i % len(SHAPES)] for i in range(len(families))]
    colour = alt.Color("family:N", scale=alt.Scale(domain=families), legend=legend)
    return colour, alt.Shape("family:N", scale=alt.Scale(domain=families, range=shapes), legend=legend)


# ---- against rank ---------------------------------------------------------------------------------------------------


def against_rank(arms: pd.DataFrame, measure: str, *, margin: float, margin_name: str) -> Chart | None:
    """Gain or forgetting (`measure`) against rank, log axis; arms without a rank are lines with a band.

    `margin` in percentage points is drawn dashed and called `margin_name`. Columns: those of frames.arm_frame.
    """
    rows = records(arms, measure)
    ranked = [row for row in rows if row["rank"] is not None]
    if not ranked:
        return None
    limits = domain((row[f"{measure}{end}"] for row in rows for end in ENDS), include=(0, margin))
    ranks = sorted({int(row["rank"]) for row in ranked})
    x_scale = alt.Scale(type="log", base=2, domain=[ranks[0] / 1.35, ranks[-1] * 1.35], nice=False)
    axis = alt.Axis(values=ranks, format="d", grid=False)
    x = alt.X("rank_position:Q", scale=x_scale, title="LoRA rank (log scale)", axis=axis)
    y_scale = alt.Scale(domain=list(limits), nice=False, zero=False)
    y = alt.Y(f"{measure}:Q", scale=y_scale, title=f"{measure.capitalize()} ({POINTS})")
    colour, shape = _family(ranked, always=False, columns=3)
    known = [row for row in ranked if row[f"{measure}_low"] is not None and row[f"{measure}_high"] is not None]
    low = alt.Y(f"{measure}_low:Q", scale=y_scale, title=f"{measure.capitalize()} ({POINTS})")
    bars = chart(known).mark_rule(strokeWidth=1.6).encode(x=x, y=low, y2=f"{measure}_high:Q", color=colour)
    line = chart(ranked).mark_line(strokeWidth=2).encode(x=x, y=y, color=colour)
    dots = chart(ranked).mark_point(filled=True, size=75, opacity=1)
    dots = dots.encode(x=x, y=y, color=colour, shape=shape, tooltip=_arm_tooltip(measure))
    others = [row for row in rows if row["rank"] is None]
    marks: list[Record] = [{"at": 0.0, "text": "base"}, {"at": margin, "text": margin_name}]
    back = [*_levels(others, measure, y_scale), *_marks(marks, others, measure, y_scale, limits)]
    title = {"gain": "What was learned, by rank", "forgetting": "What was forgotten, by rank"}[measure]
    return layer(*back, bars, line, dots).properties(width=WIDTH, height=HEIGHT, title=f"{title} ({POINTS})")


def _levels(others: list[Record], measure: str, y_scale: alt.Scale) -> list[alt.Chart]:
    """Arms without a rank, full fine-tuning above all: a line across, and the band of its interval."""
    known = [row for row in others if row[f"{measure}_low"] is not None and row[f"{measure}_high"] is not None]
    bands = chart(known).mark_rect(opacity=0.16, color="gray")
    lines = chart(others).mark_rule(strokeWidth=2, color="gray")
    low = alt.Y(f"{measure}_low:Q", scale=y_scale, title=f"{measure.capitalize()} ({POINTS})")
    return [
        bands.encode(y=low, y2=f"{measure}_high:Q"),
        lines.encode(y=alt.Y(f"{measure}:Q", scale=y_scale), tooltip=_arm_tooltip(measure)),
    ]


def _marks(
    marks: list[Record], others: list[Record], measure: str, y_scale: alt.Scale, limits: tuple[float, float]
) -> list[alt.Chart]:
    """The base at zero, the margin dashed; all levels labelled outside, at the right, none over another."""
    at = alt.Y("at:Q", scale=y_scale)
    labels = [{"at": row[measure], "text": row["arm"]} for row in others] + [dict(mark) for mark in marks]
    for label, height in zip(labels, spread([row["at"] for row in labels], limits, HEIGHT), strict=True):
        label["label_at"] = height
    text = chart(labels).mark_text(align="left", dx=5, fontSize=11)
    return [
        chart(marks[:1]).mark_rule(strokeWidth=1, color="gray").encode(y=at),
        chart(marks[1:]).mark_rule(strokeDash=[5, 4], color="gray").encode(y=at),
        text.encode(x=alt.value("width"), y=alt.Y("label_at:Q", scale=y_scale), text="text:N"),
    ]


# ---- the trade-off plane --------------------------------------------------------------------------------------------


class _Plane:
    """The plane's two scales with their limits, fixed so that labels can be placed before anything is drawn."""

    def __init__(self, rows: list[Record], faint: list[Record], retention_margin: float, min_gain: float) -> None:
        gains = [row[f"gain{end}"] for row in rows for end in ENDS] + [row["gain"] for row in faint]
        losses = [row[f"forgetting{end}"] for row in rows for end in ENDS] + [row["forgetting"] for row in faint]
        self.x_limits = domain(gains, include=(0, min_gain))
        self.y_limits = domain(losses, include=(0, 1.3 * retention_margin))
        self._x = alt.Scale(domain=list(self.x_limits), nice=False, zero=False)
        self._y = alt.Scale(domain=list(self.y_limits), nice=False, zero=False)

    def x(self, field: str) -> alt.X:
        title = f"Gain on in-domain suites ({POINTS}): right is better"
        return alt.X(f"{field}:Q", scale=self._x, title=title, axis=alt.Axis(tickCount=10))

    def y(self, field: str) -> alt.Y:
        title = f"Forgetting elsewhere ({POINTS}): down is better"
        return alt.Y(f"{field}:Q", scale=self._y, title=title, axis=alt.Axis(tickCount=7))


def trade_off(arms: pd.DataFrame, seeds: pd.DataFrame, *, retention_margin: float, min_gain: float) -> Chart | None:
    """Gain (x) against forgetting (y), an arm a point, its seeds faint, the front joined, the base at the origin.

    The margins are percentage points; what lies beyond them is shaded. Columns: frames.arm_frame, frames.seed_frame.
    """
    rows = records(arms, "gain", "forgetting")
    if not rows:
        return None
    faint = records(seeds, "gain", "forgetting")
    plane = _Plane(rows, faint, retention_margin, min_gain)
    colour, shape = _family(rows, always=True, columns=6)
    at = {"x": plane.x("gain"), "y": plane.y("forgetting"), "color": colour}
    told = tooltips(
        ("arm", "arm", ""), ("seed", "seed", "d"), ("gain", "gain", "+.1f"), ("forgetting", "forgotten", "+.1f")
    )
    cloud = chart(faint).mark_point(filled=True, size=26, opacity=0.4).encode(**at, tooltip=told)
    chosen = [row for row in rows if row["recommended"]]
    ring = chart(chosen).mark_point(filled=False, size=360, strokeWidth=2, shape="circle").encode(**at)
    dots = chart(rows).mark_point(filled=True, size=95, opacity=1)
    dots = dots.encode(**at, shape=shape, tooltip=_arm_tooltip("gain", "forgetting"))
    front = [row for row in rows if row["on_front"]]
    line = chart(front).mark_line(strokeDash=[2, 3], color="gray")
    parts = [
        *_regions(plane, retention_margin, min_gain),
        line.encode(x=plane.x("gain"), y=plane.y("forgetting"), order="gain:Q"),
        cloud,
        *_crosses(rows, plane, colour),
        ring,
        dots,
        *_plane_labels(rows, faint, plane),
    ]
    title = f"The trade-off: gain against forgetting ({POINTS})"
    return layer(*parts).properties(width=PLANE_WIDTH, height=PLANE_HEIGHT, title=title)


def _crosses(rows: list[Record], plane: _Plane, colour: alt.Color) -> list[alt.Chart]:
    def known(measure: str) -> list[Record]:
        return [row for row in rows if row[f"{measure}_low"] is not None and row[f"{measure}_high"] is not None]

    across = chart(known("gain")).mark_rule(strokeWidth=1.3, opacity=0.75)
    upright = chart(known("forgetting")).mark_rule(strokeWidth=1.3, opacity=0.75)
    return [
        across.encode(x=plane.x("gain_low"), x2="gain_high:Q", y=plane.y("forgetting"), color=colour),
        upright.encode(y=plane.y("forgetting_low"), y2="forgetting_high:Q", x=plane.x("gain"), color=colour),
    ]


def _regions(plane: _Plane, retention_margin: float, min_gain: float) -> list[alt.Chart]:
    """Where an arm forgets more than the margin, and where it gains less than the least gain that counts."""
    (left, right), (bottom, top) = plane.x_limits, plane.y_limits
    boxes = [
        {"x0": left, "x1": right, "y0": retention_margin, "y1": top},
        {"x0": left, "x1": min_gain, "y0": bottom, "y1": retention_margin},
    ]
    shade = chart(boxes).mark_rect(opacity=0.1, color="gray")
    limit = chart([{"at": retention_margin, "text": f"margin {retention_margin:g}"}])
    least = chart([{"at": min_gain, "text": f"least gain {min_gain:g}"}])
    text_y, text_x = limit.mark_text(align="left", dx=5, fontSize=11), least.mark_text(align="left", dy=-7, fontSize=11)
    return [
        shade.encode(x=plane.x("x0"), x2="x1:Q", y=plane.y("y0"), y2="y1:Q"),
        limit.mark_rule(strokeDash=[5, 4], color="gray").encode(y=plane.y("at")),
        text_y.encode(x=alt.value("width"), y=plane.y("at"), text="text:N"),
        least.mark_rule(strokeDash=[5, 4], color="gray").encode(x=plane.x("at")),
        text_x.encode(x=plane.x("at"), y=alt.value(0), text="text:N"),
    ]


def _plane_labels(rows: list[Record], faint: list[Record], plane: _Plane) -> list[alt.Chart]:
    """A name beside each point and the base, clear of points and crosses where there is room."""
    base: Record = {"gain": 0.0, "forgetting": 0.0, "arm": "base"}
    named = [base, *sorted(rows, key=lambda row: (not row["recommended"], not row["on_front"], row["order"]))]
    anchors = [(row["gain"], row["forgetting"], str(row["arm"])) for row in named]
    spots = [(x, y) for x, y, _ in anchors] + [(row["gain"], row["forgetting"]) for row in faint]
    for row in rows:
        spots += between((row["gain_low"], row["forgetting"]), (row["gain_high"], row["forgetting"]))
        spots += between((row["gain"], row["forgetting_low"]), (row["gain"], row["forgetting_high"]))
    front = sorted((row["gain"], row["forgetting"]) for row in rows if row["on_front"])
    for start, end in pairwise(front):
        spots += between(start, end, 40)
    placed = place_labels(anchors, spots, plane.x_limits, plane.y_limits, (PLANE_WIDTH, PLANE_HEIGHT))
    labels = [
        {"text": row["arm"], "x": plain(at[0]), "y": plain(at[1])}
        for row, at in zip(named, placed, strict=True)
        if at is not None
    ]
    origin = chart([base]).mark_point(shape="cross", size=110, filled=True, color="gray", opacity=1)
    text = chart(labels).mark_text(fontSize=11)
    return [
        origin.encode(x=plane.x("gain"), y=plane.y("forgetting")),
        text.encode(x=plane.x("x"), y=plane.y("y"), text="text:N"),
    ]
