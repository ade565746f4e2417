"""How a batch is shared out: every row once, as many micro-batches everywhere, none above the budget."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rankscope.data.training_batches import split_micro
from rankscope.model.sharding.team import SOLO, MicroBatch, shared_out

ROWS = st.lists(st.integers(1, 50), min_size=1, max_size=20)


@given(ROWS, st.integers(1, 120), st.sampled_from([1, 2, 4, 8]))
def test_every_row_counts_once_and_nobody_waits(tokens: list[int], budget: int, size: int) -> None:
    shares = shared_out(tokens, budget, size)
    assert len({len(own) for own in shares}) == 1
    counted = sorted(row for own in shares for batch in own if not batch.filler for row in batch.rows)
    assert counted == list(range(len(tokens)))
    for own in shares:
        for batch in own:
            assert len(batch.rows) == 1 or sum(tokens[row] for row in batch.rows) <= budget
            assert not batch.filler or tokens[batch.rows[0]] == min(tokens)


@given(ROWS, st.sampled_from([2, 4, 8]))
def test_the_fullest_process_has_hardly_more_than_its_part(tokens: list[int], size: int) -> None:
    """The bound of Graham (1969) for the longest first."""
    shares = shared_out(tokens, 10**6, size)
    loads = [sum(tokens[row] for batch in own if not batch.filler for row in batch.rows) for own in shares]
    assert max(loads) <= sum(tokens) / size + max(tokens) * (1 - 1 / size)


def test_one_process_has_consecutive_rows() -> None:
    assert SOLO.share([5, 5, 5], 10) == [MicroBatch((0, 1)), MicroBatch((2,))]
    assert [list(batch.rows) for batch in SOLO.share([3, 9, 1, 4], 9)] == split_micro(range(4), [3, 9, 1, 4], 9)
    assert SOLO.any(True, False) == (True, False)
