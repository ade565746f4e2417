"""What the base has on every suite and what guessing would have, where the base was scored before: for the plan."""

from __future__ import annotations

import numpy as np
import pandas as pd

from rankscope.decide.chance_level import chance_of, nothing_to_forget
from rankscope.decide.paired_items import item_values, relation
from rankscope.decide.shared_contexts import shared_contexts
from rankscope.edges.study_folder import StudyFolder
from rankscope.records import Plan, SuiteFacts
from rankscope.records.readable_numbers import listing, nats, percent


def suite_levels(folder: StudyFolder, plan: Plan) -> list[str]:
    """One sentence for each base model that was scored, and one for each suite that leaves the mean of forgetting."""
    said = []
    domains = {facts.domain for facts in plan.train_sets}
    for model, run_id in plan.base_ids.items():
        base = folder.read_predictions(run_id) if folder.has_predictions(run_id) else None
        if base is None:
            continue
        told, left_out = [], []
        for facts in (facts for facts in plan.suites if facts.model == model):
            level, reason = _level(base[base["suite"] == facts.name], facts)
            told += [f"{facts.name} {level}"] if level else []
            outside = any(relation(facts.domain, domain) != "in-domain" for domain in domains)
            left_out += [f"{reason}."] if reason and outside else []
        said += [f"{model} before training: {listing(told)}."] if told else []
        said += left_out
    return said


def _level(rows: pd.DataFrame, facts: SuiteFacts) -> tuple[str | None, str | None]:
    """What the base has on one suite, and why nothing of it can be forgotten; None where it was not scored, or can."""
    values = item_values(rows, facts.metric)
    values = values[~np.isnan(values)]
    if not len(values):
        return None, None
    if facts.metric == "loss":
        return f"{nats(-float(values.mean()), sign=False)} nats per token", None
    chance = chance_of(rows, facts.form)
    guessing = f" (guessing {percent(chance)})" if chance else ""
    return f"{percent(float(values.mean()))}{guessing}", nothing_to_forget(facts.name, values, chance)


def context_warnings(folder: StudyFolder, plan: Plan) -> list[str]:
    """Suites whose items share long texts though no row has a cluster, as the bases were asked them."""
    said: list[str] = []
    for run_id in plan.base_ids.values():
        items = folder.read_items(run_id)
        base = folder.read_predictions(run_id, ["suite", "cluster"]) if folder.has_predictions(run_id) else None
        if items is not None and base is not None:
            clustered = frozenset(base.loc[base["cluster"].notna(), "suite"].astype(str))
            said += shared_contexts(items, clustered)
    return list(dict.fromkeys(said))
