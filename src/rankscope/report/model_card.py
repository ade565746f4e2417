"""README.md of an exported adapter or model: what it is, what it learned and forgot, and how to load it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import pandas as pd

from rankscope.records import ArmVerdict, SuiteOutcome, Verdict
from rankscope.records.readable_numbers import (
    arm_rate,
    interval_in_units,
    interval_of,
    nats,
    percent,
    relation_name,
    training_time,
)
from rankscope.records.suite_record import KIND_NOT_KNOWN
from rankscope.report.serving_lines import Files, serving_lines
from rankscope.report.verdict_text import (
    confidence_sentence,
    forgotten_sentence,
)
from rankscope.study.methods.method_types import code_of_folder
from rankscope.study.study import Arm
from rankscope.study.yaml_text import dump_yaml


@dataclass(frozen=True)
class Exported:
    """What the card lies beside: the run of `arm` with this seed, in these `files`; `picture`: the trade-off's file."""

    arm: Arm
    seed: int
    files: Files = "adapter"
    picture: str | None = None


def model_card(
    verdict: Verdict,
    row: ArmVerdict,
    exported: Exported,
    scores: pd.DataFrame,
    study: Mapping[str, Any],
    provenance: Mapping[str, Any],
) -> str:
    """The card as Markdown with YAML front matter (the Hub's model-index: the exported seed's accuracy on every suite,
    and the mean over seeds).

    `row` is the arm's part of `verdict`, `scores` the table of that name (share correct by run and suite), `study` and
    `provenance` as the report gets them.
    """
    arm, files, picture = exported.arm, exported.files, exported.picture
    mine = _own_scores(scores, verdict, row)
    parts = [
        f"---\n{dump_yaml(_front_matter(verdict, row, exported, mine, study))}---",
        f"# {row.label} of study {_inline(study.get('name', ''))}",
        _lead(verdict, row, exported),
        "## Verdict",
        *(_inline(f"**{a.headline}.** {a.sentence} {a.details}") for a in verdict.answers),
        f"{_inline(confidence_sentence(verdict, _confidence(study)))}\n\n{_inline(verdict.rule)}",
        *([f"![Gain against forgetting of every arm of the study]({picture})"] if picture is not None else []),
        f"## What was forgotten\n\n{_inline(forgotten_sentence(row))}",
        f"## Suites\n\n{_suite_table(row, mine, exported.seed)}",
        f"## Load it\n\n{_loading(verdict, arm, study, files)}",
        f"## Serve it\n\n{serving_lines(arm, _base_place(verdict, study), _name(row, study), files)}",
        f"## Settings\n\n{_settings(row, arm, study)}",
        f"## Provenance\n\n{_provenance(provenance)}",
    ]
    return "\n\n".join(parts) + "\n"


def _name(row: ArmVerdict, study: Mapping[str, Any]) -> str:
    return f"{study.get('name', 'study')}-{row.label}"


def _front_matter(
    verdict: Verdict, row: ArmVerdict, exported: Exported, mine: pd.DataFrame, study: Mapping[str, Any]
) -> dict[str, Any]:
    base, arm, files = _base_id(verdict, study), exported.arm, exported.files
    results = [
        {
            "task": {"type": "question-answering"},
            "dataset": {"name": outcome.suite, "type": outcome.suite},
            "metrics": metrics,
        }
        for outcome in row.per_suite
        if (metrics := _metrics(outcome, row, exported.seed, mine))
    ]
    by_peft = arm.traits.peft_format and files == "adapter"
    return {
        "base_model": base,
        "library_name": "peft" if by_peft else "transformers",
        "tags": ["rankscope", arm.method, *(["peft"] if by_peft else []), *(["gguf"] if files == "gguf" else [])],
        "model-index": [{"name": _name(row, study), "results": results}],
    }


def _metrics(outcome: SuiteOutcome, row: ArmVerdict, seed: int, mine: pd.DataFrame) -> list[dict[str, Any]]:
    """The exported seed's own number on a suite, and the mean over seeds, where there are several."""
    kind, name = ("accuracy", "accuracy") if outcome.loss_nats is None else ("loss", "loss in nats per token")
    own = _by_seed(outcome, mine).get(seed)
    mean = outcome.accuracy if outcome.loss_nats is None else outcome.loss_nats
    told = [(own, f"seed {seed}, these weights")]
    if len(row.seeds) > 1 or own is None:
        told.append((mean, f"mean over seeds {', '.join(map(str, row.seeds))}"))
    return [
        {"type": kind, "value": round(value, 6), "name": f"{name}, {of}"} for value, of in told if value is not None
    ]


def _own_scores(scores: pd.DataFrame, verdict: Verdict, row: ArmVerdict) -> pd.DataFrame:
    """The rows of the arm's runs."""
    if not {"model", "train_set", "arm", "suite", "seed", "accuracy"} <= set(scores.columns):
        return scores.iloc[:0]
    own = (scores["model"] == verdict.model) & (scores["train_set"] == verdict.train_set)
    return scores[own & (scores["arm"] == row.label)].sort_values("seed")


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


def _lead(verdict: Verdict, row: ArmVerdict, exported: Exported) -> str:
    arm = exported.arm
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
    seeds = ""
    if len(row.seeds) > 1:
        of_them = f"{exported.seed}, of median validation loss" if arm.given is None else f"{exported.seed}"
        seeds = f"\n\nThese weights are seed {of_them}; gain, forgetting and the verdict are of all {len(row.seeds)}."
    return f"{lead} {result}{place}{seeds}{_dial(row, arm)}{elsewhere}"


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


def _suite_table(row: ArmVerdict, mine: pd.DataFrame, seed: int) -> str:
    lines = [
        f"| suite | relation | kind | items | guessing | base | seed {seed} | mean of seeds | change | by seed |",
        "|---|---|---|---:|---:|---:|---:|---:|---|---|",
    ]
    for outcome in row.per_suite:
        seeds, by_loss = _by_seed(outcome, mine), outcome.loss_nats is not None
        worth = partial(nats, sign=False) if by_loss else percent
        lines.append(
            f"| {_inline(outcome.suite)} | {relation_name(outcome.relation)} "
            f"| {outcome.kind or KIND_NOT_KNOWN} | {outcome.item_count:,} "
            f"| {percent(outcome.chance) if outcome.chance is not None else ''} "
            f"| {_worth(outcome.base_accuracy, outcome.base_loss_nats)} "
            f"| {worth(seeds[seed]) if seed in seeds else ''} "
            f"| {_worth(outcome.accuracy, outcome.loss_nats)} "
            f"| {interval_of(outcome.change, outcome.metric)} "
            f"| {', '.join(map(worth, seeds.values()))} |"
        )
    lines += ["", *(_inline(f"{o.left_out}.") for o in row.per_suite if o.left_out)]
    return "\n".join(lines).rstrip() if row.per_suite else "No suite was scored."


def _by_seed(outcome: SuiteOutcome, mine: pd.DataFrame) -> dict[int, float]:
    """The accuracy of each seed on a suite; where its loss judges, the mean of its items' nats per token, of which the
    mean over seeds is too."""
    column = "accuracy" if outcome.loss_nats is None else "item_loss_nats"
    known = mine[mine["suite"] == outcome.suite].dropna(subset=[column])
    return {int(seed): float(value) for seed, value in zip(known["seed"], known[column], strict=True)}


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


_TOLD = ("commit", "versions", "machine", "device", "dtype", "model_sha256", "train_sha256", "suites_sha256")
"""Of where the numbers came from what a reader of a card needs; how the work was shared out stands in the study."""


def _provenance(provenance: Mapping[str, Any]) -> str:
    lines = []
    for key in _TOLD:
        if key not in provenance:
            continue
        value = provenance[key]
        if isinstance(value, Mapping):
            value = ", ".join(f"{name} {entry}" for name, entry in value.items())
        lines.append(f"- {key.replace('_', ' ')}: {_inline('not known' if value is None else str(value))}")
    return "\n".join(lines) if lines else "None was recorded."


def _inline(text: str) -> str:
    """One line of Markdown: names from a study can neither open HTML nor break a table."""
    text = " ".join(str(text).split())
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|")
