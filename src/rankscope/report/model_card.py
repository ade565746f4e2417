"""README.md of an exported adapter or model: what it is, what it learned and forgot, and how to load it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
import vl_convert

from rankscope.records import ArmVerdict, SuiteOutcome, Verdict
from rankscope.records.readable_numbers import (
    arm_rate,
    interval_in_units,
    interval_of,
    nats,
    percent,
    training_time,
)
from rankscope.report.chart_drawing import Chart, spec_of
from rankscope.report.rank_charts import make_pair
from rankscope.report.serving_lines import Files, serving_lines
from rankscope.report.tradeoff_charts import tradeoff_of
from rankscope.report.units import units_of
from rankscope.report.verdict_text import (
    confidence_sentence,
    forgotten_sentence,
)
from rankscope.study.methods.method_types import code_of_folder
from rankscope.study.study import Arm, Decision
from rankscope.study.yaml_text import dump_yaml


def model_card(
    verdict: Verdict,
    row: ArmVerdict,
    arm: Arm,
    scores: pd.DataFrame,
    study: Mapping[str, Any],
    provenance: Mapping[str, Any],
    picture: str | None = None,
    files: Files = "adapter",
) -> str:
    """The card as Markdown with YAML front matter (the Hub's model-index: the arm's mean accuracy on every suite).

    `row` is the arm's part of `verdict`, `arm` its settings, `scores` the table of that name (share correct by run
    and suite), `study` and `provenance` as the report gets them, `picture` the trade-off's file beside the card,
    `files` what else is there.
    """
    parts = [
        f"---\n{dump_yaml(_front_matter(verdict, row, arm, study, files))}---",
        f"# {row.label} of study {_inline(study.get('name', ''))}",
        _lead(verdict, row, arm),
        "## Verdict",
        *(_inline(f"**{a.headline}.** {a.sentence} {a.details}") for a in verdict.answers),
        f"{_inline(confidence_sentence(verdict, _confidence(study)))}\n\n{_inline(verdict.rule)}",
        *([f"![Gain against forgetting of every arm of the study]({picture})"] if picture is not None else []),
        f"## What was forgotten\n\n{_inline(forgotten_sentence(row))}",
        f"## Suites\n\n{_suite_table(row, scores, verdict)}",
        f"## Load it\n\n{_loading(verdict, arm, study, files)}",
        f"## Serve it\n\n{serving_lines(arm, _base_place(verdict, study), _name(row, study), files)}",
        f"## Settings\n\n{_settings(row, arm, study)}",
        f"## Provenance\n\n{_provenance(provenance)}",
    ]
    return "\n\n".join(parts) + "\n"


def _name(row: ArmVerdict, study: Mapping[str, Any]) -> str:
    return f"{study.get('name', 'study')}-{row.label}"


def _front_matter(
    verdict: Verdict, row: ArmVerdict, arm: Arm, study: Mapping[str, Any], files: Files
) -> dict[str, Any]:
    base = _base_id(verdict, study)
    results = [
        {
            "task": {"type": "question-answering"},
            "dataset": {"name": outcome.suite, "type": outcome.suite},
            "metrics": [{"type": kind, "value": round(value, 6), "name": f"{name}, mean over seeds"}],
        }
        for outcome in row.per_suite
        for kind, value, name in (
            ("accuracy", outcome.accuracy, "accuracy"),
            ("loss", outcome.loss_nats, "loss of the reference in nats per token"),
        )
        if value is not None
    ]
    by_peft = arm.traits.peft_format and files == "adapter"
    return {
        "base_model": base,
        "library_name": "peft" if by_peft else "transformers",
        "tags": ["rankscope", arm.method, *(["peft"] if by_peft else []), *(["gguf"] if files == "gguf" else [])],
        "model-index": [{"name": _name(row, study), "results": results}],
    }


def _base_id(verdict: Verdict, study: Mapping[str, Any]) -> str:
    """The base's hub id, found by the name used in tables; of a folder its name, for a card leaves this machine."""
    models = study.get("model") or study.get("models") or []
    for spec in models if isinstance(models, list | tuple) else [models]:
        model_id = str(spec.get("id", "")) if isinstance(spec, Mapping) else str(spec)
        if model_id.rstrip("/").split("/")[-1] == verdict.model:
            return verdict.model if model_id.startswith(("/", "~", ".")) else model_id
    return verdict.model


def _confidence(study: Mapping[str, Any]) -> float | None:
    value = study.get("decision", {}).get("confidence")
    return None if value is None else float(value)


def _lead(verdict: Verdict, row: ArmVerdict, arm: Arm) -> str:
    where = "trained" if arm.given is None else "judged"
    lead = f"{arm.traits.described(arm)} for `{verdict.model}`, {where} on `{verdict.train_set}`."
    result = (
        f"It gains {interval_in_units(row.gain, row.gain_nats)} on suites of its training domain and forgets "
        f"{interval_in_units(row.forgetting, row.forgetting_nats, sign=False)} on the others, against the untouched "
        "base model."
    )
    chosen = verdict.recommended.label if verdict.recommended else None
    place = "" if chosen == row.label else f" It is not the recommended arm; its status is: {verdict.status_of(row)}."
    elsewhere = "" if verdict.elsewhere_sentence is None else f"\n\n{_inline(verdict.elsewhere_sentence)}"
    return f"{lead} {result}{place}{_dial(row, arm)}{elsewhere}"


def _dial(row: ArmVerdict, arm: Arm) -> str:
    """How much of the trained change this is, where it is not all of it."""
    if row.dial == 1:
        return ""
    how = (
        "its weights are interpolated with the base's" if arm.traits.dial_by == "weights" else "its alpha is so scaled"
    )
    what = f"{row.dial:g} of the trained change, W0 + {row.dial:g} (W - W0)"
    kept = "The run in the study's folder is as it was trained, with all of the change."
    return f"\n\nIt is {what}, the dial at which the arm was judged: {how}. {kept}"


def _worth(accuracy: float | None, loss: float | None) -> str:
    return percent(accuracy) if loss is None else f"{nats(loss, sign=False)} nats"


def _suite_table(row: ArmVerdict, scores: pd.DataFrame, verdict: Verdict) -> str:
    lines = [
        "| suite | relation | kind | items | guessing | base | this arm | change | by seed |",
        "|---|---|---|---:|---:|---:|---:|---|---|",
    ]
    for outcome in row.per_suite:
        lines.append(
            f"| {_inline(outcome.suite)} | {outcome.relation} | {outcome.kind or ''} | {outcome.item_count:,} "
            f"| {percent(outcome.chance) if outcome.chance is not None else ''} "
            f"| {_worth(outcome.base_accuracy, outcome.base_loss_nats)} "
            f"| {_worth(outcome.accuracy, outcome.loss_nats)} "
            f"| {interval_of(outcome.change, outcome.metric)} "
            f"| {_by_seed(outcome, row, scores, verdict)} |"
        )
    lines += ["", *(_inline(f"{o.left_out}.") for o in row.per_suite if o.left_out)]
    return "\n".join(lines).rstrip() if row.per_suite else "No suite was scored."


def _by_seed(outcome: SuiteOutcome, row: ArmVerdict, scores: pd.DataFrame, verdict: Verdict) -> str:
    if not {"model", "train_set", "arm", "suite", "seed", "accuracy"} <= set(scores.columns):
        return ""
    mine = scores[(scores["model"] == verdict.model) & (scores["train_set"] == verdict.train_set)]
    mine = mine[(mine["arm"] == row.label) & (mine["suite"] == outcome.suite)].sort_values("seed")
    return ", ".join(percent(float(value)) for value in mine["accuracy"].dropna())


def _loading(verdict: Verdict, arm: Arm, study: Mapping[str, Any], files: Files) -> str:
    """Python that loads it."""
    return arm.traits.loading_code(_base_place(verdict, study)) if files == "adapter" else code_of_folder()


def _base_place(verdict: Verdict, study: Mapping[str, Any]) -> str:
    """The base's hub id; one in a folder is named by a place to fill in: its path is nobody else's."""
    base = _base_id(verdict, study)
    return base if base == "bundled" or "/" in base else "PATH_OF_THE_BASE"


def _settings(row: ArmVerdict, arm: Arm, study: Mapping[str, Any]) -> str:
    facts: dict[str, Any] = {"method": arm.method, **arm.traits.card_settings(arm)}
    facts["learning rate"] = arm_rate(row)
    facts["dial"] = f"{row.dial:g}"
    if arm.remedy is not None:
        facts["against forgetting"] = arm.remedy
    facts["trainable parameters"] = "not known" if row.trainable_parameters is None else f"{row.trainable_parameters:,}"
    facts["seeds of the study"] = ", ".join(map(str, row.seeds))
    facts["training time of one run"] = training_time(row.cost)
    for group in ("budget", "optimizer") if arm.given is None else ():
        facts |= {key.replace("_", " "): value for key, value in dict(study.get(group, {})).items()}
    return "\n".join(f"- {key}: {_inline(str(value))}" for key, value in facts.items())


def _provenance(provenance: Mapping[str, Any]) -> str:
    lines = []
    for key, value in provenance.items():
        if isinstance(value, Mapping):
            value = ", ".join(f"{name} {entry}" for name, entry in value.items())
        lines.append(f"- {key.replace('_', ' ')}: {_inline('not known' if value is None else str(value))}")
    return "\n".join(lines) if lines else "None was recorded."


def _inline(text: str) -> str:
    """One line of Markdown: names from a study can neither open HTML nor break a table."""
    text = " ".join(str(text).split())
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")


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
