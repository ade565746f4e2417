"""The frame of arms, and gain and forgetting drawn against rank."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest
from made_report import make_report, make_verdict

from rankscope.report.chart_drawing import spec_of
from rankscope.report.rank_charts import arm_frame, family, of_pair, rank_chart


@pytest.fixture(scope="module")
def verdict() -> Any:
    return make_verdict()


@pytest.fixture(scope="module")
def arms(verdict: Any) -> pd.DataFrame:
    return arm_frame(verdict)


def rows_of(spec: dict[str, Any]) -> list[dict[str, Any]]:
    return [row for rows in spec["datasets"].values() for row in rows]


def test_charts_draw_the_numbers_they_are_given(arms: pd.DataFrame) -> None:
    """Odd numbers that no statistic of one another could give stand in the chart as they are."""
    odd = arms.assign(gain=[11.125, 7.5, 13.0625, 2.25, 5.75, None])
    chart = rank_chart(odd, "gain", margin=1.0, margin_name="least gain")
    assert chart is not None
    drawn = {row["arm"]: row["gain"] for row in rows_of(spec_of(chart)) if "gain" in row}
    assert drawn == {row["arm"]: row["gain"] for row in odd.to_dict("records") if row["arm"] != "lora-r256"}


def test_full_fine_tuning_is_a_level_and_not_a_point_of_the_curve(arms: pd.DataFrame) -> None:
    chart = rank_chart(arms, "gain", margin=1.0, margin_name="least gain")
    assert chart is not None
    spec = spec_of(chart)
    lines = [entry for entry in spec["layer"] if entry["mark"]["type"] == "line"]
    curve = {row["arm"] for row in spec["datasets"][lines[0]["data"]["name"]]}
    assert curve == {"lora-r1", "lora-r4", "lora-r16", "lora-r64"}
    assert lines[0]["encoding"]["x"]["scale"]["type"] == "log"
    assert any(row.get("text") == "full" for row in rows_of(spec))


def test_without_an_interval_there_is_a_point_and_no_bar(arms: pd.DataFrame) -> None:
    chart = rank_chart(arms.assign(gain_low=None), "gain", margin=1.0, margin_name="least gain")
    assert chart is not None
    spec = spec_of(chart)
    spans = [entry for entry in spec["layer"] if "y2" in entry["encoding"]]
    assert spans
    assert all(spec["datasets"][entry["data"]["name"]] == [] for entry in spans)


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
    frame = arm_frame(verdict.model_copy(update={"arms": moved}))
    assert set(frame.loc[frame["on_front"], "arm"]) == {"lora-r1", "lora-r16"}


def test_families_share_a_colour_by_label_without_rank() -> None:
    assert family("lora-attention-r16", 16) == "lora-attention"
    assert family("lora-r16-long", 16) == "lora-r16-long"
    assert family("full", None) == "full"


def test_a_pair_gets_its_own_rows() -> None:
    report = make_report([make_verdict("medical"), make_verdict("legal")])
    rows = of_pair(report.tables["forgetting"], report.verdicts.verdicts[1])
    assert set(rows["train_set"]) == {"legal"}
