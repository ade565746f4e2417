"""The page's sections: what each shows, how to read it, its charts, or why there is none."""

from __future__ import annotations

from typing import Any

import pandas as pd

from rankscope.records import SearchRecord, VerdictFile
from rankscope.report import chart_frames, charts, charts_tables
from rankscope.report.chart_drawing import Chart
from rankscope.report.page_section import Figure, Pair, Section, each, figure
from rankscope.report.page_sections_inside import inside_sections
from rankscope.report.wording import verdict_name


def make_pairs(verdicts: VerdictFile, tables: dict[str, pd.DataFrame], study: dict[str, Any]) -> list[Pair]:
    decision = study.get("decision", {})
    margins = {
        "retention": 100 * float(decision.get("retention_margin", 0.03)),
        "gain": 100 * float(decision.get("min_gain", 0.01)),
    }
    pairs = []
    for verdict in verdicts.verdicts:
        arms = chart_frames.arm_frame(verdict)
        seeds = chart_frames.seed_frame(chart_frames.of_pair(tables.get("seeds"), verdict), arms)
        pairs.append(Pair(verdict, verdict_name(verdict), arms, seeds, margins))
    return pairs


def make_sections(
    pairs: list[Pair], verdicts: VerdictFile, tables: dict[str, pd.DataFrame], searches: list[SearchRecord]
) -> list[Section]:
    """Every section with charts, in reading order."""
    return [
        _rank_section(pairs),
        _plane_section(pairs),
        _matrix_section(verdicts, tables),
        _kind_section(pairs, tables),
        _learning_section(pairs, tables),
        _search_section(pairs, searches),
        *inside_sections(pairs, tables),
        _cost_section(pairs),
    ]


def _rank_section(pairs: list[Pair]) -> Section:
    found = []
    for pair in pairs:
        for measure, margin, name in (("gain", "gain", "least gain"), ("forgetting", "retention", "margin")):
            chart = charts.against_rank(pair.arms, measure, margin=pair.margins[margin], margin_name=name)
            caption = f"{measure} against LoRA rank, with intervals"
            found += figure(chart, caption, pair.name if len(pairs) > 1 else "")
    return Section(
        "rank",
        "Gain and forgetting by rank",
        "What each rank learned on the suites of its training domain, and what it forgot on all others.",
        "Points are means over seeds, bars their intervals. A grey line with its band is an arm without a rank, such "
        "as full fine-tuning, the dashed line the margin fixed in the study. A curve that is flat within its bars says "
        "that rank does not matter there.",
        found,
        "No arm with a rank has results to draw.",
        wide=False,
    )


def _plane_section(pairs: list[Pair]) -> Section:
    def plane(pair: Pair) -> Chart | None:
        retention, gain = pair.margins["retention"], pair.margins["gain"]
        return charts.trade_off(pair.arms, pair.seeds, retention_margin=retention, min_gain=gain)

    return Section(
        "tradeoff",
        "The trade-off",
        "What was learned against what was forgotten, an arm a point.",
        "Right and down is better. Crosses are intervals, faint points single seeds, the dotted line joins the arms "
        "that no other arm beats on both axes, a ring marks the recommended arm. Shaded: more forgetting than the "
        "margin allows, or less gain than counts. Where names would overlap, the tooltip has them.",
        each(pairs, plane, "gain against forgetting, one point an arm"),
        "No arm has both gain and forgetting: that needs an in-domain suite and one outside the training domain.",
    )


def _matrix_section(verdicts: VerdictFile, tables: dict[str, pd.DataFrame]) -> Section:
    found: list[Figure] = []
    models = list(dict.fromkeys(verdict.model for verdict in verdicts.verdicts))
    for model in models:
        mine = [verdict for verdict in verdicts.verdicts if verdict.model == model]
        name = model if len(models) > 1 else ""
        for table, column, title in (
            ("matrix", "domain", "Change by training set and domain"),
            ("forgetting", "suite", "Change by training set and suite"),
        ):
            changes = chart_frames.change_frame(tables.get(table), mine)
            drawn = charts_tables.matrix(changes, column, title)
            found += figure(drawn, f"{title.lower()}, each cell the change from the base in points", name)
    return Section(
        "matrix",
        "In and out of domain",
        "How far training on each set moved every domain and every suite, arm by arm.",
        "Each cell is the change from the base in percentage points: blue is better than the base, orange worse. "
        "Framed cells are of the training set's own domain.",
        found,
        "No suite was scored for both the base and an arm.",
    )


def _kind_section(pairs: list[Pair], tables: dict[str, pd.DataFrame]) -> Section:
    def kinds(pair: Pair) -> Chart | None:
        return charts_tables.by_kind(chart_frames.change_frame(tables.get("kinds"), [pair.verdict]))

    return Section(
        "kinds",
        "Recall and reasoning",
        "Whether knowledge (recall) or skill (reasoning) moved more.",
        "Arms from the fewest trainable parameters to the most; each panel has its own scale. Below the line at 0 the "
        "arm does worse than the base.",
        each(pairs, kinds, "change on recall and on reasoning suites by arm"),
        "No suite names its kind, or none was scored for both the base and an arm.",
    )


def _learning_section(pairs: list[Pair], tables: dict[str, pd.DataFrame]) -> Section:
    runs = tables.get("cost", pd.DataFrame())

    def curves(pair: Pair) -> Chart | None:
        steps = chart_frames.of_pair(tables.get("learning"), pair.verdict)
        return charts_tables.learning(
            chart_frames.learning_frame(steps, runs, pair.arms, chart_frames.curve_points(len(runs)))
        )

    return Section(
        "learning",
        "Learning curves",
        "The loss while training, on each batch before its update, and on the validation rows when training ended.",
        "An orange end point far above its blue curve means that the arm began to memorise. Long curves are drawn at "
        "every k-th step; the runs' train.jsonl hold every step.",
        each(pairs, curves, "training and validation loss by step for each arm and seed"),
        "No training steps were recorded.",
    )


def _search_section(pairs: list[Pair], searches: list[SearchRecord]) -> Section:
    def curves(pair: Pair) -> Chart | None:
        key = (pair.verdict.model, pair.verdict.train_set)
        mine = [search for search in searches if (search.model, search.train_set) == key]
        return charts_tables.searches(chart_frames.search_frame(mine))

    return Section(
        "rates",
        "Learning rates",
        "The validation loss of every learning rate that was tried, search by search.",
        "The ring is the rate chosen. Small points were dropped early, so they were trained for fewer steps. A choice "
        "at the end of its grid is named in the warnings. Suites were never looked at.",
        each(pairs, curves, "validation loss against learning rate for each search"),
        "No learning rate was searched: the study gives them.",
    )


def _cost_section(pairs: list[Pair]) -> Section:
    return Section(
        "cost",
        "Cost",
        "What one run of each arm took on this machine: time, memory, and the size of what it leaves.",
        "Arms from the fewest trainable parameters to the most. 'none' means not measured, or, for full fine-tuning, "
        "no adapter.",
        each(pairs, lambda pair: charts_tables.cost(chart_frames.cost_frame(pair.arms)), "cost of each arm"),
        "No run was timed.",
    )
