"""The fronts as a picture, and what arms are worth at other margins, on points whose numbers are known."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pandas as pd
import pytest
import vl_convert
from made_report import make_report, make_verdict
from rich.console import Console

from rankscope.records import Verdict, VerdictFile, WorthAt
from rankscope.report.chart_drawing import spec_of
from rankscope.report.first_screen import allowed_sentences
from rankscope.report.front_charts import front_chart, front_frame
from rankscope.report.page import render
from rankscope.report.rank_charts import arm_frame, make_pair
from rankscope.report.units import POINTS_ALONE
from rankscope.report.verdict_text import print_results
from rankscope.study.study import Decision

JUDGED = ("gain", "gain_low", "gain_high", "forgetting", "forgetting_low", "forgetting_high")


def operating_point(arm: str, rate: float, dial: float, loss: float, **own: Any) -> dict[str, Any]:
    named = {"model": "bundled", "train_set": "medical", "arm": arm, "learning_rate": rate, "dial": dial}
    empty = dict.fromkeys(JUDGED)
    return {**named, "seeds": 3, "validation_loss": loss, "forgetting_select": 0.01, "chosen": False, **empty, **own}


def judged(gain: float, lost: float) -> dict[str, Any]:
    around = {"gain_low": gain - 0.02, "gain_high": gain + 0.02}
    return {"gain": gain, "forgetting": lost, **around, "forgetting_low": lost - 0.01, "forgetting_high": lost + 0.01}


POINTS = pd.DataFrame(
    [
        operating_point("lora-r4", 1e-3, 0.5, 2.0, **judged(0.10, 0.00)),
        operating_point("lora-r4", 1e-3, 1.0, 1.0, chosen=True, **judged(0.30, 0.02)),
        operating_point("lora-r4", 3e-3, 1.0, 1.5, seeds=1, forgetting_select=0.07),
        operating_point("lora-r4", 1e-3, 1.0, 1.1, seeds=1),  # the search's own look at the rate that was judged
        operating_point("full", 1e-4, 1.0, 0.5, chosen=True, **judged(0.40, 0.05)),
    ]
)


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    return front_frame(POINTS, arms())


def arms() -> pd.DataFrame:
    """The verdict's arms with the means of POINTS, and wider intervals: those of the answer hold at once."""
    found = arm_frame(make_verdict()).set_index("arm")
    for arm, gain, lost in (("lora-r4", 30.0, 2.0), ("full", 40.0, 5.0)):
        columns = ["gain", "gain_low", "gain_high", "forgetting", "forgetting_low", "forgetting_high"]
        found.loc[arm, columns] = [gain, gain - 5, gain + 5, lost, lost - 3, lost + 3]
    return found.reset_index()


def rows_of(spec: dict[str, Any]) -> list[dict[str, Any]]:
    return [row for rows in spec["datasets"].values() for row in rows]


def test_a_rate_that_was_only_searched_is_placed_by_its_validation_loss(frame: pd.DataFrame) -> None:
    """Halfway between the losses 1.0 and 2.0 of judged points: halfway between their gains of 30 and 10 points."""
    searched = frame[~frame["judged"]]
    assert searched[["arm", "learning_rate"]].to_numpy().tolist() == [["lora-r4", 3e-3]]
    assert searched["gain"].tolist() == pytest.approx([20.0])
    assert searched["forgetting"].tolist() == pytest.approx([7.0])


def test_what_the_seeds_judged_replaces_the_searchs_look_at_the_same_setting(frame: pd.DataFrame) -> None:
    own = frame[(frame["arm"] == "lora-r4") & (frame["learning_rate"] == 1e-3) & (frame["dial"] == 1)]
    assert own["gain"].tolist() == pytest.approx([30.0])
    assert own["gain_low"].tolist() == pytest.approx([25.0]), "the answer's own interval, which holds for all at once"
    other = frame[(frame["arm"] == "lora-r4") & (frame["dial"] == 0.5)]
    assert other["gain_low"].tolist() == pytest.approx([8.0])
    assert own["judged"].all()


def test_arms_stand_in_the_order_of_their_size(frame: pd.DataFrame) -> None:
    assert list(dict.fromkeys(frame["arm"])) == ["lora-r4", "full"]


def test_the_picture_has_the_numbers_and_a_curve_from_the_base(frame: pd.DataFrame) -> None:
    chart = front_chart(frame, retention_margin=3.0)
    assert chart is not None
    spec = spec_of(chart)
    rows = rows_of(spec)
    assert {"name": "margin", "value": 3.0} in spec["params"]
    starts = {row["curve"] for row in rows if row.get("dial") == 0}
    assert starts == {"lora-r4 at 1e-3", "lora-r4 at 3e-3", "full at 1e-4"}
    rings = [e for e in spec["layer"] if e["mark"].get("strokeWidth") == 2 and e["mark"]["type"] == "point"]
    (ring,) = rings
    assert {row["arm"] for row in spec["datasets"][ring["data"]["name"]]} == {"lora-r4", "full"}


def test_the_margin_can_be_turned_to_every_amount_that_has_settings(frame: pd.DataFrame) -> None:
    chart = front_chart(frame, retention_margin=3.0, worth=at_margins().at_other_margins)
    assert chart is not None
    spec = spec_of(chart)
    (ring,) = [e for e in spec["layer"] if e["mark"].get("strokeWidth") == 2 and e["mark"]["type"] == "point"]
    rows = spec["datasets"][ring["data"]["name"]]
    assert [(row["arm"], row["allowed"], row["gain"]) for row in rows] == [("lora-r4", 1, 12.3), ("full", 10, 45.6)]
    assert "margin" in ring["transform"][0]["filter"]
    assert vl_convert.vegalite_to_svg(spec).startswith("<svg")


def test_the_page_says_what_each_margin_is_worth() -> None:
    pair = make_pair(at_margins(), {}, Decision(), POINTS_ALONE)
    said = allowed_sentences(pair)
    assert [(one.amount, one.own) for one in said] == [(1.0, False), (10.0, False)]
    assert said[0].sentence == "If 1 point may be forgotten, most gain: lora-r4 +12.3 points (dial 0.5)."
    assert said[1].sentence == "If 10 points may be forgotten, most gain: full +45.6 points (dial 1)."
    own = allowed_sentences(replace(pair, decision=Decision(retention_margin=0.01)))[0]
    assert (own.own, own.label) == (True, "1 point (the study's margin)")


def test_without_points_there_is_no_picture() -> None:
    assert front_chart(front_frame(pd.DataFrame(), arm_frame(make_verdict())), retention_margin=3.0) is None


# ---- other margins --------------------------------------------------------------------------------------------------


def worth(allowed: float, arm: str, gain: float | None, dial: float = 0.7, *, admissible: bool = True) -> WorthAt:
    lost = None if gain is None else 0.01
    ends = dict.fromkeys(("gain_low", "gain_high", "forgetting_low", "forgetting_high"))
    return WorthAt(
        allowed=allowed, arm=arm, learning_rate=1e-3, dial=dial, admissible=admissible,
        runs_needed=0 if gain is not None else 3, gain=gain, forgetting=lost, **ends,
    )  # fmt: skip


def at_margins() -> Verdict:
    found = [
        worth(0.01, "lora-r4", 0.123, 0.5), worth(0.01, "full", 0.2, admissible=False),
        worth(0.1, "lora-r4", None), worth(0.1, "full", 0.456, 1.0),
    ]  # fmt: skip
    return make_verdict(at_other_margins=found)


def test_the_terminal_says_what_arms_are_worth_at_other_margins() -> None:
    console = Console(width=80, highlight=False, force_terminal=False)
    with console.capture() as capture:
        print_results(console, at_margins())
    lines = capture.get().splitlines()
    start = next(i for i, line in enumerate(lines) if line.split() == ["arm", "1", "point", "10", "points"])
    assert [line.split() for line in lines[start + 1 : start + 3]] == [
        ["lora-r4", "+12.3", "x0.5", "not", "judged"],
        ["full", "-", "+45.6", "x1"],
    ]


def test_the_page_has_every_row_without_javascript() -> None:
    report = make_report([at_margins()])
    report.tables["operating_points"] = POINTS
    text = render(report)
    table = text[text.index('id="table-margins"') :]
    table = table[: table.index("</table>")]
    assert table.count("<tr>") == 5
    assert "nobody yet: 3 runs would tell" in table
    assert "is expected to forget more" in table
    assert '<p class="slide" hidden>' in text


def test_a_study_without_dials_says_so_and_has_no_table() -> None:
    text = render(make_report([make_verdict()]))
    assert 'id="chart-tradeoff-0"' in text
    assert 'class="slide"' not in text
    assert 'id="table-margins"' not in text
    assert VerdictFile(verdicts=[make_verdict()]).verdicts[0].at_other_margins == []
