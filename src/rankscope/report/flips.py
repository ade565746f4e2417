"""The flipped items that a page can carry: a sample with every group in it, packed so that a prompt stands once."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import pandas as pd

from rankscope.report.drawing import plain

MAX_ROWS = 2000
MAX_CHARACTERS = 900_000
MAX_TEXT = 2500
"""A longer prompt or answer is shown up to here, with the number of characters left out."""

TEXTS = ("prompt", "answer", "base_predicted", "arm_predicted")


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
    rows = [row for row in map(_row, items.to_dict("records")) if row is not None] if not items.empty else []
    chosen = _in_turn(rows)
    questions: dict[tuple[str, str, str], int] = {}
    asked: list[list[str]] = []
    packed: list[list[Any]] = []
    characters = 0
    for row in chosen:
        key = (row["model"], row["suite"], row["item_id"])
        new = 0 if key in questions else len(row["prompt"]) + len(row["answer"]) + len(row["base_predicted"])
        new += len(row["arm_predicted"]) + 60
        if len(packed) >= MAX_ROWS or characters + new > MAX_CHARACTERS:
            break
        characters += new
        if key not in questions:
            questions[key] = len(asked)
            asked.append([row["item_id"], row["prompt"], row["answer"], row["base_predicted"]])
        packed.append(
            [row[name] for name in ("way", "model", "train_set", "arm", "suite")] + [questions[key]] + _tail(row)
        )
    payload = {"questions": asked, "rows": packed}
    return Packed(payload, len(packed), max(len(rows), total or 0))


def _tail(row: dict[str, Any]) -> list[Any]:
    return [row["arm_predicted"], row["flipped"], row["seeds"]]


def _row(cells: dict[Any, Any]) -> dict[str, Any] | None:
    lost, won = int(plain(cells.get("seeds_lost")) or 0), int(plain(cells.get("seeds_won")) or 0)
    if not lost and not won:
        return None
    row: dict[str, Any] = {name: _text(cells.get(name)) for name in TEXTS}
    choices = cells.get("choices")
    if choices is not None and not isinstance(choices, str) and hasattr(choices, "__len__") and len(choices):
        row["prompt"] += "\n" + "\n".join(f"– {_text(choice)}" for choice in choices)
    for name in ("model", "train_set", "arm", "suite", "item_id"):
        row[name] = _text(cells.get(name), missing="")
    row["way"] = "forgotten" if lost else "gained"
    row["flipped"] = lost or won
    seeds = plain(cells.get("seeds_total"))
    row["seeds"] = None if seeds is None else int(seeds)
    return row


def _text(value: Any, *, missing: str = "(none)") -> str:
    value = plain(value)
    if value is None:
        return missing
    text = str(value)
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]} … ({len(text) - MAX_TEXT:,} more characters)"


def _in_turn(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows in an order of which every beginning is a fair sample: one of each group, then the next of each, ..."""
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in rows:
        key = tuple(row[name] for name in ("model", "train_set", "arm", "suite", "way"))
        groups.setdefault(key, []).append(row)
    generator = random.Random(0)
    for group in groups.values():
        generator.shuffle(group)
    turns = max((len(group) for group in groups.values()), default=0)
    return [group[turn] for turn in range(turns) for group in groups.values() if turn < len(group)]
