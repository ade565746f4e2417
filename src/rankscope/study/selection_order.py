"""The order in which the items of a suite are drawn to choose settings, and how many a draw takes.

Pure functions of names and sizes: a plan knows beforehand what a job and a report will draw.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

_SEED = "rankscope selection items"

LEAST_JUDGED = 2
"""Units (items, or clusters of items) that a suite must have left to judge by: of one nothing could be said of
others."""


class Unit(NamedTuple):
    """What is drawn whole: an item that is its own cluster (`alone`, by its id) or a cluster (by its name)."""

    alone: bool
    name: str


def unit_of(item_id: str, cluster: str | None) -> Unit:
    """The unit of an item; `cluster` is None where it is its own."""
    return Unit(cluster is None, item_id if cluster is None else cluster)


def hash_rank(name: str) -> bytes:
    """The place of an item or a cluster among all: the SHA-256 of a seed and its name."""
    return hashlib.sha256(f"{_SEED}\0{name}".encode()).digest()


def in_order(units: Iterable[Unit]) -> list[Unit]:
    """Those of least hash first."""
    return sorted(units, key=lambda unit: (hash_rank(unit.name), unit))


def units_drawn(sizes: Sequence[int], count: int) -> int:
    """How many of the first units are drawn for `count` items: whole ones until there are so many, as long as two are
    left to judge. `sizes`: items of each unit, in the order in which they are drawn."""
    items = 0
    for place, size in enumerate(sizes):
        if items >= count or len(sizes) - place <= LEAST_JUDGED:
            return place
        items += size
    return 0
