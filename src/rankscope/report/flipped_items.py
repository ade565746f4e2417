"""The flipped items that a page can carry: a fair sample, each asked as a conversation, with what base and arm said."""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import islice
from typing import Any

import pandas as pd

from rankscope.report.chart_drawing import plain
from rankscope.report.conversations import conversation, middle_cut

MAX_ROWS = 2000
MAX_CHARACTERS = 900_000
MAX_TEXT = 2500
"""Of a longer turn or answer the middle is left out, with the number of characters that are gone."""

GROUP = ("model", "train_set", "arm", "suite", "way")


@dataclass(frozen=True)
class PackedItems:
    """`payload` is what the page's script reads; `shown` of `total` flips are in it."""

    payload: dict[str, Any]
    shown: int
    total: int


def sample_flips(flips: pd.DataFrame) -> pd.DataFrame:
    """As many rows that flipped as a page may hold, in an order of which every beginning is a fair sample.

    A row counts as forgotten where seeds_lost > 0, as gained where seeds_won > 0; other rows are no flips. Rows are
    drawn in turn from every model, training set, arm, suite and direction, in a seeded random order.
    """
    flipped = _flipped(flips)
    if flipped.empty:
        return flipped
    generator = random.Random(0)
    groups = [list(places) for places in flipped.groupby(list(GROUP), dropna=False, sort=False).indices.values()]
    for group in groups:
        generator.shuffle(group)
    turns = (group[turn] for turn in range(max(map(len, groups))) for group in groups if turn < len(group))
    return flipped.iloc[list(islice(turns, MAX_ROWS))].reset_index(drop=True)


def pack_items(items: pd.DataFrame, total: int | None = None) -> PackedItems:
    """Pack flipped items, in the order of `sample_flips`, until the page is full; `total` is how many flips there are
    in all (the rows given, where unknown).

    A question is [item_id, turns, choices, answer, what the base said], a row [way, model, train_set, arm, suite,
    place of its question, what the arm said, seeds that flipped, seeds].
    """
    flipped = _flipped(items)
    questions: dict[tuple[str, str, str], int] = {}
    asked: list[list[Any]] = []
    packed: list[list[Any]] = []
    characters = 0
    for cells in flipped.to_dict("records"):
        named = {name: _item_text(cells.get(name), missing="") for name in (*GROUP, "item_id")}
        key = (named["model"], named["suite"], named["item_id"])
        said = _item_text(cells.get("arm_predicted"))
        question = None if key in questions else _question(named["item_id"], cells)
        new = len(said) + 60 + (0 if question is None else _length(question))
        if len(packed) >= MAX_ROWS or characters + new > MAX_CHARACTERS:
            break
        characters += new
        if question is not None:
            questions[key] = len(asked)
            asked.append(question)
        seeds = plain(cells.get("seeds_total"))
        tail = [said, int(cells["flipped"]), None if seeds is None else int(seeds)]
        packed.append([named[name] for name in ("way", *GROUP[:-1])] + [questions[key]] + tail)
    return PackedItems({"questions": asked, "rows": packed}, len(packed), max(len(flipped), total or 0))


def _question(item_id: str, cells: dict[Any, Any]) -> list[Any]:
    prompt = plain(cells.get("prompt"))
    turns = conversation("(none)" if prompt is None else str(prompt))
    choices = cells.get("choices")
    listed = hasattr(choices, "__len__") and not isinstance(choices, str)
    texts = [_item_text(choice) for choice in choices] if choices is not None and listed else []
    return [
        item_id,
        [[turn.who, middle_cut(turn.text, MAX_TEXT)] for turn in turns],
        texts,
        _item_text(cells.get("answer")),
        _item_text(cells.get("base_predicted")),
    ]


def _length(question: list[Any]) -> int:
    """Characters of a packed question."""
    item_id, turns, choices, answer, base = question
    return sum(len(text) for text in (item_id, answer, base, *choices)) + sum(len(text) + 8 for _, text in turns)


def _flipped(items: pd.DataFrame) -> pd.DataFrame:
    """The rows that flipped, with `way` and `flipped` (the seeds in which they did); the others are left out."""
    if items.empty:
        return items
    lost, won = (pd.to_numeric(items[name]).fillna(0).astype(int) for name in ("seeds_lost", "seeds_won"))
    way = lost.gt(0).map({True: "forgotten", False: "gained"})
    return items.assign(way=way, flipped=lost.where(lost > 0, won))[(lost > 0) | (won > 0)]


def _item_text(value: Any, *, missing: str = "(none)") -> str:
    value = plain(value)
    return missing if value is None else middle_cut(str(value).strip(), MAX_TEXT)
