"""The flipped items that a page can carry: a sample with every group in it, packed so that a prompt stands once."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd

from rankscope.report.chart_drawing import plain

MAX_ROWS = 2000
MAX_CHARACTERS = 900_000
MAX_TEXT = 2500
"""A longer prompt or answer is shown up to here, with the number of characters left out."""

TEXTS = ("prompt", "answer", "base_predicted", "arm_predicted")
GROUP = ("model", "train_set", "arm", "suite", "way")


@dataclass(frozen=True)
class Packed:
    """`payload` is what the page's script reads; `shown` of `total` flips are in it."""

    payload: dict[str, Any]
    shown: int
    total: int


def pack(items: pd.DataFrame, total: int | None = None) -> Packed:
    """Sample and pack flipped items; `total` is how many flips there are in all (the rows given, where unknown).

    A row counts as forgotten where seeds_lost > 0, as gained where seeds_won > 0; other rows are no flips. Rows are
    drawn in turn from every model, training set, arm, suite and direction, in a seeded random order, until the page
    is full.
    """
    flipped = _flipped(items)
    questions: dict[tuple[str, str, str], int] = {}
    asked: list[list[str]] = []
    packed: list[list[Any]] = []
    characters = 0
    for row in _in_turn(flipped):
        key = (row["model"], row["suite"], row["item_id"])
        new = 0 if key in questions else len(row["prompt"]) + len(row["answer"]) + len(row["base_predicted"])
        new += len(row["arm_predicted"]) + 60
        if len(packed) >= MAX_ROWS or characters + new > MAX_CHARACTERS:
            break
        characters += new
        if key not in questions:
            questions[key] = len(asked)
            asked.append([row["item_id"], row["prompt"], row["answer"], row["base_predicted"]])
        packed.append([row[name] for name in ("way", *GROUP[:-1])] + [questions[key]] + _tail(row))
    payload = {"questions": asked, "rows": packed}
    return Packed(payload, len(packed), max(len(flipped), total or 0))


def _tail(row: dict[str, Any]) -> list[Any]:
    return [row["arm_predicted"], row["flipped"], row["seeds"]]


def _flipped(items: pd.DataFrame) -> pd.DataFrame:
    """The rows that flipped, with `way` and `flipped` (the seeds in which they did); the others are left out."""
    if items.empty:
        return items
    lost, won = (pd.to_numeric(items[name]).fillna(0).astype(int) for name in ("seeds_lost", "seeds_won"))
    way = lost.gt(0).map({True: "forgotten", False: "gained"})
    return items.assign(way=way, flipped=lost.where(lost > 0, won))[(lost > 0) | (won > 0)]


def _row(cells: dict[Any, Any]) -> dict[str, Any]:
    row: dict[str, Any] = {name: _text(cells.get(name)) for name in TEXTS}
    choices = cells.get("choices")
    if choices is not None and not isinstance(choices, str) and hasattr(choices, "__len__") and len(choices):
        row["prompt"] += "\n" + "\n".join(f"– {_text(choice)}" for choice in choices)
    for name in (*GROUP, "item_id"):
        row[name] = _text(cells.get(name), missing="")
    row["flipped"] = int(cells["flipped"])
    seeds = plain(cells.get("seeds_total"))
    row["seeds"] = None if seeds is None else int(seeds)
    return row


def _text(value: Any, *, missing: str = "(none)") -> str:
    value = plain(value)
    if value is None:
        return missing
    text = str(value)
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]} … ({len(text) - MAX_TEXT:,} more characters)"


def _in_turn(flipped: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """Rows in an order of which every beginning is a fair sample: one of each group, then the next of each, ..."""
    if flipped.empty:
        return
    generator = random.Random(0)
    groups = [list(places) for places in flipped.groupby(list(GROUP), dropna=False, sort=False).indices.values()]
    for group in groups:
        generator.shuffle(group)
    for turn in range(max(map(len, groups))):
        for group in groups:
            if turn < len(group):
                yield _row(flipped.iloc[group[turn]].to_dict())
