"""Which items every arm forgot, full fine-tuning only, high ranks only; and recall against reasoning."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

FORGOTTEN = [
    "model",
    "train_set",
    "suite",
    "item_id",
    "relation",
    "kind",
    "group",
    "arms_lost",
    "arms_compared",
    "arms",
]
GROUPS = ["model", "train_set", "suite", "relation", "kind", "group", "items", "base_correct", "expected"]
NAMES = ("every arm", "full only", "high ranks only", "low ranks only", "some arms")


def forgotten(flips: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """One row for each item that the base has right and at least one arm has lost in most of its seeds: FORGOTTEN.

    `group` is every arm; full only (no other method); high or low ranks only (above the median of the compared ranks,
    or not above it, and no other arm); else some arms.
    """
    by_set, keys = ["model", "train_set"], ["model", "train_set", "suite", "item_id"]
    arms = runs.drop_duplicates([*by_set, "arm"])[[*by_set, "arm", "method", "rank"]]
    known = flips[flips["base_correct"].astype(bool)].merge(arms, on=[*by_set, "arm"])
    known["rank"] = pd.to_numeric(known["rank"]).astype(float)
    compared = known.drop_duplicates([*by_set, "arm"]).groupby(by_set)
    known = known.join(compared["rank"].median().rename("middle"), on=by_set)
    known = known.join(compared.size().rename("arms_compared"), on=by_set)
    lost = known[2 * known["seeds_lost"] > known["seeds_total"]].sort_values([*keys, "arm"])
    lost = lost.assign(
        full=lost["method"] == "full",
        high=(lost["rank"] > lost["middle"]) & (lost["method"] != "full"),
        low=(lost["rank"] <= lost["middle"]) & (lost["method"] != "full"),
    )
    items = lost.groupby(keys, as_index=False).agg(
        relation=("relation", "first"), kind=("kind", "first"), arms_lost=("arm", "size"),
        arms_compared=("arms_compared", "first"), arms=("arm", ", ".join),
        full=("full", "all"), high=("high", "all"), low=("low", "all"),
    )  # fmt: skip
    every = items["arms_lost"] == items["arms_compared"]
    named = np.select([every, items["full"], items["high"], items["low"]], NAMES[:4], NAMES[4])
    return items.assign(group=named)[FORGOTTEN]


def forgotten_groups(flips: pd.DataFrame, items: pd.DataFrame) -> pd.DataFrame:
    """One row for each suite and group: how many items, of how many that the base has right: GROUPS.

    `expected` (for every arm only): what there would be if arms forgot independently, each its own share of the suite.
    """
    keys = ["model", "train_set", "suite", "relation", "kind"]
    known = flips[flips["base_correct"].astype(bool)].assign(lost=lambda f: 2 * f["seeds_lost"] > f["seeds_total"])
    rows: list[dict[str, Any]] = []
    for values, mine in known.groupby(keys, dropna=False):
        named = dict(zip(keys, values, strict=True))
        right = mine["item_id"].nunique()
        shares = mine.groupby("arm")["lost"].mean()
        here = items[(items[keys[:3]] == pd.Series(named)[keys[:3]]).all(axis=1)]["group"].value_counts()
        for name in NAMES:
            expected = float(right * np.prod(shares)) if name == "every arm" and len(shares) > 1 else None
            count = int(here.get(name, 0))
            rows.append({**named, "group": name, "items": count, "base_correct": right, "expected": expected})
    return pd.DataFrame(rows, columns=GROUPS).astype({"expected": "Float64"})


def findings(groups: pd.DataFrame, kinds: pd.DataFrame, model: str, train_set: str) -> list[str]:
    """What was forgotten, in words: by which arms, recall against reasoning, in and outside the domain."""
    mine = groups[(groups["model"] == model) & (groups["train_set"] == train_set) & (groups["relation"] != "in-domain")]
    said = []
    total = mine.groupby("group", sort=False)[["items", "base_correct", "expected"]].sum()
    if not total.empty and total["items"].sum():
        count = {str(name): int(number) for name, number in total["items"].items()}
        right, expected = int(total["base_correct"].max()), float(total["expected"].max())
        sentence = (
            f"Of {right:,} items outside the domain that the base has right, {count['every arm']:,} are forgotten"
        )
        sentence += f" by every arm (if arms forgot independently: {expected:.0f})"
        sentence += "".join(f", {count[name]:,} by {name}" for name in NAMES[1:4] if count[name])
        said.append(f"{sentence}.")
    rows = kinds[(kinds["model"] == model) & (kinds["train_set"] == train_set)]
    for kind in ("recall", "reasoning"):
        said += _kind_sentences(kind, rows[rows["kind"] == kind])
    return said


def _kind_sentences(kind: str, rows: pd.DataFrame) -> list[str]:
    """The spread over arms of what happened to a kind, for each relation that has suites of it."""
    said = []
    for relation, group in rows.groupby("relation", sort=True):
        changes = sorted(zip(group["change"].astype(float), group["arm"].astype(str), strict=True))
        told = [f"{round(100 * change, 1) + 0.0:+.1f} points ({arm})" for change, arm in changes]
        spread = told[0] if len(told) == 1 else f"from {told[0]} to {told[-1]}"
        said.append(f"{kind.capitalize()}, {relation}: {spread}.")
    return said
