"""Sums up runs before any items are compared: each arm's settings, seeds, cost and state, and the noise floor.

The noise floor is what a second scoring of the base model in other batches changes; no bound of the verdict rests on
less than that.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from rankscope.records import ArmCost, Metric, SuiteNoise

_WORST_FIRST = ("diverged", "does not fit", "failed", "running", "planned", "not needed")

NOISE = ["model", "suite", "n", "changed", "share", "largest_difference_nats", "graded_twice", "judge_difference"]
"""Columns of the noise table."""


@dataclass(frozen=True)
class ArmFacts:
    """One arm of one study. `problem` is the state that keeps it out of the comparison, None where it is compared.

    `undone` is the worst state among its runs that are not done, None where all are.
    """

    label: str
    method: str
    rank: int | None
    alpha: float | None
    targets: list[str] | str | None
    learning_rate: float | None
    trainable_parameters: int | None
    seeds: tuple[int, ...]
    cost: ArmCost
    undone: str | None
    problem: str | None
    reason: str | None
    dial: float = 1.0
    """How much of the trained change is applied: W0 + dial (W - W0)."""
    remedy: str | None = None
    """What it does against forgetting while it trains; None where nothing."""

    def set_aside(self) -> ArmFacts:
        """The same arm, kept out because its undone runs leave too few seeds in common with the others."""
        return replace(self, problem=self.undone or "failed", reason=f"only {len(self.seeds)} of its seeds are done")


def arm_facts(runs: pd.DataFrame) -> tuple[ArmFacts, ...]:
    """Summarises the runs of each arm, by trainable parameters, then label.

    `runs` has the rows of one base model and one training set: arm, method, rank, alpha, targets, learning_rate, seed,
    state, reason, and what a run took (`ArmCost`'s fields); `dial` where it is not 1, `trained_here` where it is false.
    """
    facts = [_one_arm(str(label), group) for label, group in runs.groupby("arm")]
    return tuple(sorted(facts, key=lambda arm: (arm.trainable_parameters or np.inf, arm.label)))


def median_seed(runs: pd.DataFrame, model: str, train_set: str, arm: str) -> int:
    """Picks the seed whose validation loss is the median of the arm's done runs (the lower of the two middle ones).

    The median is a run that exists and is neither lucky nor unlucky; suites are not looked at. Raises LookupError
    where the arm has no done run with a validation loss.
    """
    done = runs[
        (runs["model"] == model) & (runs["train_set"] == train_set) & (runs["arm"] == arm) & (runs["state"] == "done")
    ]
    done = done[done["validation_loss"].notna()].sort_values(["validation_loss", "seed"])
    if done.empty:
        raise LookupError(f"arm {arm} on {train_set} has no finished run with a validation loss")
    return int(done["seed"].iloc[(len(done) - 1) // 2])


def _one_arm(label: str, group: pd.DataFrame) -> ArmFacts:
    done = group[group["state"] == "done"]
    states = set(group["state"])
    undone = next((state for state in _WORST_FIRST if state in states), None)
    # A run that diverged is a result (this arm does not always train), not a gap: its other seeds would flatter it.
    problem = undone if undone == "diverged" or done.empty else None
    source = done if not done.empty else group
    first = source.sort_values("seed").iloc[0]
    remedy = first.get("remedy")
    return ArmFacts(
        label=label,
        method=str(first["method"]),
        rank=_integer(first["rank"]),
        alpha=_number(first["alpha"]),
        targets=_targets(first["targets"]),
        learning_rate=_number(first["learning_rate"]),
        trainable_parameters=_integer(source["trainable_parameters"].dropna().max()),
        seeds=tuple(sorted(int(seed) for seed in done["seed"])),
        cost=ArmCost(
            train_seconds=_number(pd.to_numeric(done["train_seconds"]).mean()),
            search_seconds=_number(pd.to_numeric(group["search_seconds"]).max()),
            peak_memory_bytes=_integer(done["peak_memory_bytes"].dropna().max()),
            adapter_bytes=_integer(done["adapter_bytes"].dropna().max()),
            extra_tokens_share=_number(first.get("extra_tokens_share")) if isinstance(remedy, str) else None,
            trained_here=bool(first.get("trained_here", True)),
        ),
        undone=undone,
        problem=problem,
        reason=_reason(group, problem),
        remedy=remedy if isinstance(remedy, str) else None,
        dial=_number(first.get("dial")) or 1.0,
    )


def _reason(group: pd.DataFrame, problem: str | None) -> str | None:
    if problem is None:
        return None
    hit = group[group["state"] == problem].sort_values("seed")
    said = [reason for reason in hit["reason"] if isinstance(reason, str) and reason]
    count = f"{len(hit)} of its {len(group)} runs"
    return f"{count}: {said[0]}" if said else count


def _number(value: Any) -> float | None:
    return None if value is None or pd.isna(value) else float(value)


def _integer(value: Any) -> int | None:
    number = _number(value)
    return None if number is None else int(number)


def _targets(value: Any) -> list[str] | str | None:
    """Targets as a name or a list, from a frame cell that may hold an array, a tuple or a JSON list."""
    if isinstance(value, str):
        return [str(name) for name in json.loads(value)] if value.startswith("[") else value
    if isinstance(value, list | tuple | np.ndarray):
        return [str(name) for name in value]
    return None


# ---- the noise floor ------------------------------------------------------------------------------------------------


class Floor(NamedTuple):
    """By how much numerics alone may move a gain and a forgetting: shares of accuracy."""

    gain: float = 0.0
    forgetting: float = 0.0


NO_FLOOR = Floor()


def floor_of(in_domain: Sequence[float], others: Sequence[float]) -> Floor:
    """Averages the shares of items that change, each suite with the same weight, as gain and forgetting are means."""
    return Floor(*(float(np.mean(shares)) if shares else 0.0 for shares in (in_domain, others)))


def moved_by_rounding(base: pd.DataFrame, item_ids: Sequence[str], metric: Metric) -> float:
    """The mean absolute difference over `item_ids` between two scorings of the base: of scores (where these are 0 or 1,
    the share of items that differ), or of losses in nats for each token; 0 where there was no second scoring. Where a
    judge grades, how far it differs from itself is added, the mean over the answers that it graded twice.

    `base` is the base's rows of one suite, with `score`, `score_again` and `score_asked_again`, or `loss_nats` and
    `loss_nats_again`.
    """
    rows = base.drop_duplicates("item_id").set_index("item_id").reindex(list(item_ids))
    if metric == "score":
        apart = [_apart(rows, name) for name in ("score_again", "score_asked_again")]
        return float(np.nan_to_num(apart[0]).sum() / max(1, len(rows))) + (_mean(apart[1]) or 0.0)
    if "loss_nats_again" not in base or not len(rows):
        return 0.0
    columns = ("loss_nats", "loss_nats_again", "scored_tokens")
    first, again, tokens = (pd.to_numeric(rows[name]).to_numpy(dtype=float, na_value=np.nan) for name in columns)
    return float(np.nan_to_num(np.abs(first - again) / np.maximum(tokens, 1)).mean())


def noise(predictions: pd.DataFrame) -> pd.DataFrame:
    """One row for each base model and suite that was scored twice: columns NOISE.

    `changed` counts items whose score differs; `largest_difference_nats` is of one choice's log-likelihood. Of a judge
    `judge_difference` is the mean absolute difference of the `graded_twice` answers' two scores.
    """
    if "score_again" not in predictions:
        return pd.DataFrame(columns=NOISE)
    base = predictions[(predictions["arm"] == "base") & predictions["score_again"].notna()]
    rows = [
        {
            "model": model,
            "suite": suite,
            "n": len(group),
            "changed": int(_changed(group).sum()),
            "share": float(_changed(group).mean()),
            "largest_difference_nats": _largest(group),
            "graded_twice": int((~np.isnan(_apart(group, "score_asked_again"))).sum()),
            "judge_difference": _mean(_apart(group, "score_asked_again")),
        }
        for (model, suite), group in base.groupby(["model", "suite"], sort=True)
    ]
    return pd.DataFrame(rows, columns=NOISE).astype({"judge_difference": "Float64"})


def suite_noise(predictions: pd.DataFrame, model: str) -> list[SuiteNoise]:
    """The noise of one base model as verdict.json has it."""
    table = noise(predictions)
    mine = table[table["model"] == model].to_dict("records")
    return [SuiteNoise(suite=row["suite"], item_count=row["n"], changed_items=row["changed"]) for row in mine]


def _apart(rows: pd.DataFrame, name: str) -> NDArray[np.float64]:
    """The absolute difference of another scoring, a column `name`, from the first; NaN where either is missing."""
    if name not in rows:
        return np.full(len(rows), np.nan)
    first, other = (pd.to_numeric(rows[one]).to_numpy(dtype=float, na_value=np.nan) for one in ("score", name))
    return np.abs(first - other)


def _mean(values: NDArray[np.float64]) -> float | None:
    """The mean of what is not NaN; None where all is."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else None


def _changed(rows: pd.DataFrame) -> pd.Series[bool]:
    both = rows["score"].notna() & rows["score_again"].notna()
    return both & (rows["score"].astype(float) != rows["score_again"].astype(float))


def _largest(rows: pd.DataFrame) -> float | None:
    pairs = zip(rows["choice_logprobs"], rows["choice_logprobs_again"], strict=True)
    differences = [np.abs(np.asarray(a) - np.asarray(b)).max() for a, b in pairs if a is not None and b is not None]
    return float(max(differences)) if differences else None
