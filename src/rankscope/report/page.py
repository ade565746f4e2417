"""Renders report.html: one self-contained file that loads nothing from anywhere.

Three readers, in this order: who decides (the first screen), who trains (arms, what was forgotten, rates, cost), and
who wants to know why (folded). A figure of the page is a section function in one of the `*_charts.py` files, and a line
of `make_sections`; what stands in the file is written by `page_parts.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pandas as pd
from altair.utils.schemapi import debug_mode
from markupsafe import Markup

from rankscope import __version__
from rankscope.records import Plan, SearchRecord, Verdict, VerdictFile
from rankscope.report import page_tables, verdict_text
from rankscope.report.activation_charts import attention_section, diagnostics_section, drift_section
from rankscope.report.chart_drawing import Figure, Pair, Section, Tables, figure
from rankscope.report.cost_charts import cost_section, derived_section
from rankscope.report.cost_table import costs_table
from rankscope.report.first_screen import FirstScreen, first_screen
from rankscope.report.flipped_items import pack_items
from rankscope.report.front_charts import front_of, has_front, margins_table
from rankscope.report.page_parts import environment, file_text, json_text, policy, scripts, still_picture
from rankscope.report.rank_charts import make_pairs, rank_section
from rankscope.report.remedy_table import remedies_table, remedy_parts_table
from rankscope.report.suite_changes import matrix_section
from rankscope.report.tradeoff_charts import kind_section, tradeoff_of, tradeoff_section
from rankscope.report.training_charts import learning_section, search_section
from rankscope.report.units import IN_POINTS, MEASURES, units_in
from rankscope.report.weight_charts import overlap_section, weights_section
from rankscope.study.study import Decision

_INSIDE = ("spectra", "hidden", "attention", "neurons", "derived")


@dataclass(frozen=True)
class ReportData:
    """What a page is made of. `tables` are the study folder's, by name; `items` a sample of flipped items, None where
    the page is to hold no rows of data sets.

    `study` is the study's settings as a dict, `provenance` a dict of names to values, `command` what repeats it all,
    `place` the study's folder as commands name it.
    """

    study: dict[str, Any]
    plan: Plan | None
    verdicts: VerdictFile
    tables: dict[str, pd.DataFrame]
    items: pd.DataFrame | None
    searches: list[SearchRecord]
    provenance: dict[str, Any]
    warnings: list[str]
    command: str
    place: str


@dataclass(frozen=True)
class Sections:
    """The sections with charts, for whom they are: beside the arms, for who trains, and for who wants to know why."""

    engineer: list[Section]
    researcher: list[Section]

    def drawn(self, tabled: Container[str] = ()) -> Sections:
        """Those that have a figure, and those whose id is in `tabled`: they have a table."""
        parts = (self.engineer, self.researcher)
        return Sections(*([s for s in part if s.figures or s.id in tabled] for part in parts))

    @property
    def all(self) -> list[Section]:
        """In reading order."""
        return [*self.engineer, *self.researcher]


def render(report: ReportData) -> str:
    """The page as HTML text. Everything that is not ours (prompts, answers, names) is escaped."""
    pairs = make_pairs(report.verdicts, report.tables, report.study)
    first = first_screens(pairs, report.tables, report.place, report.study["keep"]["full"])
    picture = next((screen.picture[1] for screen in first if screen.picture is not None), None)
    # Vega's engine, outside of Python, takes half a second to begin. That charts are Vega-Lite the tests check.
    with debug_mode(False), ThreadPoolExecutor(1) as engine:
        still = engine.submit(still_picture, picture) if picture is not None else None
        return _page(report, pairs, first, lambda: still.result() if still is not None else None)


def _page(report: ReportData, pairs: list[Pair], first: list[FirstScreen], still: Callable[[], Markup | None]) -> str:
    """The page's HTML text. `still` gives the first screen's picture as SVG, for a reader without scripts."""
    sections = make_sections(pairs, report.verdicts, report.tables, report.searches)
    confidence = Decision.model_validate(report.study.get("decision", {})).confidence
    interval = f"{100 * confidence:g} % interval"
    tables = _tables_of(report, pairs, interval)
    with_table = (("rates", "rates"), ("cost", "costs"))  # a section and the table that stands in it
    kept = sections.drawn([section for section, table in with_table if tables[table].rows])
    items = _items_of(report)
    has_items = bool(items["total"]) or items["without_items"]
    answers = [_answer(pair, confidence) for pair in pairs]
    gone = [s for s in sections.all if s not in kept.all]
    pictures = [screen.picture for screen in first if screen.picture is not None]
    charts = {f"chart-{s.id}-{i}": figure.spec for s in sections.all for i, figure in enumerate(s.figures)}
    code = scripts()
    return environment().get_template("page.jinja").render(
        study=report.study,
        name=report.study.get("name") or (report.plan.study if report.plan else "study"),
        first=first,
        still=still(),
        answers=answers,
        has_items=has_items,
        has_suites=bool(tables["suites"].rows or tables["texts"].rows or any(one["suites"] for one in answers)),
        notes=report.verdicts.notes,
        sections=kept,
        left_out=[*_left_out(gone), *([] if has_items else [NO_ITEMS])],
        told_units=told_units(report.verdicts.verdicts),
        charts=json_text({name: shown.spec for name, shown in pictures} | charts),
        provenance=_flat(report.provenance),
        settings=_flat(report.study),
        warnings=[text for text in dict.fromkeys(report.warnings) if text not in report.verdicts.notes],
        command=report.command,
        version=__version__,
        css=Markup(file_text("page.css")),
        scripts=code,
        policy=policy(code),
        **tables,
        **items,
    )  # fmt: skip


NO_ITEMS = "Items: no item flipped, or no arm was scored item by item; a loss does not flip."


def _left_out(gone: Sequence[Section]) -> list[str]:
    """The sections without a figure, each with why."""
    return [f"{section.title}: {section.missing[0].lower()}{section.missing[1:]}" for section in gone]


def told_units(verdicts: Sequence[Verdict]) -> str:
    """The units that gain and forgetting are measured in, in words."""
    every = {unit.name: None for verdict in verdicts for measure in MEASURES for unit in units_in(verdict, measure)}
    return " or ".join(sorted(every, reverse=True)) or IN_POINTS.name


def _tables_of(report: ReportData, pairs: list[Pair], interval: str) -> dict[str, page_tables.DataTable]:
    """The page's tables, by what the template calls them."""
    return {
        "arms": page_tables.arms_table(pairs, f"{interval}, all at once"),
        "costs": costs_table(pairs),
        "remedies": remedies_table(pairs),
        "remedy_parts": remedy_parts_table(pairs),
        "suites": page_tables.suites_table(report.verdicts, report.tables.get("forgetting"), interval),
        "losses": page_tables.losses_table(pairs, f"{interval}, all at once"),
        "texts": page_tables.text_table(report.tables.get("scores")),
        "margins": margins_table(pairs),
        "rates": page_tables.rates_table(report.tables.get("rates")),
        "undone": page_tables.undone_table(report.tables.get("cost")),
    }


def _items_of(report: ReportData) -> dict[str, Any]:
    """The flipped items as the page's script reads them, how many are shown of how many, and whether they were asked
    to be left out."""
    total = _flip_count(report.tables.get("flips"))
    packed = pack_items(pd.DataFrame() if report.items is None else report.items, total)
    without = report.items is None
    return {"items": json_text(packed.payload), "shown": packed.shown, "total": packed.total, "without_items": without}


def make_sections(pairs: list[Pair], verdicts: VerdictFile, tables: Tables, searches: list[SearchRecord]) -> Sections:
    """Every section with charts, in reading order; those on what changed inside only where a run was looked into."""
    engineer = [
        rank_section(pairs),
        matrix_section(verdicts, tables),
        search_section(pairs, searches),
        cost_section(pairs),
    ]
    plane = tradeoff_section(pairs)
    # Without fronts the plane is the first screen's picture.
    drawn_first = plane.figures and not any(has_front(pair, tables) for pair in pairs)
    researcher = [] if drawn_first else [plane]
    researcher += [kind_section(pairs, tables), learning_section(pairs, tables)]
    if any(not tables.get(name, pd.DataFrame()).empty for name in _INSIDE):
        researcher += [
            weights_section(pairs, tables),
            drift_section(pairs, tables),
            attention_section(pairs, tables),
            overlap_section(pairs, tables),
            diagnostics_section(pairs, tables),
            derived_section(pairs, tables),
        ]
    return Sections(engineer, researcher)


def first_screens(pairs: Sequence[Pair], tables: Tables, place: str, keep_full: str) -> list[FirstScreen]:
    """What stands on the first screen for every pair; its picture is the fronts, or where no dial was scored the plane
    of gain and forgetting."""
    screens = []
    for number, pair in enumerate(pairs):
        name = pair.name if len(pairs) > 1 else ""
        found: list[Figure] = figure(front_of(pair, tables), "gain against forgetting, one curve an arm", name)
        kind = "fronts" if found else "tradeoff"
        found = found or figure(tradeoff_of(pair), "gain against forgetting, one point an arm", name)
        picture = (f"chart-{kind}-{number}", found[0]) if found else None
        screens.append(first_screen(pair, place, picture, keep_full))
    return screens


def _answer(pair: Pair, confidence: float) -> dict[str, Any]:
    """What is said of a verdict below the first screen: what was forgotten, and for the researcher how sure it is."""
    verdict = pair.verdict
    sure = (
        verdict_text.confidence_sentence(verdict, confidence),
        verdict_text.noise_sentence(verdict),
        verdict.elsewhere_sentence,
    )
    return {
        "name": pair.name,
        "forgotten": [*map(verdict_text.forgotten_sentence, verdict_text.told_arms(verdict)), *verdict.findings],
        "suites": verdict_text.suite_sentences(verdict),
        "confidence": [text for text in sure if text],
        "rule": verdict.rule,
        "reasons": verdict.reasons,
    }


def _flip_count(table: pd.DataFrame | None) -> int | None:
    if table is None or not {"seeds_lost", "seeds_won"} <= set(table.columns):
        return None
    return int(((table["seeds_lost"] > 0) | (table["seeds_won"] > 0)).sum())


def _flat(settings: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as dotted names and values as written."""
    found: list[tuple[str, str]] = []
    for key, value in settings.items():
        if isinstance(value, dict) and value:
            found += _flat(value, f"{prefix}{key}.")
        elif isinstance(value, list | tuple) and not any(isinstance(entry, dict | list) for entry in value):
            found.append((f"{prefix}{key}", ", ".join(map(str, value))))
        else:
            found.append((f"{prefix}{key}", "not known" if value is None else str(value)))
    return found
