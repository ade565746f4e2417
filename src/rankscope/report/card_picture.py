"""Charts as PNG: the picture beside a model card."""

from __future__ import annotations

from typing import Any

import pandas as pd
import vl_convert

from rankscope.records import Verdict
from rankscope.report.chart_drawing import Chart, spec_of
from rankscope.report.rank_charts import make_pair
from rankscope.report.tradeoff_charts import tradeoff_of
from rankscope.report.units import units_of
from rankscope.study.study import Decision

_SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"  # a name: nothing is loaded from there
CONFIG: dict[str, Any] = {
    "background": "white",
    "view": {"stroke": None},
    "axis": {"gridColor": "#e3e6ea", "labelColor": "#59626d", "titleColor": "#59626d", "titleFontWeight": "normal"},
    "title": {"anchor": "start", "color": "#1b1f24", "fontSize": 14, "offset": 14},
    "range": {"category": ["#0072b2", "#d55e00", "#00845f", "#b0457f", "#8a6d00", "#3a9bd1", "#5b4ba8", "#4d4d4d"]},
}
"""The colours of page.js, after Okabe and Ito."""


def png(drawn: Chart) -> bytes:
    """The chart as PNG, one and a half times its size in pixels."""
    spec = {"$schema": _SCHEMA, **spec_of(drawn), "config": CONFIG}
    return bytes(vl_convert.vegalite_to_png(spec, scale=1.5))


def trade_off_png(verdict: Verdict, seeds: pd.DataFrame | None, decision: Decision) -> bytes | None:
    """Gain against forgetting of every arm, with the margins of the study. None where no arm has both."""
    tables = {} if seeds is None else {"seeds": seeds}
    drawn = tradeoff_of(make_pair(verdict, tables, decision, units_of(verdict)))
    return None if drawn is None else png(drawn)
