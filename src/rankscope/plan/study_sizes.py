"""Sizes of a first study, from large to small, and which of them fits into a time, by the plan's own estimate."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from rankscope.study.problems import InputProblems, Problem, show

NIGHT_SECONDS = 10 * 3600
_UNITS = {"m": 60, "h": 3600}
_TIME = re.compile(r"(\d+(?:\.\d+)?)\s*(m|h)(?:in|inutes?|ours?)?")


@dataclass(frozen=True)
class StudySize:
    """How much a study does. `rows`: the most training rows; `items`: the most of a suite."""

    ranks: tuple[int, ...] = (4, 16, 64)
    full: bool = True
    rows: int = 20_000
    items: int = 500
    epochs: float = 3
    dials: tuple[float, ...] | None = None
    seeds: tuple[int, ...] = (0, 1, 2)


SIZES = (
    StudySize(),
    StudySize(rows=5_000),
    StudySize(rows=2_000, items=300),
    StudySize(rows=1_000, items=200, epochs=2),
    StudySize(rows=500, items=200, epochs=2),
    StudySize(ranks=(4, 16), full=True, rows=500, items=100, epochs=1),
    StudySize(ranks=(4, 16), full=False, rows=300, items=100, epochs=1),
    StudySize(ranks=(8,), full=False, rows=200, items=50, epochs=1, dials=(0.5, 1.0)),
)
"""Rows go first, then epochs and items, then arms: three seeds stay, since fewer decide nothing."""


def with_ranks_up_to(size: StudySize, most: float) -> StudySize:
    """Without larger ranks; the largest alone, at `most`, where all are larger."""
    return replace(size, ranks=tuple(rank for rank in size.ranks if rank <= most) or (int(most),))


def seconds_of(text: str) -> float:
    """`20m`, `2h` or `night` in seconds. Raises InputProblems."""
    if text.strip().lower() == "night":
        return float(NIGHT_SECONDS)
    found = _TIME.fullmatch(text.strip().lower())
    if found is None or float(found[1]) == 0:
        raise InputProblems([Problem("init", "--time", show(text), "20m, 2h or night (ten hours)")])
    return float(found[1]) * _UNITS[found[2]]


def fitting_size(seconds: float, row_count: int, estimate: Callable[[StudySize], float]) -> tuple[StudySize, float]:
    """The largest size that is estimated to take at most `seconds`, and that estimate; the smallest where none fits.

    Sizes that differ in nothing but rows that there are not are one. `estimate` plans a study of a size; it is asked
    as seldom as halving allows, since a smaller size never takes longer.
    """
    sizes = [size for i, size in enumerate(SIZES) if i + 1 == len(SIZES) or _differ(size, SIZES[i + 1], row_count)]
    low, high = 0, len(sizes) - 1
    known: dict[int, float] = {}
    while low < high:
        middle = (low + high) // 2
        known[middle] = estimate(sizes[middle])
        low, high = (low, middle) if known[middle] <= seconds else (middle + 1, high)
    return sizes[low], known[low] if low in known else estimate(sizes[low])


def _differ(size: StudySize, smaller: StudySize, row_count: int) -> bool:
    plain = (size.ranks, size.full, size.epochs, size.items, min(size.rows, row_count))
    return plain != (smaller.ranks, smaller.full, smaller.epochs, smaller.items, min(smaller.rows, row_count))
