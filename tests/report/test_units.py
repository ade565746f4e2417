"""A study in nats is drawn and told in nats, one in points in points; and one sign of forgetting on the whole page."""

from __future__ import annotations

import json
import re
from typing import Any

import pandas as pd
import pytest
from made_report import in_nats, make_report, make_tables, make_verdict
from test_page import Parsed

from rankscope.report.chart_drawing import short_names, spec_of
from rankscope.report.page import render
from rankscope.report.page_parts import typeset
from rankscope.report.suite_changes import change_frame, matrix_chart, matrix_section
from rankscope.report.units import IN_NATS, IN_POINTS


@pytest.fixture(scope="module")
def nats() -> Parsed:
    return Parsed(render(in_nats(make_report())))


def words_of(parsed: Parsed) -> str:
    return " ".join(" ".join(parsed.text).split())


def test_a_page_in_nats_says_nothing_in_points_or_of_accuracy(nats: Parsed) -> None:
    text = words_of(nats)
    assert not re.search(r"percentage points|\(points|points\)|points or nats|\d points|accuracy", text)
    assert "Gain of lora-r16 +0.303 nats +0.282 to +0.324" in text
    assert "worst: 0.022 nats" in text
    assert "at the study's margin of 0.02 nats" in text
    assert "a loss does not flip" in text
    assert "No arm with a rank" not in text


def test_every_chart_of_gain_and_forgetting_is_there_in_nats(nats: Parsed) -> None:
    charts = nats.json("charts-data")
    assert {"chart-fronts-0", "chart-rank-0", "chart-rank-1", "chart-matrix-0", "chart-kinds-0"} <= set(charts)
    for name, spec in charts.items():
        if name.split("-")[1] in ("fronts", "rank", "matrix", "kinds", "tradeoff"):
            assert "percentage points" not in json.dumps(spec), name
            assert "nats per token" in spec["title"], name


def test_the_margin_turns_in_nats(nats: Parsed) -> None:
    spec = nats.json("charts-data")["chart-fronts-0"]
    assert {"name": "margin", "value": 0.02} in spec["params"]
    lines = [a for _, a in nats.tags if a.get("class") == "worth"]
    assert [(a["data-amount"], a["data-label"]) for a in lines] == [
        ("0.01", "0.01 nats"), ("0.02", "0.02 nats (the study's margin)"), ("0.04", "0.04 nats"),
    ]  # fmt: skip
    assert ["data-own" in a for a in lines] == [False, True, False]
    assert "If 0.01 nats may be forgotten, most gain: full +0.17" in words_of(nats)


def test_a_study_in_both_units_draws_each_measure_in_each() -> None:
    report = make_report()
    verdict = report.verdicts.verdicts[0]
    arms = [arm.model_copy(update={"forgetting_nats": arm.forgetting}) for arm in verdict.arms]
    both = verdict.model_copy(update={"arms": arms})
    charts = Parsed(render(make_report([both], tables=report.tables))).json("charts-data")
    titles = [spec["title"] for name, spec in charts.items() if name.startswith("chart-rank")]
    assert [re.findall(r"\((.*)\)", title)[0] for title in titles] == [
        "percentage points", "percentage points", "nats per token",
    ]  # fmt: skip


# ---- one sign, once, and labels that differ -------------------------------------------------------------------------


def test_forgetting_above_0_is_a_loss_wherever_the_page_says_it() -> None:
    parsed = Parsed(render(make_report()))
    text = words_of(parsed)
    assert "worst: 2.2 points (−1.0 to 5.3) on gsm8k" in text
    assert "lora-r16 forgets 1.4 points (0.5 to 2.3) overall" in text
    cells = next(spec for name, spec in parsed.json("charts-data").items() if name == "chart-matrix-1")["datasets"]
    rows = [row for rows in cells.values() for row in rows if row["arm"] == "lora-r16"]
    shown = {row["suite"]: row["shown"] for row in rows}
    assert (shown["gsm8k"], shown["law"], shown["medqa"]) == ("2.2", "0.8", "+31.8")


def spec_of_suites(tables: dict[str, pd.DataFrame], unit: Any = IN_POINTS) -> dict[str, Any]:
    drawn = matrix_chart(change_frame(tables["forgetting"], [make_verdict()], unit), "suite", "By suite", unit)
    assert drawn is not None
    return spec_of(drawn)


@pytest.mark.parametrize(("unit", "factor"), [(IN_POINTS, 100), (IN_NATS, 1)])
def test_the_colours_reach_to_the_largest_change(unit: Any, factor: float) -> None:
    tables = make_tables([make_verdict()])
    tables["forgetting"] = tables["forgetting"].assign(metric=unit.metric)
    scale = spec_of_suites(tables, unit)["spec"]["layer"][0]["encoding"]["color"]["scale"]
    largest = factor * tables["forgetting"]["change"].abs().max()
    assert scale["domain"][1] >= largest
    assert scale["domain"][0] == -scale["domain"][1]


def test_where_each_domain_has_one_suite_one_picture_stands_for_both() -> None:
    report = make_report()
    assert len(matrix_section(report.verdicts, report.tables).figures) == 2
    changes = report.tables["forgetting"]
    few = changes[changes["suite"].isin(["medqa", "law", "gsm8k"])]
    tables = {"forgetting": few, "matrix": report.tables["matrix"]}
    section = matrix_section(report.verdicts, tables)
    assert len(section.figures) == 1
    assert "the suites stand for the domains" in section.shows


def test_names_that_are_cut_still_differ() -> None:
    names = ["hendrycks-professional-medicine-test-zero-shot", "hendrycks-professional-law-test-zero-shot"]
    names += ["short", "a-name-that-begins-alike-and-ends-in-one", "a-name-that-begins-alike-and-ends-in-two"]
    short = short_names(names, 24)
    assert len(set(short.values())) == len(names)
    assert short["short"] == "short"
    assert all(len(label) <= 26 for label in short.values())
    assert short[names[3]].endswith("in-one")
    tables = make_tables([make_verdict()])
    tables["forgetting"] = tables["forgetting"].replace({"suite": {"law": names[0], "medqa": names[1]}})
    axis = spec_of_suites(tables)["spec"]["layer"][0]["encoding"]["x"]["axis"]
    assert short[names[0]] in json.loads(re.findall(r"\((\{.*\})\)", axis["labelExpr"])[0]).values()


def test_no_number_breaks_over_a_line_and_nothing_is_markup() -> None:
    said = typeset("<b>Use it (rate 1e-3): -2.5 points & 98 % of 3.4 GB</b>")
    assert '<span class="whole">1e-3</span>' in said
    assert "−2.5\u00a0points &amp; 98\u00a0% of 3.4\u00a0GB" in said
    assert said.startswith("&lt;b&gt;")
