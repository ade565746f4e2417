"""Which items of a study choose settings and never judge: split as planned, named by the base's predictions."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from rankscope.edges.study_folder import StudyFolder
from rankscope.plan.selection_split import selection_items
from rankscope.records import Plan

Roles = Mapping[tuple[str, str], Mapping[str, frozenset[str]]]
"""By base model and training set, by suite that is split: the ids of the items that choose."""


def roles_of(folder: StudyFolder, plan: Plan) -> Roles:
    """As far as the base models are scored: their predictions name every item and its cluster."""
    found: dict[tuple[str, str], dict[str, frozenset[str]]] = {}
    for model, base_id in plan.base_ids.items():
        counts = {c.train_set: c.select_counts for c in plan.choices if c.model == model and c.select_counts}
        items = folder.read_predictions(base_id) if counts else None
        if items is None:
            continue
        by_suite = {str(suite): rows for suite, rows in items.groupby("suite")}
        drawn: dict[tuple[str, int], frozenset[str]] = {}  # training sets share their suites' draws
        for train_set, wanted in counts.items():
            for suite, count in wanted.items():
                if suite in by_suite and (suite, count) not in drawn:
                    drawn[suite, count] = _draw(by_suite[suite], count)
            found[model, train_set] = {s: drawn[s, count] for s, count in wanted.items() if (s, count) in drawn}
    return found


def _draw(rows: pd.DataFrame, count: int) -> frozenset[str]:
    clusters = rows["cluster"] if "cluster" in rows else pd.Series([None] * len(rows))
    return selection_items(list(rows["item_id"]), [None if pd.isna(name) else str(name) for name in clusters], count)


def chooses(rows: pd.DataFrame, chosen: Mapping[str, frozenset[str]]) -> pd.Series[bool]:
    """Of each row (suite, item_id) whether it is of an item that chooses."""
    found = pd.Series(False, index=rows.index)
    for suite, items in chosen.items():
        found |= (rows["suite"] == suite) & rows["item_id"].isin(items)
    return found
