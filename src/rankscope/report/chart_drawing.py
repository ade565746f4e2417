"""Draws with altair: typed wrappers, axes, labels that do not overlap, and how a chart becomes a figure of the page.

Charts compute no statistic; they draw the columns that they are given. Colours come from the page's theme (safe for
colour-blind readers, light and dark), and shapes and dashes repeat what colours say. A chart is None where there is
nothing to draw; its section then says why.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import altair as alt
import pandas as pd

from rankscope.records import Verdict
from rankscope.records.readable_numbers import is_number
from rankscope.report.units import POINTS_ALONE, Units
from rankscope.study.study import Decision

Chart = alt.Chart | alt.LayerChart | alt.FacetChart | alt.HConcatChart | alt.ConcatChart
Record = dict[str, Any]
Tables = Mapping[str, pd.DataFrame]
"""The tables of a study folder, by name (docs/records.md)."""

SHAPES = ["circle", "square", "triangle-up", "diamond", "cross", "triangle-down"]
LABEL_PIXELS = 13
CHARACTER_PIXELS = 6.2
WIDTH, HEIGHT = 345, 220
"""Pixels of a chart that takes half the page's width."""
PLOT_WIDTH = 780
"""Pixels of one that takes all of it."""


def records(frame: pd.DataFrame, *needed: str) -> list[Record]:
    """The rows in which every needed column is a finite number, as plain values; a missing cell is None."""
    if frame.empty or not set(needed) <= set(frame.columns):
        return []
    rows = [{str(key): plain(value) for key, value in row.items()} for row in frame.to_dict("records")]
    return [row for row in rows if all(is_number(row[name]) for name in needed)]


def plain(value: Any) -> Any:
    """A cell as JSON knows it: numpy scalars unwrapped, NaN, NA and infinities None."""
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if hasattr(value, "item"):
        value = value.item()
    if value is None or value is pd.NA or value is pd.NaT:
        return None
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value


def inline(rows: Sequence[Record]) -> Any:
    """Rows as inline data, in a string: altair copies and checks every value of a list each time a chart is touched.

    Typed loosely: altair's stubs know fewer kinds of data than its code.
    """
    text = json.dumps(list(rows), allow_nan=False, separators=(",", ":"))
    return alt.InlineData(values=text, format=alt.JsonDataFormat(type="json"))


def spec_of(drawn: Chart) -> dict[str, Any]:
    """The chart as a Vega-Lite spec with its data as rows; without version and theme, which the page brings."""
    spec: dict[str, Any] = drawn.to_dict(validate=False)
    for needless in ("$schema", "config"):
        spec.pop(needless, None)
    datasets = spec.get("datasets", {})
    spec["datasets"] = {name: json.loads(v) if isinstance(v, str) else v for name, v in datasets.items()}
    return spec


def chart(rows: Sequence[Record]) -> alt.Chart:
    """A chart of these rows, still without marks."""
    return alt.Chart(inline(rows))


def layer(*charts: alt.Chart) -> alt.LayerChart:
    """Charts over one another, the first at the back."""
    layered = alt.layer(*charts)
    assert isinstance(layered, alt.LayerChart)  # a FacetChart only where a part is one
    return layered


def tooltips(*fields: tuple[str, str, str]) -> list[alt.Tooltip]:
    """What the mouse shows, from (field, title, number format); a format of "" is text."""
    return [
        alt.Tooltip(field=field, type="quantitative", title=title, format=form)
        if form
        else alt.Tooltip(field=field, type="nominal", title=title)
        for field, title, form in fields
    ]


def domain(values: Iterable[float | None], *, include: Iterable[float] = (), pad: float = 0.06) -> tuple[float, float]:
    """An axis that shows every value with some air."""
    known = [value for value in [*values, *include] if value is not None and math.isfinite(value)]
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    span = (high - low) or 1.0
    return low - pad * span, high + pad * span


def spread(values: Sequence[float], limits: tuple[float, float], pixels: int) -> list[float]:
    """Heights for labels that stand one under another: near their value, never on top of each other."""
    gap = LABEL_PIXELS * (limits[1] - limits[0]) / pixels
    placed: dict[int, float] = {}
    below = -math.inf
    for index in sorted(range(len(values)), key=lambda i: values[i]):
        below = max(values[index], below + gap)
        placed[index] = below
    excess = max(0.0, below - limits[1])
    return [placed[index] - excess for index in range(len(values))]


def place_labels(
    anchors: Sequence[tuple[float, float, str]],
    obstacles: Sequence[tuple[float, float]],
    x_limits: tuple[float, float],
    y_limits: tuple[float, float],
    pixels: tuple[int, int],
) -> list[tuple[float, float] | None]:
    """Where each label's middle goes, in data units: the nearest of some places around its point that is free.

    `anchors` are (x, y, text), the most important first: a label that would cover an earlier one is None (left out).
    `obstacles` are points to keep clear of where there is room; `pixels` is the plot's (width, height).
    """
    x_unit = (x_limits[1] - x_limits[0]) / pixels[0]
    y_unit = (y_limits[1] - y_limits[0]) / pixels[1]
    points = [((x - x_limits[0]) / x_unit, (y - y_limits[0]) / y_unit) for x, y in obstacles]
    homes = [((x - x_limits[0]) / x_unit, (y - y_limits[0]) / y_unit) for x, y, _ in anchors]
    labels: list[tuple[float, float, float]] = []
    result: list[tuple[float, float] | None] = []
    for x, y, text in anchors:
        px, py = (x - x_limits[0]) / x_unit, (y - y_limits[0]) / y_unit
        half = len(text) * CHARACTER_PIXELS / 2
        best: tuple[float, float, float] | None = None
        for cx, cy in _places(px, py, half):
            outside = cx - half < 0 or cx + half > pixels[0] or cy < 6 or cy > pixels[1] - 6
            if outside or any(abs(cx - lx) < half + lw + 3 and abs(cy - ly) < 12 for lx, ly, lw in labels):
                continue
            hits = sum(abs(cx - ox) < half + 3 and abs(cy - oy) < 9 for ox, oy in points)
            own = _distance(px, py, cx, cy, half)
            astray = any(_distance(ox, oy, cx, cy, half) < own - 1 for ox, oy in homes)
            cost = 10 * hits + 45 * astray + 0.02 * math.hypot(cx - px, cy - py)
            if best is None or cost < best[0]:
                best = (cost, cx, cy)
        if best is None:
            result.append(None)
            continue
        labels.append((best[1], best[2], half))
        result.append((x_limits[0] + best[1] * x_unit, y_limits[0] + best[2] * y_unit))
    return result


def _distance(x: float, y: float, label_x: float, label_y: float, half: float) -> float:
    """From a point to a label's box, in pixels."""
    return math.hypot(max(abs(x - label_x) - half, 0.0), max(abs(y - label_y) - 6.0, 0.0))


def between(
    start: tuple[float | None, float | None], end: tuple[float | None, float | None], count: int = 12
) -> list[tuple[float, float]]:
    """Points along a line, both ends among them; none where an end is not known."""
    (x0, y0), (x1, y1) = start, end
    if x0 is None or y0 is None or x1 is None or y1 is None:
        return []
    return [(x0 + (x1 - x0) * i / count, y0 + (y1 - y0) * i / count) for i in range(count + 1)]


def _places(px: float, py: float, half: float) -> list[tuple[float, float]]:
    sides = [(px + (half + 9) * sx, py + dy) for sx in (1, -1) for dy in (11, -11, 24, -24, 37, -37)]
    return [*sides, (px, py + 18), (px, py - 18), (px, py + 32), (px, py - 32)]


def panel_header() -> alt.Header:
    """The heading of a panel, bold, above it at the left."""
    return alt.Header(title=None, labelAnchor="start", labelFontWeight="bold", labelOrient="top")


def arm_axis(rows: Sequence[Record]) -> list[str]:
    """Arm labels in the order of trainable parameters."""
    return list(dict.fromkeys(str(label) for _, label in sorted({(row["order"], row["arm"]) for row in rows})))


def short_names(names: Sequence[str], most: int) -> dict[str, str]:
    """A label for each name of at most about `most` characters: the middle of a longer one is left out.

    Where two then look alike, what they begin and end with in common is left out instead, so that they differ.
    """
    found = {name: cut_label(name, most) for name in names}
    for label in [label for label, count in Counter(found.values()).items() if count > 1]:
        alike = [name for name in found if found[name] == label]
        start = _common([*alike])
        end = _common([name[start:][::-1] for name in alike])
        for name in alike:
            own = name[max(0, start - 2) : len(name) - end + 2 if end > 2 else len(name)]
            found[name] = f"…{own}" if len(own) <= most else f"…{own[:most]}…"
    return found


def _common(texts: Sequence[str]) -> int:
    """How many characters all these texts begin with in common."""
    columns = (len(set(column)) for column in zip(*texts, strict=False))
    return next((place for place, kinds in enumerate(columns) if kinds > 1), min(map(len, texts)))


def cut_label(name: str, most: int) -> str:
    """The name, or its beginning and its end where it is longer."""
    head = (most - 1) // 2
    return name if len(name) <= most else f"{name[:head]}…{name[head - most + 1 :]}"


def label_expression(short: Mapping[str, str]) -> dict[str, Any]:
    """What an axis needs to write these labels in the place of the names; nothing where all are as they are."""
    cut = {name: label for name, label in short.items() if name != label}
    return {"labelExpr": f"({json.dumps(cut)})[datum.label] || datum.label"} if cut else {}


# ---- sections of the page -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Figure:
    """A chart as a Vega-Lite spec, with the words that a reader who cannot see it gets."""

    spec: dict[str, Any]
    caption: str


@dataclass(frozen=True)
class Section:
    """`shows` is what the section shows, `reads` how to read it. Without figures, `missing` says why."""

    id: str
    title: str
    shows: str
    reads: str
    figures: list[Figure] = field(default_factory=list)
    missing: str = ""
    wide: bool = True


@dataclass(frozen=True)
class Pair:
    """One base model and training set with its ready frames (rank_charts.py), which are in `units`, and its margins."""

    verdict: Verdict
    name: str
    arms: pd.DataFrame
    seeds: pd.DataFrame
    decision: Decision
    units: Units = field(default_factory=lambda: POINTS_ALONE)

    def margin(self, measure: str) -> float:
        """The least gain that counts, or the forgetting that is allowed, as it is shown."""
        return self.units[measure].margin(self.decision, measure)


def figure(drawn: Chart | None, caption: str, name: str = "") -> list[Figure]:
    """The chart as a figure, none where nothing was drawn; `name` tells the pairs of a study apart."""
    if drawn is None:
        return []
    spec = spec_of(drawn)
    if name:
        title = spec.get("title")
        spec["title"] = {"text": title, "subtitle": name}
        caption = f"{name}: {caption}"
    return [Figure(spec, caption)]


def each(pairs: Sequence[Pair], draw: Callable[[Pair], Chart | None], caption: str) -> list[Figure]:
    """A figure for each pair for which there is something to draw."""
    name_it = len(pairs) > 1
    return [drawn for pair in pairs for drawn in figure(draw(pair), caption, pair.name if name_it else "")]
