from __future__ import annotations

import subprocess
import sys
from collections import Counter
from fractions import Fraction
from math import ceil

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rankscope.data.training_batches import collate, order, repeated, split_micro
from rankscope.plan.run_cost import step_count
from rankscope.records import Example
from rankscope.study.study import Budget


def test_every_epoch_covers_every_row_once_in_another_order() -> None:
    steps = order(23, 5, 3, seed=1)
    assert [len(step) for step in steps] == [5, 5, 5, 5, 3] * 3
    epochs = [[row for step in steps[i : i + 5] for row in step] for i in (0, 5, 10)]
    assert all(sorted(epoch) == list(range(23)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in [*epochs, range(23)]}) == 4
    assert order(23, 5, 1, seed=1) == steps[:5]
    assert order(23, 5, 3, seed=2) != steps


@pytest.mark.parametrize(
    ("rows", "size", "epochs", "seen"),
    [
        (10, 4, 0.5, 5),
        (10, 4, 1.25, 13),
        (10, 16, 2, 20),
        (10, 3, 0.01, 1),
        (7, 2, 2.5, 18),
        (10, 3, 1e-9, 1),
        (10, 5, 0.3, 3),
    ],
)
def test_fractions_of_an_epoch(rows: int, size: int, epochs: float, seen: int) -> None:
    steps = order(rows, size, epochs, seed=0)
    flat = [row for step in steps for row in step]
    assert len(flat) == seen
    if seen > 1:  # what the plan announces; it does not know that a run has at least one step
        assert step_count(rows, Budget(epochs=epochs, batch_size=size)) == len(steps)
    assert max(Counter(flat).values()) <= ceil(Fraction(epochs))
    assert all(0 < len(step) <= size for step in steps)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    rows=st.lists(
        st.tuples(*(st.lists(st.integers(0, 2), min_size=1, max_size=longest) for longest in (8, 3))),
        min_size=1, max_size=9,
    )
)  # fmt: skip
def test_shared_prefixes_give_every_row_its_tokens(rows: list[tuple[list[int], list[int]]]) -> None:
    examples = [Example(f"{i}", tuple(prompt), tuple(answer)) for i, (prompt, answer) in enumerate(rows)]
    plain, shared = collate(examples), collate(examples, share_prefixes=True)
    assert (shared.lengths, shared.starts.tolist()) == (plain.lengths, plain.starts.tolist())
    assert shared.target_ids.tolist() == plain.target_ids.tolist()
    places = torch.arange(len(plain.input_ids)) if shared.row_tokens is None else shared.row_tokens
    assert shared.input_ids[places].tolist() == plain.input_ids.tolist()
    assert shared.position_ids[places].tolist() == plain.position_ids.tolist()
    assert places[plain.target_positions].tolist() == shared.target_positions.tolist()
    assert len(set(shared.target_positions.tolist())) == len(plain.target_positions), "each is read once"
    inputs = [part.tolist() for part in plain.input_ids.split(plain.lengths)]
    of_token: dict[int, set[tuple[int, ...]]] = {}
    for start, ids in zip(plain.starts.tolist(), inputs, strict=False):
        for place in range(len(ids)):
            of_token.setdefault(int(places[start + place]), set()).add(tuple(ids[: place + 1]))
    assert all(len(prefixes) == 1 for prefixes in of_token.values()), "a token stands for one prefix"
    assert (shared.row_tokens is None) == (len(shared.input_ids) == len(plain.input_ids))
    if shared.row_tokens is not None:
        assert len(shared.input_ids) <= 0.95 * len(plain.input_ids)


def test_a_system_prompt_stands_once_and_little_in_common_is_not_worth_it() -> None:
    system = tuple(range(10, 40))
    rows = [Example(f"{i}", (*system, 100 + i, 5), (7, 8)) for i in range(6)]
    batch = collate(rows, share_prefixes=True)
    assert len(batch.input_ids) == 30 + 6 * 3
    assert batch.row_tokens is not None
    assert collate(rows).row_tokens is None
    few = [Example(f"{i}", (1, *range(100 * i, 100 * i + 40)), (7, 8)) for i in range(1, 7)]
    assert collate(few, share_prefixes=True).row_tokens is None
    twice = repeated(batch, 2)
    assert twice.row_tokens is not None
    own = twice.input_ids[twice.row_tokens]
    assert own.tolist() == 2 * collate(rows).input_ids.tolist()
    assert twice.starts.tolist() == repeated(collate(rows), 2).starts.tolist()
    assert twice.input_ids[twice.target_positions].tolist() == 2 * batch.input_ids[batch.target_positions].tolist()


def test_order_is_the_same_in_every_process() -> None:
    code = "from rankscope.data.training_batches import order; print(order(50, 8, 1.5, 7))"
    environment = {"PYTHONHASHSEED": "5", "PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == str(order(50, 8, 1.5, 7))
    assert order(6, 6, 1, 0) == [[5, 2, 4, 3, 0, 1]]


@pytest.mark.parametrize(("rows", "size", "epochs"), [(0, 4, 1), (4, 0, 1), (4, 4, 0), (4, 4, float("nan"))])
def test_no_steps_are_refused(rows: int, size: int, epochs: float) -> None:
    with pytest.raises(ValueError, match="no steps"):
        order(rows, size, epochs, 0)


def test_collate_lays_rows_one_after_another() -> None:
    batch = collate([Example("a", (1, 2, 3), (4, 5)), Example("b", (6,), (7, 8, 9))])
    assert batch.input_ids.tolist() == [1, 2, 3, 4, 6, 7, 8]
    assert batch.position_ids.tolist() == [0, 1, 2, 3, 0, 1, 2]
    assert batch.lengths == (4, 3)
    assert batch.starts.tolist() == [0, 4, 7]
    assert batch.target_positions.tolist() == [2, 3, 4, 5, 6]
    assert batch.target_ids.tolist() == [4, 5, 7, 8, 9]
    tensors = [value for value in vars(batch).values() if isinstance(value, torch.Tensor)]
    assert {tensor.dtype for tensor in tensors} == {torch.int64}
    twice = repeated(batch, 2)
    assert (twice.lengths, twice.starts.tolist()) == ((4, 3, 4, 3), [0, 4, 7, 11, 14])
    assert twice.target_positions.tolist() == [2, 3, 4, 5, 6, 9, 10, 11, 12, 13]


@pytest.mark.parametrize("example", [Example("a", (), (1, 2)), Example("a", (1, 2), ())])
def test_collate_refuses_what_cannot_be_predicted(example: Example) -> None:
    with pytest.raises(ValueError, match="example a has an empty"):
        collate([example])
    with pytest.raises(ValueError, match="no examples"):
        collate([])


def test_micro_batches_keep_order_and_budget() -> None:
    counts = [5, 5, 30, 1, 1, 9, 4]
    assert split_micro([6, 0, 1, 2, 3, 4, 5], counts, 10) == [[6, 0], [1], [2], [3, 4], [5]]
    assert split_micro([2, 0], counts, 1) == [[2], [0]]
    assert split_micro([0, 1, 2], counts, 1000) == [[0, 1, 2]]
    assert split_micro([], counts, 10) == []
