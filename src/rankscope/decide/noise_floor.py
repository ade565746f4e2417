"""The noise floor: what a second scoring of the base in other batches changes, and bounds that do not rest on less."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from rankscope.records import SuiteNoise

TABLE = ["model", "suite", "n", "changed", "share", "largest_difference_nats"]


class Floor(NamedTuple):
    """By how much numerics alone may move a gain and a forgetting: shares of accuracy."""

    gain: float = 0.0
    forgetting: float = 0.0


NO_FLOOR = Floor()


def floor_of(in_domain: Sequence[float], others: Sequence[float]) -> Floor:
    """The mean over suites, each with the same weight, of the share of items that change, as G and F are means."""
    return Floor(*(float(np.mean(shares)) if shares else 0.0 for shares in (in_domain, others)))


def changed_share(base: pd.DataFrame, item_ids: Sequence[str]) -> float:
    """The share of `item_ids` whose score differs in the second scoring; 0 where there was none.

    `base` is the base's rows of one suite, with `score` and `score_again`.
    """
    if "score_again" not in base:
        return 0.0
    rows = base.drop_duplicates("item_id").set_index("item_id").reindex(list(item_ids))
    return float(_changed(rows).mean()) if len(rows) else 0.0


def noise(predictions: pd.DataFrame) -> pd.DataFrame:
    """One row per model and suite that was scored twice: items, those whose score changed, the largest difference of a
    choice's log-likelihood."""
    if "score_again" not in predictions:
        return pd.DataFrame(columns=TABLE)
    base = predictions[(predictions["arm"] == "base") & predictions["score_again"].notna()]
    rows = [
        {
            "model": model,
            "suite": suite,
            "n": len(group),
            "changed": int(_changed(group).sum()),
            "share": float(_changed(group).mean()),
            "largest_difference_nats": _largest(group),
        }
        for (model, suite), group in base.groupby(["model", "suite"], sort=True)
    ]
    return pd.DataFrame(rows, columns=TABLE)


def suite_noise(predictions: pd.DataFrame, model: str) -> list[SuiteNoise]:
    """The same for verdict.json."""
    table = noise(predictions)
    mine = table[table["model"] == model].to_dict("records")
    return [SuiteNoise(suite=row["suite"], item_count=row["n"], changed_items=row["changed"]) for row in mine]


def noise_sentences(found: Sequence[SuiteNoise], floor: Floor) -> list[str]:
    """What the reasons say of it; nothing where the base was not scored twice."""
    if not found:
        return []
    changed, count = sum(one.changed_items for one in found), sum(one.item_count for one in found)
    if not changed:
        return [f"Scored again in other batches, none of the base's {count:,} items changes."]
    return [
        f"Scored again in other batches, {changed:,} of the base's {count:,} items change by numerics alone: the "
        f"bounds of gain are wider by {100 * floor.gain:.2f} points for that, those of forgetting by "
        f"{100 * floor.forgetting:.2f}."
    ]


def _changed(rows: pd.DataFrame) -> pd.Series[bool]:
    both = rows["score"].notna() & rows["score_again"].notna()
    return both & (rows["score"].astype(float) != rows["score_again"].astype(float))


def _largest(rows: pd.DataFrame) -> float | None:
    pairs = zip(rows["choice_logprobs"], rows["choice_logprobs_again"], strict=True)
    differences = [np.abs(np.asarray(a) - np.asarray(b)).max() for a, b in pairs if a is not None and b is not None]
    return float(max(differences)) if differences else None
