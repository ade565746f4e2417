"""Renders report.html: one self-contained file that loads nothing from anywhere.

A figure of the page is a section function in one of the `*_charts.py` files, and a line of `make_sections`.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import re
from dataclasses import dataclass
from importlib import resources
from typing import Any

import jinja2
import pandas as pd
import vl_convert
from markupsafe import Markup

from rankscope import __version__
from rankscope.records import Plan, SearchRecord, VerdictFile
from rankscope.report import page_tables, verdict_text
from rankscope.report.activation_charts import attention_section, diagnostics_section, drift_section
from rankscope.report.chart_drawing import Pair, Section, Tables
from rankscope.report.cost_charts import cost_section, derived_section
from rankscope.report.cost_table import costs_table
from rankscope.report.front_charts import front_section, margins_table
from rankscope.report.rank_charts import make_pairs, rank_section
from rankscope.report.remedy_table import remedies_table, remedy_parts_table
from rankscope.report.suites_and_items import matrix_section, pack_items
from rankscope.report.tradeoff_charts import kind_section, tradeoff_section
from rankscope.report.training_charts import learning_section, search_section
from rankscope.report.weight_charts import overlap_section, weights_section

_INSIDE = ("spectra", "hidden", "attention", "neurons", "derived")


@dataclass(frozen=True)
class ReportData:
    """What a page is made of. `tables` are the study folder's, by name; `items` a sample of flipped items.

    `study` is the study's settings as a dict, `provenance` a dict of names to values, `command` what repeats it all.
    """

    study: dict[str, Any]
    plan: Plan | None
    verdicts: VerdictFile
    tables: dict[str, pd.DataFrame]
    items: pd.DataFrame
    searches: list[SearchRecord]
    provenance: dict[str, Any]
    warnings: list[str]
    command: str


def render(report: ReportData) -> str:
    """The page as HTML text. Everything that is not ours (prompts, answers, names) is escaped."""
    pairs = make_pairs(report.verdicts, report.tables, report.study)
    sections = make_sections(pairs, report.verdicts, report.tables, report.searches)
    confidence = report.study.get("decision", {}).get("confidence")
    interval = f"{100 * confidence:g} % interval" if confidence is not None else "interval"
    packed = pack_items(report.items, _flip_count(report.tables.get("flips")))
    charts = {f"chart-{s.id}-{i}": figure.spec for s in sections for i, figure in enumerate(s.figures)}
    scripts = {"library": _library(), "ours": Markup(_file("page.js"))}
    template = _environment().get_template("page.jinja")
    return template.render(
        study=report.study,
        name=report.study.get("name") or (report.plan.study if report.plan else "study"),
        answers=[_answer(pair, confidence) for pair in pairs],
        notes=report.verdicts.notes,
        sections=sections,
        arms=page_tables.arms_table(pairs, f"{interval}, all at once"),
        costs=costs_table(pairs),
        remedies=remedies_table(pairs),
        remedy_parts=remedy_parts_table(pairs),
        suites=page_tables.suites_table(report.verdicts, report.tables.get("forgetting"), interval),
        losses=page_tables.losses_table(pairs, f"{interval}, all at once"),
        texts=page_tables.text_table(report.tables.get("scores")),
        margins=margins_table(pairs),
        rates=page_tables.rates_table(report.tables.get("rates")),
        undone=page_tables.undone_table(report.tables.get("cost")),
        charts=_json(charts),
        items=_json(packed.payload),
        shown=packed.shown,
        total=packed.total,
        provenance=_flat(report.provenance),
        settings=_flat(report.study),
        warnings=[text for text in dict.fromkeys(report.warnings) if text not in report.verdicts.notes],
        command=report.command,
        version=__version__,
        css=Markup(_file("page.css")),
        scripts=scripts,
        policy=_policy(scripts),
    )


def make_sections(
    pairs: list[Pair], verdicts: VerdictFile, tables: Tables, searches: list[SearchRecord]
) -> list[Section]:
    """Every section with charts, in reading order; those on what changed inside only where a run was looked into."""
    sections = [
        rank_section(pairs),
        tradeoff_section(pairs),
        front_section(pairs, tables),
        matrix_section(verdicts, tables),
        kind_section(pairs, tables),
        learning_section(pairs, tables),
        search_section(pairs, searches),
    ]
    if any(not tables.get(name, pd.DataFrame()).empty for name in _INSIDE):
        sections += [
            weights_section(pairs, tables),
            drift_section(pairs, tables),
            attention_section(pairs, tables),
            overlap_section(pairs, tables),
            diagnostics_section(pairs, tables),
            derived_section(pairs, tables),
        ]
    return [*sections, cost_section(pairs)]


def _answer(pair: Pair, confidence: float | None) -> dict[str, Any]:
    verdict = pair.verdict
    sure = (
        verdict_text.confidence_sentence(verdict, confidence),
        verdict_text.noise_sentence(verdict),
        verdict.elsewhere_sentence,
    )
    return {
        "name": pair.name,
        "tone": verdict.tone,
        "first": verdict.answers[0],
        "others": verdict.answers[1:],
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


# ---- what stands in the file ----------------------------------------------------------------------------------------


def _json(value: Any) -> Markup:
    """JSON that no HTML parser can leave: `<`, `>`, `&` and everything outside ASCII are escaped."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def _file(name: str) -> str:
    return (resources.files("rankscope") / "report" / name).read_text(encoding="utf-8")


@functools.cache
def _library() -> Markup:
    """Vega, Vega-Lite and Vega-Embed as one script, from the package that is installed."""
    bundle = vl_convert.javascript_bundle("window.rankscopeEmbed=vegaEmbed;")
    if re.search(r"</script|<!--", bundle, re.IGNORECASE):
        raise RuntimeError("this version of vl-convert's bundle cannot stand inside a page")
    return Markup(f"(function(){{{bundle}}})();")


def _policy(scripts: dict[str, Markup]) -> str:
    """A content security policy: these very scripts, our styles, and nothing from anywhere."""
    hashes = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(str(text).encode()).digest()).decode()}'"
        for text in scripts.values()
    )
    return f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'"


def _typeset(text: str) -> str:
    """A proper minus sign before a number."""
    return re.sub(r"(?<![\w.\-/])-(?=\d)", "−", text)


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_file),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["typeset"] = _typeset
    return environment
