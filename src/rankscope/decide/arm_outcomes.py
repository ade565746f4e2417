"""What the runs of each arm say of it: settings, cost, the seeds that are done, and why it cannot be compared."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from rankscope.records import ArmCost

_WORST_FIRST = ("diverged", "does not fit", "failed", "running", "planned", "not needed")


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

    def set_aside(self) -> ArmFacts:
        """The same arm, kept out because its undone runs leave too few seeds in common with the others."""
        return replace(self, problem=self.undone or "failed", reason=f"only {len(self.seeds)} of its seeds are done")


def arm_facts(runs: pd.DataFrame) -> tuple[ArmFacts, ...]:
    """One record per arm, by trainable parameters, then label. `runs` holds one model and one training set."""
    facts = [_one_arm(str(label), group) for label, group in runs.groupby("arm")]
    return tuple(sorted(facts, key=lambda arm: (arm.trainable_parameters or np.inf, arm.label)))


def median_seed(runs: pd.DataFrame, model: str, train_set: str, arm: str) -> int:
    """The seed whose validation loss is the median of the arm's done runs (the lower of the two middle ones).

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
        ),
        undone=undone,
        problem=problem,
        reason=_reason(group, problem),
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
