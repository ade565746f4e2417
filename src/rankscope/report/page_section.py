"""A section of the page and its parts, and how a chart becomes one of its figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from rankscope.records import Verdict
from rankscope.report.chart_drawing import Chart, spec_of


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
    """One base model and training set with its ready frames."""

    verdict: Verdict
    name: str
    arms: pd.DataFrame
    seeds: pd.DataFrame
    margins: dict[str, float]


def figure(chart: Chart | None, caption: str, name: str = "") -> list[Figure]:
    if chart is None:
        return []
    spec = spec_of(chart)
    if name:
        title = spec.get("title")
        spec["title"] = {"text": title, "subtitle": name}
        caption = f"{name}: {caption}"
    return [Figure(spec, caption)]


def each(pairs: Sequence[Pair], draw: Callable[[Pair], Chart | None], caption: str) -> list[Figure]:
    name_it = len(pairs) > 1
    return [drawn for pair in pairs for drawn in figure(draw(pair), caption, pair.name if name_it else "")]
