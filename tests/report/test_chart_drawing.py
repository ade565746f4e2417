"""Every chart of the page is valid Vega-Lite with its units, and labels never cover one another."""

from __future__ import annotations

import json
from typing import Any

import pandas as pd
import pytest
from made_report import make_search, make_tables, make_verdict

from rankscope.report.chart_drawing import domain, place_labels, plain, spec_of, spread
from rankscope.report.cost_charts import cost_chart, cost_frame
from rankscope.report.rank_charts import arm_frame, rank_chart, seed_frame
from rankscope.report.suite_changes import change_frame, matrix_chart
from rankscope.report.tradeoff_charts import kind_chart, tradeoff_chart
from rankscope.report.training_charts import learning_chart, learning_frame, search_chart, search_frame

MARGINS = {"retention_margin": 3.0, "min_gain": 1.0}


@pytest.fixture(scope="module")
def verdict() -> Any:
    return make_verdict()


@pytest.fixture(scope="module")
def arms(verdict: Any) -> pd.DataFrame:
    return arm_frame(verdict)


@pytest.fixture(scope="module")
def tables(verdict: Any) -> dict[str, pd.DataFrame]:
    return make_tables([verdict])


def every_chart(verdict: Any, arms: pd.DataFrame, tables: dict[str, pd.DataFrame]) -> dict[str, Any]:
    change = {name: change_frame(tables[name], [verdict]) for name in ("matrix", "forgetting", "kinds")}
    seeds = seed_frame(tables["seeds"], arms)
    return {
        "gain": rank_chart(arms, "gain", margin=1.0, margin_name="least gain"),
        "forgetting": rank_chart(arms, "forgetting", margin=3.0, margin_name="margin"),
        "plane": tradeoff_chart(arms, seeds, **MARGINS),
        "domains": matrix_chart(change["matrix"], "domain", "Change"),
        "suites": matrix_chart(change["forgetting"], "suite", "Change"),
        "kinds": kind_chart(change["kinds"]),
        "learning": learning_chart(learning_frame(tables["learning"], tables["cost"], arms, 50)),
        "searches": search_chart(search_frame([make_search("lora-r4"), make_search("full")])),
        "cost": cost_chart(cost_frame(arms)),
    }


def test_every_chart_validates_and_names_its_units(
    verdict: Any, arms: pd.DataFrame, tables: dict[str, pd.DataFrame]
) -> None:
    for name, chart in every_chart(verdict, arms, tables).items():
        assert chart is not None, name
        chart.to_dict()  # altair validates against the schema of Vega-Lite
        text = json.dumps(spec_of(chart), allow_nan=False)
        assert any(unit in text for unit in ("percentage points", "nats per token", "seconds, one run")), name
        assert '"tooltip"' in text, name


def test_nothing_to_draw_is_none(arms: pd.DataFrame) -> None:
    nothing = pd.DataFrame()
    assert rank_chart(arms[arms["arm"] == "full"], "gain", margin=1.0, margin_name="m") is None
    assert tradeoff_chart(arms.assign(forgetting=None), nothing, **MARGINS) is None
    assert matrix_chart(nothing, "suite", "Change") is None
    assert kind_chart(nothing) is None
    assert learning_chart(nothing) is None
    assert search_chart(nothing) is None
    untimed = arms.assign(train_seconds=None, peak_memory_bytes=None, adapter_bytes=None)
    assert cost_chart(cost_frame(untimed)) is None


# ---- where things go ------------------------------------------------------------------------------------------------


def test_labels_under_one_another_do_not_touch() -> None:
    heights = spread([1.0, 1.01, 1.02, 5.0], (0.0, 6.0), 300)
    gaps = sorted(b - a for a, b in zip(sorted(heights), sorted(heights)[1:], strict=False))
    assert gaps[0] >= 13 * 6.0 / 300 - 1e-9
    assert max(spread([5.9, 5.95, 6.0], (0.0, 6.0), 300)) <= 6.0 + 1e-9


def test_labels_of_points_never_cover_one_another() -> None:
    anchors = [(0.5 + 0.001 * i, 0.5, f"lora-attention-r{i}") for i in range(40)]
    placed = place_labels(anchors, [], (0.0, 1.0), (0.0, 1.0), (700, 400))
    boxes = [
        (x * 700, y * 400, len(t) * 3.1) for at, (_, _, t) in zip(placed, anchors, strict=True) if at for x, y in [at]
    ]
    assert 4 <= len(boxes) < len(anchors)
    for i, (x, y, half) in enumerate(boxes):
        assert all(abs(x - ox) >= half + ow or abs(y - oy) >= 12 - 1e-6 for ox, oy, ow in boxes[:i])


def test_an_axis_of_one_value_has_room() -> None:
    low, high = domain([2.0, None, float("nan")])
    assert low < 2.0 < high


@pytest.mark.parametrize("missing", [None, float("nan"), pd.NA, pd.NaT, float("inf")])
def test_missing_is_none_in_the_page(missing: Any) -> None:
    assert plain(missing) is None
