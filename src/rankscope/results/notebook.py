"""A finished study in a notebook: `rankscope.load("demo")` gives its verdict, its tables and its charts.

Reads files only: neither torch nor a model is loaded.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from pathlib import Path

import pandas as pd

from rankscope.edges.study_folder import StudyFolder
from rankscope.records import Verdict, VerdictFile
from rankscope.report.chart_drawing import Chart, Pair
from rankscope.report.cost_charts import cost_chart, cost_frame
from rankscope.report.front_charts import front_of
from rankscope.report.rank_charts import arm_frame, make_pairs, of_pair, rank_chart
from rankscope.report.suite_changes import change_frame, matrix_chart
from rankscope.report.tradeoff_charts import kind_chart, tradeoff_of
from rankscope.report.training_charts import curve_points, learning_chart, learning_frame
from rankscope.report.units import MEASURES, units_of
from rankscope.results.frames import planned_study
from rankscope.study.study import Study

CHARTS = ("gain", "forgetting", "trade_off", "fronts", "matrix", "suites", "kinds", "learning", "cost")


@dataclass(frozen=True)
class Results:
    """What a study has found. In a notebook the object itself shows the answer and the arms.

    `tables` maps a name to a tidy frame (docs/records.md lists the columns); every difference of accuracy in them is a
    share, and in `arms()` and the charts percentage points (of losses: nats per token in both).
    """

    folder: str
    study: Study
    verdicts: list[Verdict]
    tables: dict[str, pd.DataFrame]

    def verdict(self, model: str | None = None, train_set: str | None = None) -> Verdict:
        """The verdict on a base model and training set; neither is needed where the study has one. Raises KeyError."""
        found = [
            verdict
            for verdict in self.verdicts
            if model in (None, verdict.model) and train_set in (None, verdict.train_set)
        ]
        if len(found) != 1:
            names = ", ".join(f"({v.model!r}, {v.train_set!r})" for v in self.verdicts)
            raise KeyError(f"{len(found)} verdicts match model={model!r}, train_set={train_set!r}; there are: {names}")
        return found[0]

    def arms(self, model: str | None = None, train_set: str | None = None) -> pd.DataFrame:
        """A row an arm, fewest trainable parameters first: gain and forgetting with intervals, and cost.

        In percentage points, or in nats per token where suites are judged by their loss alone.
        """
        return arm_frame(self.verdict(model, train_set))

    def chart(self, name: str, model: str | None = None, train_set: str | None = None) -> Chart:
        """One of CHARTS as an altair chart, which a notebook shows. Raises KeyError, and LookupError where empty."""
        if name not in CHARTS:
            raise KeyError(f"no chart {name!r}; there are: {', '.join(CHARTS)}")
        verdict = self.verdict(model, train_set)
        settings = self.study.model_dump(mode="json", by_alias=True)
        (pair,) = make_pairs(VerdictFile(verdicts=[verdict]), self.tables, settings)
        drawn = self._draw(name, pair)
        if drawn is None:
            raise LookupError(f"the study has nothing to draw for {name!r}")
        return drawn

    def _draw(self, name: str, pair: Pair) -> Chart | None:
        unit = pair.units["forgetting"]

        def changes(table: str) -> pd.DataFrame:
            return change_frame(self.tables.get(table), [pair.verdict], unit)

        def by_rank(measure: str, name: str) -> Chart | None:
            margin, own = pair.margin(measure), pair.units[measure]
            return rank_chart(pair.arms, measure, margin=margin, margin_name=name, unit=own)

        match name:
            case "gain":
                return by_rank("gain", "least gain")
            case "forgetting":
                return by_rank("forgetting", "margin")
            case "trade_off":
                return tradeoff_of(pair)
            case "fronts":
                return front_of(pair, self.tables)
            case "matrix":
                return matrix_chart(changes("matrix"), "domain", "Gained and forgotten, by domain", unit)
            case "suites":
                return matrix_chart(changes("forgetting"), "suite", "Gained and forgotten, by suite", unit)
            case "kinds":
                return kind_chart(changes("kinds"), unit)
            case "learning":
                runs = self.tables.get("cost", pd.DataFrame())
                steps = of_pair(self.tables.get("learning"), pair.verdict)
                points = curve_points(len(runs))
                return learning_chart(learning_frame(steps, runs, pair.arms, points))
            case _:
                return cost_chart(cost_frame(pair.arms))

    def _repr_html_(self) -> str:
        parts = []
        for verdict in self.verdicts:
            units = units_of(verdict)
            shown = arm_frame(verdict)[["arm", "trainable_parameters", *MEASURES, "status"]]
            written = {m: f"{{:{units[m].form(m)}}}".format for m in MEASURES}
            first, *others = verdict.answers
            parts.append(
                f"<h4>{escape(verdict.name)}: {escape(first.headline)}</h4>"
                f"<p>{escape(first.sentence)} {escape(first.details)}</p>"
                + "".join(
                    f"<p><b>{escape(a.headline)}.</b> {escape(a.sentence)} {escape(a.details)}</p>" for a in others
                )
                + f"{shown.to_html(index=False, formatters=written)}"
            )
        return "".join(parts)


def load(folder: str | Path) -> Results:
    """The results in a study folder that `rankscope run` made. Raises InputProblems where it holds no verdict yet."""
    held = StudyFolder.open(folder)
    held.planned()
    verdicts = held.verdicts()
    study, _ = planned_study(held)
    names = held.table_names()
    tables = {name: table for name in names if (table := held.read_table(name)) is not None}
    return Results(held.url, study, verdicts.verdicts, tables)
