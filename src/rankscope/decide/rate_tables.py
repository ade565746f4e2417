"""The learning-rate searches as a table: the curve of each arm, what was chosen, and what forgetting does along it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from rankscope.decide.paired_items import relation, text_or_none
from rankscope.decide.verdict_reasons import one_decimal
from rankscope.records import SearchRecord
from rankscope.study.study import Decision

RATES = ["model", "train_set", "arm", "learning_rate", "steps", "validation_loss", "chosen", "at_end_of_grid"]
RATES += ["gain", "forgetting", "probe_items"]


def rates(
    searches: Sequence[SearchRecord], base: pd.DataFrame, suites: pd.DataFrame, domains: Mapping[str, str | None]
) -> pd.DataFrame:
    """One row for each arm and rate that was tried, at the last step that it reached: RATES.

    `base` are the base's predictions, `domains` the training sets' domains. Gain and forgetting are measured on the
    search's probe items only, each suite with the same weight, null where there are none; never used to choose.
    """
    known = base.assign(score=pd.to_numeric(base["score"]).astype(float)).dropna(subset=["score"])
    rows: list[dict[str, Any]] = []
    for search in searches:
        changes = _changes(search, known[known["model"] == search.model], suites, domains[search.train_set])
        for rate, curve in zip(search.rates, search.losses, strict=True):
            reached = [(steps, loss) for steps, loss in zip(search.rung_steps, curve, strict=True) if loss is not None]
            for arm in search.arms:
                gain, lost = changes.get((arm, rate), (None, None))
                rows.append(
                    {
                        "model": search.model,
                        "train_set": search.train_set,
                        "arm": arm,
                        "learning_rate": rate,
                        "steps": reached[-1][0] if reached else None,
                        "validation_loss": reached[-1][1] if reached else None,
                        "chosen": rate == search.chosen,
                        "at_end_of_grid": rate == search.chosen and search.at_end_of_grid,
                        "gain": gain,
                        "forgetting": lost,
                        "probe_items": sum(map(len, search.probe_items.values())),
                    }
                )
    types = {"steps": "Int64", "validation_loss": "Float64", "gain": "Float64", "forgetting": "Float64"}
    return pd.DataFrame(rows, columns=RATES).astype(types)


def _changes(
    search: SearchRecord, base: pd.DataFrame, suites: pd.DataFrame, domain: str | None
) -> dict[tuple[str, float], tuple[float | None, float | None]]:
    """Gain and forgetting on the probe items, by arm and rate."""
    of_suite = suites.set_index("suite")["domain"]
    before = {
        suite: base.loc[(base["suite"] == suite) & base["item_id"].isin(items), "score"].mean()
        for suite, items in search.probe_items.items()
        if suite in of_suite.index
    }
    found: dict[tuple[str, float], dict[bool, list[float]]] = {}
    for row in search.probed:
        if row.suite not in before or np.isnan(before[row.suite]):
            continue
        inside = relation(text_or_none(of_suite[row.suite]), domain) == "in-domain"
        change = row.accuracy - float(before[row.suite])
        found.setdefault((row.arm, row.learning_rate), {True: [], False: []})[inside].append(change)
    return {
        key: (
            float(np.mean(parts[True])) if parts[True] else None,
            -float(np.mean(parts[False])) if parts[False] else None,
        )
        for key, parts in found.items()
    }


def rate_sentences(table: pd.DataFrame, decision: Decision) -> list[str]:
    """What a reader should know of the rates: a best one that ends its grid, and one nearby that forgets much less."""
    said = []
    for (_, train_set, arm), group in table.groupby(["model", "train_set", "arm"], sort=False):
        chosen = group[group["chosen"]]
        if chosen.empty:
            continue
        best = chosen.iloc[0]
        name, rate = f"{arm} on {train_set}", f"{best['learning_rate']:g}"
        if best["at_end_of_grid"]:
            said.append(f"{name}: the best rate, {rate}, ends the grid that was searched; a better one may lie beyond")
        others = group[~group["chosen"] & (group["steps"] == best["steps"])].dropna(subset=["forgetting"])
        if pd.isna(best["forgetting"]) or others.empty:
            continue
        mildest = others.loc[others["forgetting"].astype(float).idxmin()]
        less = float(best["forgetting"] - mildest["forgetting"])
        if less > decision.retention_margin:
            said.append(
                f"{name}: the rate {mildest['learning_rate']:g} forgets about {one_decimal(less)} points less than the "
                f"chosen {rate} (on {best['probe_items']} probe items) at a validation loss of "
                f"{mildest['validation_loss']:.3g} against {best['validation_loss']:.3g}; the search sees the loss only"
            )
    return said
