"""Runs that were made from another without training: tidy, beside nothing but the base. Never part of the verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

COLUMNS = ["model", "train_set", "arm", "seed", "derivation", "rank", "mean_rank", "energy", "energy_kept", "factor"]
COLUMNS += ["intruders", "suite", "domain", "kind", "relation", "n", "accuracy", "base_accuracy", "change"]


def derived_scores(found: Sequence[tuple[Mapping[str, Any], pd.DataFrame]], scores: pd.DataFrame) -> pd.DataFrame:
    """One row for each derived run and suite. `found` holds (its facts, its predictions); `scores` is the scores table,
    of which the base's rows and the suites' relations are taken. Text suites, which have no accuracy, are left out."""
    base = scores[scores["arm"] == "base"].rename(columns={"accuracy": "base_accuracy"})
    base = base[["model", "train_set", "suite", "domain", "kind", "relation", "base_accuracy"]]
    parts = []
    for facts, predictions in found:
        known = predictions.assign(score=pd.to_numeric(predictions["score"]).astype(float)).dropna(subset=["score"])
        means = known.groupby("suite", as_index=False).agg(n=("score", "size"), accuracy=("score", "mean"))
        parts.append(means.assign(**{key: facts.get(key) for key in COLUMNS[:11]}))
    if not parts:
        return pd.DataFrame(columns=COLUMNS)
    frame = pd.concat(parts, ignore_index=True).merge(base, on=["model", "train_set", "suite"])
    frame["change"] = frame["accuracy"] - frame["base_accuracy"]
    integers, floats = ["rank", "intruders"], ["mean_rank", "energy", "energy_kept", "factor"]
    for column in integers + floats:
        frame[column] = pd.to_numeric(frame[column])
    frame = frame.astype({**dict.fromkeys(integers, "Int64"), **dict.fromkeys(floats, "Float64")})
    return frame[COLUMNS]
