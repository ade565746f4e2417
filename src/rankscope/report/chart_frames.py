"""Verdicts, tables, searches -> the ready columns that figures.py draws. Reshapes, changes units; no statistics."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from rankscope.records import ArmVerdict, Interval, SearchRecord, Verdict

CURVE_POINTS = 120
"""A training curve on the page has about this many steps at most (the page says so; train.jsonl has all)."""

PAGE_POINTS = 9000
"""All training curves of a page together have about this many steps: the more runs, the fewer each."""

_BYTES = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))
PRICES = (
    (
        "Training time",
        "train_seconds",
        ((3600.0, "hours, one run"), (60.0, "minutes, one run"), (1.0, "seconds, one run")),
    ),
    ("Peak memory", "peak_memory_bytes", _BYTES),
    ("Adapter on disk", "adapter_bytes", _BYTES),
)


def family(label: str, rank: int | None) -> str:
    """Arms that differ by rank only share a family: `lora-r16` is of `lora`."""
    return re.sub(rf"-r{rank}$", "", label) if rank is not None else label


def _points(value: float | None) -> float | None:
    return None if value is None else 100 * value


def _interval(name: str, interval: Interval) -> dict[str, float | None]:
    return {
        name: _points(interval.mean),
        f"{name}_low": _points(interval.low),
        f"{name}_high": _points(interval.high),
    }


def in_order(arms: Sequence[ArmVerdict]) -> list[ArmVerdict]:
    """Arms by trainable parameters; those whose count is unknown last."""
    return sorted(arms, key=lambda arm: (arm.trainable_parameters is None, arm.trainable_parameters or 0, arm.label))


def arm_frame(verdict: Verdict) -> pd.DataFrame:
    """One row an arm. Gain and forgetting in percentage points; `rank_position` sets families at one rank apart.

    Columns: arm, order, family, method, rank, rank_position, trainable_parameters, learning_rate, seeds, status,
    recommended, on_front, gain, gain_low, gain_high, forgetting, forgetting_low, forgetting_high, train_seconds,
    peak_memory_bytes, adapter_bytes.
    """
    arms = in_order(verdict.arms)
    families = list(dict.fromkeys(family(arm.label, arm.rank) for arm in arms if arm.rank is not None))
    recommended = verdict.recommended.label if verdict.recommended else None
    rows: list[dict[str, Any]] = []
    for order, arm in enumerate(arms):
        name = family(arm.label, arm.rank)
        shift = 0.0 if arm.rank is None else families.index(name) - (len(families) - 1) / 2
        rows.append(
            {
                "arm": arm.label,
                "order": order,
                "family": name,
                "method": arm.method,
                "rank": arm.rank,
                "rank_position": None if arm.rank is None else arm.rank * 1.05**shift,
                "trainable_parameters": arm.trainable_parameters,
                "learning_rate": arm.learning_rate,
                "seeds": len(arm.seeds),
                "status": arm.status,
                "recommended": arm.label == recommended,
                **_interval("gain", arm.gain),
                **_interval("forgetting", arm.forgetting),
                "train_seconds": arm.cost.train_seconds,
                "peak_memory_bytes": arm.cost.peak_memory_bytes,
                "adapter_bytes": arm.cost.adapter_bytes,
            }
        )
    front = _front(rows)
    for row in rows:
        row["on_front"] = row["arm"] in front
    return pd.DataFrame(rows).astype(object).where(lambda frame: frame.notna(), None)


def _front(rows: Sequence[Mapping[str, Any]]) -> set[str]:
    """Arms to which no other measured arm, nor the base at (0, 0), is at least equal on both axes and better on one."""
    measured = [(row["arm"], row["gain"], row["forgetting"]) for row in rows]
    measured = [entry for entry in measured if entry[1] is not None and entry[2] is not None]
    rivals = [(gain, forgetting) for _, gain, forgetting in measured] + [(0.0, 0.0)]
    return {
        label
        for label, gain, forgetting in measured
        if not any(g >= gain and f <= forgetting and (g, f) != (gain, forgetting) for g, f in rivals)
    }


def change_frame(table: pd.DataFrame | None, verdicts: Sequence[Verdict]) -> pd.DataFrame:
    """A table of changes (forgetting, matrix or kinds) of these verdicts, in percent and percentage points.

    Adds order (of the arm) and renames n, low and high to items, change_low and change_high; the other columns stay.
    """
    pieces = []
    for verdict in verdicts:
        rows = of_pair(table, verdict)
        if rows.empty:
            continue
        orders = {arm.label: order for order, arm in enumerate(in_order(verdict.arms))}
        rows = rows.rename(columns={"n": "items", "low": "change_low", "high": "change_high"})
        shares = ["base_accuracy", "accuracy", "change", "change_low", "change_high"]
        pieces.append(rows.assign(order=rows["arm"].map(orders), **{name: 100 * rows[name] for name in shares}))
    if not pieces:
        return pd.DataFrame()
    joined = pd.concat(pieces, ignore_index=True)
    if "domain" in joined.columns:
        joined["domain"] = joined["domain"].astype(object).where(joined["domain"].notna(), "(no domain)")
    return joined.sort_values("order", kind="stable", ignore_index=True)


def of_pair(frame: pd.DataFrame | None, verdict: Verdict) -> pd.DataFrame:
    """The rows of one base model and training set; a table without these columns belongs to every pair."""
    if frame is None or frame.empty:
        return pd.DataFrame()
    for column, value in (("model", verdict.model), ("train_set", verdict.train_set)):
        if column in frame.columns:
            frame = frame[frame[column].astype(object) == value]
    return frame


def seed_frame(outcomes: pd.DataFrame, arms: pd.DataFrame) -> pd.DataFrame:
    """Gain and forgetting of each seed, in points; needs columns arm, seed, gain, forgetting (shares)."""
    if outcomes.empty or not {"arm", "seed", "gain", "forgetting"} <= set(outcomes.columns):
        return pd.DataFrame()
    frame = outcomes.merge(arms[["arm", "family"]], on="arm")
    frame = frame.assign(gain=100 * frame["gain"], forgetting=100 * frame["forgetting"])
    return frame[["arm", "family", "seed", "gain", "forgetting"]].dropna()


def curve_points(run_count: int) -> int:
    """How many steps of each curve a page with this many runs can carry."""
    return max(20, min(CURVE_POINTS, PAGE_POINTS // max(run_count, 1)))


def learning_frame(learning: pd.DataFrame, runs: pd.DataFrame, arms: pd.DataFrame, points: int) -> pd.DataFrame:
    """Curves of one pair: arm, order, seed, series (training, validation), step, loss.

    A longer curve keeps every k-th step, counted from its last, so that it has about `points` at most.
    """
    if learning.empty:
        return pd.DataFrame()
    if not {"arm", "seed"} <= set(learning.columns):
        if not {"run_id", "arm", "seed"} <= set(runs.columns):
            return pd.DataFrame()
        learning = learning.merge(runs[["run_id", "arm", "seed"]].drop_duplicates("run_id"), on="run_id")
    orders = dict(zip(arms["arm"], arms["order"], strict=True))
    rows = learning.assign(order=learning["arm"].map(orders)).dropna(subset=["order"])
    rows = rows.sort_values(["order", "seed", "step"])
    named = {"loss_nats_per_token": "training", "validation_loss_nats_per_token": "validation"}
    pieces = []
    for column, series in named.items():
        if column not in rows.columns:
            continue
        piece = rows[["arm", "order", "seed", "step", column]].rename(columns={column: "loss"}).assign(series=series)
        pieces.append(piece[pd.to_numeric(piece["loss"], errors="coerce").abs() < float("inf")])
    if not pieces:
        return pd.DataFrame()
    whole = pd.concat(pieces, ignore_index=True)
    groups = whole.groupby(["order", "seed", "series"], sort=False)
    stride = (groups["step"].transform("size") // points + 1).astype(int)
    from_last = groups.cumcount(ascending=False)  # counted from the end, so that the last step always stays
    return whole[from_last % stride == 0].reset_index(drop=True)


def search_frame(searches: Sequence[SearchRecord]) -> pd.DataFrame:
    """Learning-rate searches: search (its arms), learning_rate, loss (at the last rung it reached), steps, chosen."""
    rows: list[dict[str, Any]] = []
    for search in searches:
        for learning_rate, losses in zip(search.rates, search.losses, strict=True):
            reached = [
                (steps, loss) for steps, loss in zip(search.rung_steps, losses, strict=False) if loss is not None
            ]
            if not reached or not abs(reached[-1][1]) < float("inf"):
                continue
            rows.append(
                {
                    "search": ", ".join(search.arms),
                    "learning_rate": learning_rate,
                    "steps": reached[-1][0],
                    "loss": reached[-1][1],
                    "chosen": search.chosen is not None and abs(learning_rate - search.chosen) <= 1e-9 * search.chosen,
                }
            )
    return pd.DataFrame(rows)


def cost_frame(arms: pd.DataFrame) -> pd.DataFrame:
    """One row for each arm and price, in the unit that suits the largest: arm, order, price, value or None, unit."""
    rows = []
    for title, column, units in PRICES:
        known = [value for value in arms[column] if value is not None]
        scale, unit = next(((s, u) for s, u in units if known and max(known) >= s), units[-1])
        for arm in arms.to_dict("records"):
            value = None if arm[column] is None else arm[column] / scale
            rows.append({"arm": arm["arm"], "order": arm["order"], "price": title, "unit": unit, "value": value})
    return pd.DataFrame(rows).astype(object).where(lambda frame: frame.notna(), None)
