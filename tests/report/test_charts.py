"""Charts: valid Vega-Lite, drawing the columns as they were given, with the orders and units that they say."""

from __future__ import annotations

import json
from typing import Any

import pandas as pd
import pytest
from made_report import make_report, make_search, make_tables, make_verdict

from rankscope.report import chart_frames, charts, charts_tables
from rankscope.report.chart_drawing import domain, place_labels, plain, spec_of, spread

MARGINS = {"retention_margin": 3.0, "min_gain": 1.0}


@pytest.fixture(scope="module")
def verdict() -> Any:
    return make_verdict()


@pytest.fixture(scope="module")
def arms(verdict: Any) -> pd.DataFrame:
    return chart_frames.arm_frame(verdict)


@pytest.fixture(scope="module")
def tables(verdict: Any) -> dict[str, pd.DataFrame]:
    return make_tables([verdict])


def every_chart(verdict: Any, arms: pd.DataFrame, tables: dict[str, pd.DataFrame]) -> dict[str, Any]:
    change = {name: chart_frames.change_frame(tables[name], [verdict]) for name in ("matrix", "forgetting", "kinds")}
    seeds = chart_frames.seed_frame(tables["seeds"], arms)
    return {
        "gain": charts.against_rank(arms, "gain", margin=1.0, margin_name="least gain"),
        "forgetting": charts.against_rank(arms, "forgetting", margin=3.0, margin_name="margin"),
        "plane": charts.trade_off(arms, seeds, **MARGINS),
        "domains": charts_tables.matrix(change["matrix"], "domain", "Change"),
        "suites": charts_tables.matrix(change["forgetting"], "suite", "Change"),
        "kinds": charts_tables.by_kind(change["kinds"]),
        "learning": charts_tables.learning(chart_frames.learning_frame(tables["learning"], tables["cost"], arms, 50)),
        "searches": charts_tables.searches(chart_frames.search_frame([make_search("lora-r4"), make_search("full")])),
        "cost": charts_tables.cost(chart_frames.cost_frame(arms)),
    }


def rows_of(spec: dict[str, Any]) -> list[dict[str, Any]]:
    return [row for rows in spec["datasets"].values() for row in rows]


def test_every_chart_validates_and_names_its_units(
    verdict: Any, arms: pd.DataFrame, tables: dict[str, pd.DataFrame]
) -> None:
    for name, chart in every_chart(verdict, arms, tables).items():
        assert chart is not None, name
        chart.to_dict()  # altair validates against the schema of Vega-Lite
        text = json.dumps(spec_of(chart), allow_nan=False)
        assert any(unit in text for unit in ("percentage points", "nats per token", "seconds, one run")), name
        assert '"tooltip"' in text, name


def test_charts_draw_the_numbers_they_are_given(arms: pd.DataFrame) -> None:
    """Odd numbers that no statistic of one another could give stand in the chart as they are."""
    odd = arms.assign(gain=[11.125, 7.5, 13.0625, 2.25, 5.75, None])
    chart = charts.against_rank(odd, "gain", margin=1.0, margin_name="least gain")
    assert chart is not None
    drawn = {row["arm"]: row["gain"] for row in rows_of(spec_of(chart)) if "gain" in row}
    assert drawn == {row["arm"]: row["gain"] for row in odd.to_dict("records") if row["arm"] != "lora-r256"}


def test_full_fine_tuning_is_a_level_and_not_a_point_of_the_curve(arms: pd.DataFrame) -> None:
    chart = charts.against_rank(arms, "gain", margin=1.0, margin_name="least gain")
    assert chart is not None
    spec = spec_of(chart)
    lines = [entry for entry in spec["layer"] if entry["mark"]["type"] == "line"]
    curve = {row["arm"] for row in spec["datasets"][lines[0]["data"]["name"]]}
    assert curve == {"lora-r1", "lora-r4", "lora-r16", "lora-r64"}
    assert lines[0]["encoding"]["x"]["scale"]["type"] == "log"
    assert any(row.get("text") == "full" for row in rows_of(spec))


def test_without_an_interval_there_is_a_point_and_no_bar(arms: pd.DataFrame) -> None:
    chart = charts.against_rank(arms.assign(gain_low=None), "gain", margin=1.0, margin_name="least gain")
    assert chart is not None
    spec = spec_of(chart)
    spans = [entry for entry in spec["layer"] if "y2" in entry["encoding"]]
    assert spans
    assert all(spec["datasets"][entry["data"]["name"]] == [] for entry in spans)


def test_nothing_to_draw_is_none(arms: pd.DataFrame) -> None:
    nothing = pd.DataFrame()
    assert charts.against_rank(arms[arms["arm"] == "full"], "gain", margin=1.0, margin_name="m") is None
    assert charts.trade_off(arms.assign(forgetting=None), nothing, **MARGINS) is None
    assert charts_tables.matrix(nothing, "suite", "Change") is None
    assert charts_tables.by_kind(nothing) is None
    assert charts_tables.learning(nothing) is None
    assert charts_tables.searches(nothing) is None
    untimed = arms.assign(train_seconds=None, peak_memory_bytes=None, adapter_bytes=None)
    assert charts_tables.cost(chart_frames.cost_frame(untimed)) is None


# ---- frames ---------------------------------------------------------------------------------------------------------


def test_arms_are_in_order_of_size_and_in_points(verdict: Any, arms: pd.DataFrame) -> None:
    assert list(arms["arm"]) == ["lora-r1", "lora-r4", "lora-r16", "lora-r64", "full", "lora-r256"]
    gain = next(arm.gain.mean for arm in verdict.arms if arm.label == "lora-r4")
    assert arms.set_index("arm").loc["lora-r4", "gain"] == pytest.approx(100 * gain)
    assert arms.set_index("arm").loc["lora-r256", "gain"] is None


def test_the_front_leaves_out_arms_that_another_beats_on_both_axes(verdict: Any) -> None:
    points = {"lora-r1": (0.10, 0.01), "lora-r4": (0.09, 0.02), "lora-r16": (0.20, 0.03), "lora-r64": (-0.01, 0.0)}
    moved = []
    for arm in verdict.arms:
        if arm.label in points:
            gain, forgetting = points[arm.label]
            arm = arm.model_copy(
                update={
                    "gain": arm.gain.model_copy(update={"mean": gain}),
                    "forgetting": arm.forgetting.model_copy(update={"mean": forgetting}),
                }
            )
            moved.append(arm)
    frame = chart_frames.arm_frame(verdict.model_copy(update={"arms": moved}))
    assert set(frame.loc[frame["on_front"], "arm"]) == {"lora-r1", "lora-r16"}


def test_families_share_a_colour_by_label_without_rank() -> None:
    assert chart_frames.family("lora-attention-r16", 16) == "lora-attention"
    assert chart_frames.family("lora-r16-long", 16) == "lora-r16-long"
    assert chart_frames.family("full", None) == "full"


def test_a_thinned_curve_keeps_its_last_step_and_every_seed(arms: pd.DataFrame) -> None:
    table = make_tables([make_verdict()], seeds=2, steps=1000)
    curves = chart_frames.learning_frame(table["learning"], table["cost"], arms, 50)
    trained = curves[(curves["series"] == "training") & (curves["arm"] != "lora-r256")]
    sizes = trained.groupby(["arm", "seed"]).size()
    assert len(sizes) == 10
    assert sizes.max() <= 51
    assert set(trained.groupby(["arm", "seed"])["step"].max()) == {1000}
    assert curves["loss"].notna().all()


def test_a_rate_that_diverged_at_once_is_left_out_of_the_curve() -> None:
    search = make_search("lora-r4").model_copy(
        update={"losses": [[None], [1.0], [float("inf")], [2.0], [float("nan")]]}
    )
    frame = chart_frames.search_frame([search])
    assert list(frame["learning_rate"]) == [3e-4, 3e-3]


def test_a_pair_gets_its_own_rows() -> None:
    report = make_report([make_verdict("medical"), make_verdict("legal")])
    rows = chart_frames.of_pair(report.tables["forgetting"], report.verdicts.verdicts[1])
    assert set(rows["train_set"]) == {"legal"}


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
