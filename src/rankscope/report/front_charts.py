"""The fronts: what each arm gains and forgets over rate and dial, and what it is worth at other margins."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import numpy as np
import pandas as pd
from scipy.optimize import isotonic_regression

from rankscope.records import WorthAt
from rankscope.records.readable_numbers import NOT_MEASURED, rate
from rankscope.report.chart_drawing import (
    PLOT_WIDTH,
    SHAPES,
    Chart,
    Pair,
    Record,
    Tables,
    chart,
    domain,
    layer,
    records,
    tooltips,
)
from rankscope.report.page_tables import Cell, DataTable
from rankscope.report.rank_charts import ENDS, measure_tooltip, of_pair
from rankscope.report.units import MEASURES, POINTS_ALONE, Units, title_units

FRONT_HEIGHT = 400

# ---- the picture ----------------------------------------------------------------------------------------------------


def front_frame(points: pd.DataFrame, arms: pd.DataFrame, units: Units = POINTS_ALONE) -> pd.DataFrame:
    """The points of one base model and training set, as they are shown in `units`, in the order of `arm_frame`'s arms.

    `points`: the columns of tables/operating_points.parquet.
    The setting that was chosen has the numbers of `arms`, which the answer has too: their intervals hold at once, those
    of the table each for itself. A rate that was only searched has no gain of its own: it is put where the judged
    points' gain has its validation loss (never rising with the loss), and its forgetting is that of the items that
    choose. Columns: arm, order, curve, learning_rate, dial, seeds, judged, chosen, and gain and
    forgetting with their ends.
    """
    columns = {f"{m}{end}": f"{m}{units[m].suffix}{end}" for m in MEASURES for end in ENDS}
    if points.empty or arms.empty or not set(columns.values()) <= set(points.columns):
        return pd.DataFrame()
    frame = points.merge(arms[["arm", "order"]].astype({"order": int}), on="arm")
    for name, column in columns.items():
        factor = units[name.split("_")[0]].factor
        frame[name] = factor * floats_of(frame[column])
    unit = units["forgetting"]
    frame["forgetting_select"] = unit.factor * floats_of(frame[f"forgetting_select{unit.suffix}"])
    frame["judged"] = frame["gain"].notna() & frame["forgetting"].notna()
    keys = ["arm", "learning_rate", "dial"]
    frame = frame.sort_values(["judged", "chosen"], ascending=False).drop_duplicates(keys)
    frame = _as_the_answer_has_them(frame, arms, list(columns))
    loss = floats_of(frame["validation_loss"])
    judged = frame["judged"] & loss.notna()
    if judged.any():
        searched = ~frame["judged"]
        falling = -isotonic_regression(-frame.loc[judged, "gain"].to_numpy()[np.argsort(loss[judged].to_numpy())]).x
        frame.loc[searched, "gain"] = np.interp(loss[searched], np.sort(loss[judged].to_numpy()), falling)
        frame.loc[searched, "forgetting"] = frame.loc[searched, "forgetting_select"]
    known = frame["learning_rate"].notna()  # not of an arm that was trained elsewhere
    frame["curve"] = frame["arm"].where(~known, frame["arm"] + " at " + frame["learning_rate"].map(rate))
    return frame.sort_values(["order", "judged", "learning_rate", "dial"]).reset_index(drop=True)


def floats_of(column: pd.Series) -> pd.Series:
    """A column of a table as plain floats, NaN where it is null."""
    return column.astype("Float64").astype(float)


def _as_the_answer_has_them(frame: pd.DataFrame, arms: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """The judged points at the chosen settings with the arms' own means and intervals."""
    own = {str(row["arm"]): row for row in records(arms, *MEASURES)}
    chosen = frame["chosen"].astype(bool) & frame["judged"] & frame["arm"].isin(list(own))
    for column in columns:
        values = [own.get(str(arm), {}).get(column) for arm in frame["arm"]]
        answers = pd.Series([np.nan if value is None else value for value in values], frame.index, dtype=float)
        frame[column] = frame[column].where(~chosen, answers)
    return frame


class _Axes:
    """The two scales: they hold what is judged and the margin; hollow points far beyond are cut off at the edge."""

    def __init__(self, judged: list[Record], hollow: list[Record], margins: Sequence[float], units: Units) -> None:
        self._units = units
        gains = [row[f"gain{end}"] for row in judged for end in ENDS] + [row["gain"] for row in hollow]
        losses = [row["forgetting"] for row in judged]
        losses += [row[f"forgetting{end}"] for row in judged if row["chosen"] for end in ENDS[1:]]
        top = max([3 * margins[0], *(loss for loss in losses if loss is not None)])
        within = [loss for loss in (row["forgetting"] for row in hollow) if loss is not None and loss <= top]
        self.x_limits = domain(gains, include=(0,))
        self.y_limits = domain([*losses, *within], include=(0, 1.3 * margins[0], *margins[1:]))
        self._x = alt.Scale(domain=list(self.x_limits), nice=False, zero=False)
        self._y = alt.Scale(domain=list(self.y_limits), nice=False, zero=False)

    def x(self, field: str = "gain") -> alt.X:
        return alt.X(
            f"{field}:Q", scale=self._x, title=f"Gain on in-domain suites ({self._units['gain'].name}): right is better"
        )

    def y(self, field: str = "forgetting") -> alt.Y:
        return alt.Y(
            f"{field}:Q",
            scale=self._y,
            title=f"Forgetting elsewhere ({self._units['forgetting'].name}): down is better",
        )


def front_chart(
    frame: pd.DataFrame,
    *,
    retention_margin: float,
    worth: Sequence[WorthAt] = (),
    units: Units = POINTS_ALONE,
) -> Chart | None:
    """Forgetting (y) against gain (x), a curve for each arm and rate over its dials; the margin is as shown.

    Filled: judged by all seeds, with intervals. Hollow: other rates, from the search's one seed. A ring: the setting
    that each arm would have at the margin. The margin is the chart's parameter `margin` (points or nats), which a page
    may turn to any amount that `worth` has settings for. Columns: those of `front_frame`, in `units`.
    """
    rows = records(frame, "gain", "forgetting")
    if not rows:
        return None
    judged = [row for row in rows if row["judged"]]
    hollow = [row for row in rows if not row["judged"]]
    names = list(dict.fromkeys(str(row["arm"]) for row in sorted(rows, key=lambda row: row["order"])))
    allowed = {at for one in worth if (at := units["forgetting"].worth(one, "allowed")) is not None}
    plane = _Axes(judged, hollow, [retention_margin, *sorted(allowed)], units)
    legend = alt.Legend(title=None, orient="top", symbolOpacity=1, columns=6)
    colour = alt.Color("arm:N", scale=alt.Scale(domain=names), legend=legend)
    shapes = [SHAPES[i % len(SHAPES)] for i in range(len(names))]
    shape = alt.Shape("arm:N", scale=alt.Scale(domain=names, range=shapes), legend=legend)
    parts = [*_beyond(plane), *_curves(rows, plane, colour), *_bars(judged, plane, colour)]
    parts += [*_dots(judged, hollow, plane, (colour, shape), units), _rings(judged, worth, plane, colour, units)]
    drawn = layer(*parts).add_params(alt.param(name="margin", value=retention_margin))
    return drawn.properties(
        width=PLOT_WIDTH, height=FRONT_HEIGHT, title=f"Gain against forgetting ({title_units(units)})"
    )


def _beyond(plane: _Axes) -> list[alt.Chart]:
    """What forgets more than the parameter `margin`, shaded, and the base at the origin."""
    (left, right), (_, top) = plane.x_limits, plane.y_limits
    box = chart([{"x0": left, "x1": right, "y1": top}]).transform_calculate(y0=f"min(margin, {top:.6g})")
    line = chart([{}]).transform_calculate(at="margin", text="'allowed ' + format(margin, '~g')")
    base = chart([{"gain": 0.0, "forgetting": 0.0}]).mark_point(shape="cross", size=110, filled=True, color="gray")
    text = line.mark_text(align="left", dx=5, fontSize=11)
    return [
        box.mark_rect(opacity=0.1, color="gray").encode(x=plane.x("x0"), x2="x1:Q", y=plane.y("y0"), y2="y1:Q"),
        line.mark_rule(strokeDash=[5, 4], color="gray").encode(y=plane.y("at")),
        text.encode(x=alt.value("width"), y=plane.y("at"), text="text:N"),
        base.encode(x=plane.x(), y=plane.y()),
    ]


def _curves(rows: list[Record], plane: _Axes, colour: alt.Color) -> list[alt.Chart]:
    """A line over the dials of each arm and rate, from the base's cross on; dashed where it was not judged."""
    lines = []
    for judged, dash in ((False, [2, 3]), (True, [1, 0])):
        own = [row for row in rows if bool(row["judged"]) == judged]
        starts = sorted({(row["curve"], row["arm"]) for row in own})
        base = [{"curve": s, "arm": a, "gain": 0.0, "forgetting": 0.0, "dial": 0.0} for s, a in starts]
        drawn = chart([*base, *own]).mark_line(strokeDash=dash, strokeWidth=1.6, opacity=0.8, clip=True)
        lines.append(drawn.encode(x=plane.x(), y=plane.y(), color=colour, detail="curve:N", order="dial:Q"))
    return lines


def _bars(judged: list[Record], plane: _Axes, colour: alt.Color) -> list[alt.Chart]:
    """Intervals, of the chosen settings only: those of all dials would hide the curves."""
    own = [row for row in judged if row["chosen"]]
    across = chart([row for row in own if row["gain_low"] is not None]).mark_rule(strokeWidth=1.2, opacity=0.6)
    upright = chart([row for row in own if row["forgetting_low"] is not None]).mark_rule(strokeWidth=1.2, opacity=0.6)
    return [
        across.encode(x=plane.x("gain_low"), x2="gain_high:Q", y=plane.y(), color=colour),
        upright.encode(y=plane.y("forgetting_low"), y2="forgetting_high:Q", x=plane.x(), color=colour),
    ]


def _dots(
    judged: list[Record], hollow: list[Record], plane: _Axes, marks: tuple[alt.Color, alt.Shape], units: Units
) -> list[alt.Chart]:
    colour, shape = marks
    told = tooltips(
        ("arm", "arm", ""), ("learning_rate", "learning rate", ".2~e"), ("dial", "dial", ".2~f"),
        ("seeds", "seeds", "d"),
        *measure_tooltip(units, *MEASURES),
    )  # fmt: skip
    at = {"x": plane.x(), "y": plane.y(), "color": colour}
    open_dots = chart(hollow).mark_point(filled=False, size=45, opacity=0.9, clip=True)
    dots = chart(judged).mark_point(filled=True, size=75, opacity=1)
    return [
        open_dots.encode(**at, shape=shape, tooltip=told),
        dots.encode(**at, shape=shape, tooltip=told),
    ]


def _rings(judged: list[Record], worth: Sequence[WorthAt], plane: _Axes, colour: alt.Color, units: Units) -> alt.Chart:
    """Around the settings at the parameter `margin`, or where other margins are not known around those judged at."""
    gain, lost = units["gain"], units["forgetting"]
    found: list[Record] = [
        {
            "arm": one.arm, "allowed": lost.worth(one, "allowed"), "gain": gain.worth(one, "gain"),
            "forgetting": lost.worth(one, "forgetting"),
        }
        for one in worth
        if one.admissible
    ]  # fmt: skip
    rows = [row for row in found if None not in row.values()]
    ring = chart(rows or [row for row in judged if row["chosen"]])
    ring = ring.transform_filter("abs(datum.allowed - margin) < 1e-6") if rows else ring
    return ring.mark_point(size=330, strokeWidth=2, shape="circle").encode(x=plane.x(), y=plane.y(), color=colour)


def has_front(pair: Pair, tables: Tables) -> bool:
    """Whether there is such a picture."""
    frame = front_frame(of_pair(tables.get("operating_points"), pair.verdict), pair.arms, pair.units)
    return bool(records(frame, "gain", "forgetting"))


def front_of(pair: Pair, tables: Tables) -> Chart | None:
    """The picture of one base model and training set, its margin to be turned over the margins that are known."""
    frame = front_frame(of_pair(tables.get("operating_points"), pair.verdict), pair.arms, pair.units)
    worth = pair.verdict.at_other_margins
    return front_chart(frame, retention_margin=pair.margin("forgetting"), worth=worth, units=pair.units)


def margins_table(pairs: list[Pair]) -> DataTable:
    """What each arm is worth if so much forgetting is allowed."""
    several = len(pairs) > 1
    gain, lost = (" or ".join({pair.units[measure].short: None for pair in pairs}) for measure in MEASURES)
    columns = [
        *([("model, trained on", False)] if several else []),
        (f"{lost} allowed", True), ("arm", False), ("learning rate", True), ("dial", True), (f"gain ({gain})", True),
        (f"forgetting ({lost})", True), ("judged by", False),
    ]  # fmt: skip
    rows = []
    for pair in pairs:
        order = {arm.label: place for place, arm in enumerate(pair.verdict.arms_by_size)}
        lead = [Cell(pair.name, pair.name)] if several else []
        found = sorted(pair.verdict.at_other_margins, key=lambda one: (one.allowed, order.get(one.arm, len(order))))
        rows += [[*lead, *_margin_cells(one, pair.units)] for one in found]
    return DataTable("margins", "What each arm is worth at other margins", columns, rows)


def _margin_cells(one: WorthAt, units: Units) -> list[Cell]:
    values = [(units[measure], units[measure].worth(one, measure), measure) for measure in MEASURES]
    told = f"nobody yet: {one.runs_needed} runs would tell" if one.runs_needed else "all seeds"
    if not one.admissible:
        told += "; is expected to forget more"
    measured = [
        Cell(NOT_MEASURED, "") if value is None else Cell(unit.said(value, sign=measure == "gain"), value)
        for unit, value, measure in values
    ]
    allowed = units["forgetting"].worth(one, "allowed")
    return [
        Cell("" if allowed is None else f"{allowed:.3g}", "" if allowed is None else allowed),
        Cell(one.arm, one.arm),
        Cell(rate(one.learning_rate), one.learning_rate if one.learning_rate is not None else ""),
        Cell(f"{one.dial:g}", one.dial),
        *measured,
        Cell(told, told),
    ]
