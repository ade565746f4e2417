"""The size that fits: the largest, asked for seldom, and the smallest where none does."""

from __future__ import annotations

import itertools

import pytest

from rankscope.plan.study_sizes import SIZES, StudySize, fitting_size, seconds_of
from rankscope.study.problems import InputProblems


def test_times() -> None:
    assert [seconds_of(text) for text in ("20m", "2h", "1.5 h", "30min", "night")] == [1200, 7200, 5400, 1800, 36000]
    for text in ("", "0h", "2 days", "-1h", "h"):
        with pytest.raises(InputProblems, match="--time"):
            seconds_of(text)


@pytest.mark.parametrize("budget", [0.5, 3, 10, 400, 10**9])
def test_the_largest_that_fits_is_found(budget: float) -> None:
    """Against trying every size."""
    asked: list[StudySize] = []

    def estimate(size: StudySize) -> float:
        asked.append(size)
        return float(size.rows * size.epochs * (len(size.ranks) + 2 * size.full)) / 200

    size, seconds = fitting_size(budget, 10**6, estimate)
    count = len(asked)
    fitting = [one for one in SIZES if estimate(one) <= budget]
    assert size == (fitting[0] if fitting else SIZES[-1])
    assert seconds == estimate(size)
    assert count <= 4


def test_sizes_that_the_rows_do_not_tell_apart_are_one() -> None:
    size, _ = fitting_size(1, 400, lambda size: 0.0)
    assert size.rows >= 400
    assert (size.ranks, size.epochs) == (SIZES[0].ranks, SIZES[0].epochs)


def test_every_size_keeps_three_seeds_and_is_smaller_than_the_last() -> None:
    assert all(len(size.seeds) == 3 for size in SIZES)
    assert all(a.rows >= b.rows and a.items >= b.items and a.epochs >= b.epochs for a, b in itertools.pairwise(SIZES))
