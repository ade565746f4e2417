"""Charts of what is traded for what: gain against forgetting, and recall against reasoning."""

from __future__ import annotations

from itertools import pairwise

import altair as alt
import pandas as pd

from rankscope.report.chart_drawing import (
    PLOT_WIDTH,
    SHAPES,
    Chart,
    Figure,
    Pair,
    Record,
    Section,
    Tables,
    arm_axis,
    between,
    chart,
    domain,
    each,
    inline,
    layer,
    panel_header,
    place_labels,
    plain,
    records,
    tooltips,
)
from rankscope.report.rank_charts import ENDS, arm_tooltip, family_marks
from rankscope.report.suite_changes import change_frame, change_tooltip
from rankscope.report.units import IN_NATS, IN_POINTS, MEASURES, POINTS_ALONE, Unit, Units, title_units

PLANE_HEIGHT = 340

# ---- gain against forgetting ----------------------------------------------------------------------------------------


class _Plane:
    """The plane's two scales with their limits, fixed so that labels can be placed before anything is drawn."""

    def __init__(
        self, rows: list[Record], faint: list[Record], retention_margin: float, min_gain: float, units: Units
    ) -> None:
        self._units = units
        gains = [row[f"gain{end}"] for row in rows for end in ENDS] + [row["gain"] for row in faint]
        losses = [row[f"forgetting{end}"] for row in rows for end in ENDS] + [row["forgetting"] for row in faint]
        self.x_limits = domain(gains, include=(0, min_gain))
        self.y_limits = domain(losses, include=(0, 1.3 * retention_margin))
        self._x = alt.Scale(domain=list(self.x_limits), nice=False, zero=False)
        self._y = alt.Scale(domain=list(self.y_limits), nice=False, zero=False)

    def x(self, field: str) -> alt.X:
        title = f"Gain on in-domain suites ({self._units['gain'].name}): right is better"
        return alt.X(f"{field}:Q", scale=self._x, title=title, axis=alt.Axis(tickCount=10))

    def y(self, field: str) -> alt.Y:
        title = f"Forgetting elsewhere ({self._units['forgetting'].name}): down is better"
        return alt.Y(f"{field}:Q", scale=self._y, title=title, axis=alt.Axis(tickCount=7))


def tradeoff_chart(
    arms: pd.DataFrame,
    seeds: pd.DataFrame,
    *,
    retention_margin: float,
    min_gain: float,
    units: Units = POINTS_ALONE,
) -> Chart | None:
    """Gain (x) against forgetting (y), an arm a point, its seeds faint, the front joined, the base at the origin.

    The margins are as shown, in `units`; what lies beyond them is shaded. Columns: `arm_frame`'s and `seed_frame`'s.
    """
    rows = records(arms, "gain", "forgetting")
    if not rows:
        return None
    faint = records(seeds, "gain", "forgetting")
    plane = _Plane(rows, faint, retention_margin, min_gain, units)
    colour, shape = family_marks(rows, always=True, columns=6)
    at = {"x": plane.x("gain"), "y": plane.y("forgetting"), "color": colour}
    told = tooltips(("arm", "arm", ""), ("seed", "seed", "d"), *((m, m, units[m].form(m)) for m in MEASURES))
    cloud = chart(faint).mark_point(filled=True, size=26, opacity=0.4).encode(**at, tooltip=told)
    chosen = [row for row in rows if row["recommended"]]
    ring = chart(chosen).mark_point(filled=False, size=360, strokeWidth=2, shape="circle").encode(**at)
    dots = chart(rows).mark_point(filled=True, size=95, opacity=1)
    dots = dots.encode(**at, shape=shape, tooltip=arm_tooltip(units, *MEASURES))
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
    title = f"The trade-off: gain against forgetting ({title_units(units)})"
    return layer(*parts).properties(width=PLOT_WIDTH, height=PLANE_HEIGHT, title=title)


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
    placed = place_labels(anchors, spots, plane.x_limits, plane.y_limits, (PLOT_WIDTH, PLANE_HEIGHT))
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


def tradeoff_of(pair: Pair) -> Chart | None:
    """The plane of one base model and training set."""
    retention, gain = pair.margin("forgetting"), pair.margin("gain")
    return tradeoff_chart(pair.arms, pair.seeds, retention_margin=retention, min_gain=gain, units=pair.units)


def tradeoff_section(pairs: list[Pair]) -> Section:
    """Gain against forgetting, for every pair."""
    return Section(
        "tradeoff",
        "The trade-off",
        "What was learned against what was forgotten, an arm a point.",
        "Right and down is better. Crosses are intervals, faint points single seeds, the dotted line joins the arms "
        "that no other arm beats on both axes, a ring marks the recommended arm. Shaded: more forgetting than the "
        "margin allows, or less gain than counts. Where names would overlap, the tooltip has them.",
        each(pairs, tradeoff_of, "gain against forgetting, one point an arm"),
        "No arm has both gain and forgetting: that needs an in-domain suite and one outside the training domain.",
    )


# ---- recall and reasoning -------------------------------------------------------------------------------------------


def kind_chart(kinds: pd.DataFrame, unit: Unit = IN_POINTS) -> Chart | None:
    """Gain or forgetting on recall and on reasoning, arms in order of size; a panel for each relation to the training
    set. Columns: those of `change_frame`."""
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
    told = tooltips(("arm", "arm", ""), ("kind", "kind", ""), ("relation", "relation", ""), *change_tooltip(unit))
    amount = f"{unit.short.capitalize()}"
    whole = "isValid(datum.amount_low) && isValid(datum.amount_high)"
    bars = alt.Chart().transform_filter(whole).mark_rule(strokeWidth=1.6)
    dots = alt.Chart().mark_point(filled=True, size=65, opacity=1)
    parts = layer(
        alt.Chart().mark_rule(color="gray").encode(y=alt.datum(0)),
        bars.encode(x=x, xOffset=offset, y=alt.Y("amount_low:Q", title=amount), y2="amount_high:Q", color=colour),
        dots.encode(x=x, xOffset=offset, y=alt.Y("amount:Q", title=amount), color=colour, shape=shape, tooltip=told),
    )
    panels = {
        "in-domain": "gained on suites in the domain",
        "out-of-domain": "forgotten of suites of other domains",
        "general": "forgotten of suites without a domain",
    }
    for entry in rows:
        entry["panel"] = panels[str(entry["relation"])]
    row = alt.Row("panel:N", sort=list(panels.values()), header=panel_header())
    faceted = parts.properties(width=PLOT_WIDTH, height=110).facet(row=row, data=inline(rows))
    title = f"Recall and reasoning: gain and forgetting ({unit.name})"
    return faceted.resolve_scale(y="independent").properties(title=title)


def kind_section(pairs: list[Pair], tables: Tables) -> Section:
    """Recall and reasoning by arm, for every pair."""

    def kinds(unit: Unit) -> list[Figure]:
        def draw(pair: Pair) -> Chart | None:
            return kind_chart(change_frame(tables.get("kinds"), [pair.verdict], unit), unit)

        return each(pairs, draw, f"gain and forgetting on recall and on reasoning suites by arm, in {unit.short}")

    return Section(
        "kinds",
        "Recall and reasoning",
        "Whether knowledge (recall) or skill (reasoning) moved more.",
        "Arms from the fewest trainable parameters to the most; each panel has its own scale. What is gained in the "
        "domain is better above 0, what is forgotten elsewhere is worse above 0.",
        [*kinds(IN_POINTS), *kinds(IN_NATS)],
        "No suite names its kind, or none was scored for both the base and an arm.",
    )
