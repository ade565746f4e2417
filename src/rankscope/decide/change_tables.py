"""Tables of change: accuracy minus the base's by suite, domain and kind, and gain and forgetting by seed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from rankscope.decide.crossed_statistics import estimate, gain_contrasts
from rankscope.decide.gain_and_forgetting import intervals
from rankscope.decide.paired_items import Pairing, SuiteScores

ARM = ["model", "train_set", "arm", "method", "rank"]
SUITE = ["suite", "domain", "kind", "relation"]
_CHANGES = ["n", "seeds", "base_accuracy", "accuracy", "change", "low", "high"]
FORGETTING = [*ARM, *SUITE, *_CHANGES]
MATRIX = [*ARM, "domain", "relation", "suites", *_CHANGES]
KINDS = [*ARM, "kind", "relation", "suites", *_CHANGES]
SEEDS = [*ARM, "seed", "gain", "forgetting"]

NO_DOMAIN = "(no domain)"
"""Stands in the matrix for suites without a domain: no name that a user can give."""


def forgetting(paired: Sequence[Pairing], confidence: float = 0.95) -> pd.DataFrame:
    """One row per arm and suite (in-domain ones too, text not): accuracy minus the base's, below 0 is forgetting.

    low and high are a two-sided interval at `confidence`, over items only where there is one seed.
    """

    def by_suite(suite: SuiteScores) -> dict[str, Any]:
        return {"suite": suite.name, "domain": suite.domain, "kind": suite.kind, "relation": suite.relation}

    return _changes(paired, FORGETTING, by_suite, confidence)


def matrix(paired: Sequence[Pairing], confidence: float = 0.95) -> pd.DataFrame:
    """One row per training set, arm and suite domain: the mean over the domain's suites, each with the same weight."""
    return _changes(
        paired, MATRIX, lambda suite: {"domain": suite.domain or NO_DOMAIN, "relation": suite.relation}, confidence
    )


def seeds(paired: Sequence[Pairing]) -> pd.DataFrame:
    """One row per arm and seed: its gain and its forgetting, the points of which the verdict takes the mean.

    A share of accuracy; null where there is no suite of that relation.
    """
    made: list[dict[str, Any]] = []
    for pairing in paired:
        for a, k in product(range(len(pairing.labels)), range(len(pairing.seeds))):
            gain = [suite.scores[a, k].mean() - suite.base.mean() for suite in pairing.in_domain]
            lost = [suite.base.mean() - suite.scores[a, k].mean() for suite in pairing.others]
            made.append(
                {
                    **_arm_columns(pairing, a),
                    "seed": pairing.seeds[k],
                    "gain": float(np.mean(gain)) if gain else None,
                    "forgetting": float(np.mean(lost)) if lost else None,
                }
            )
    frame = pd.DataFrame(made, columns=SEEDS).astype({"rank": "Int64", "gain": "Float64", "forgetting": "Float64"})
    return latest(frame, ["model", "train_set", "arm", "seed"])


def kinds(paired: Sequence[Pairing], confidence: float = 0.95) -> pd.DataFrame:
    """One row per arm, kind (recall or reasoning) and relation to the training set, suites with the same weight."""
    return _changes(paired, KINDS, lambda suite: {"kind": suite.kind, "relation": suite.relation}, confidence)


def _changes(
    paired: Sequence[Pairing],
    columns: list[str],
    group_of: Callable[[SuiteScores], dict[str, Any]],
    confidence: float,
) -> pd.DataFrame:
    made: list[dict[str, Any]] = []
    for pairing in paired:
        groups: dict[tuple[Any, ...], tuple[dict[str, Any], list[SuiteScores]]] = {}
        for suite in pairing.suites:
            group = group_of(suite)
            groups.setdefault(tuple(group.values()), (group, []))[1].append(suite)
        for group, members in groups.values():
            made += _change_rows(pairing, group, members, confidence)
    frame = pd.DataFrame(made, columns=columns).astype({"rank": "Int64"})
    order = [name for name in columns if name not in ("method", "rank", "suites", *_CHANGES)]
    return latest(frame, order)


def latest(frame: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """Sorted by `keys`; of rows that are alike in them the last."""
    return frame.drop_duplicates(keys, keep="last").sort_values(keys).reset_index(drop=True)


def _change_rows(
    pairing: Pairing, group: dict[str, Any], members: list[SuiteScores], confidence: float
) -> Iterator[dict[str, Any]]:
    count = len(pairing.labels)
    found = estimate([suite.arrays for suite in members], gain_contrasts(count))
    for a, interval in enumerate(intervals(found, confidence, count)):
        yield {
            **_arm_columns(pairing, a),
            **group,
            "suites": len(members),
            "n": sum(len(suite.item_ids) for suite in members),
            "seeds": len(pairing.seeds),
            "base_accuracy": float(np.mean([suite.base.mean() for suite in members])),
            "accuracy": float(np.mean([suite.scores[a].mean() for suite in members])),
            "change": interval.mean,
            "low": math.nan if interval.low is None else interval.low,
            "high": math.nan if interval.high is None else interval.high,
        }


def _arm_columns(pairing: Pairing, a: int) -> dict[str, Any]:
    arm = pairing.facts(pairing.labels[a])
    return {
        "model": pairing.model,
        "train_set": pairing.train_set,
        "arm": arm.label,
        "method": arm.method,
        "rank": pd.NA if arm.rank is None else arm.rank,
    }
