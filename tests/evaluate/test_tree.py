"""Plans: what is run, what is read, and who sees whom."""

from __future__ import annotations

import pytest
import torch
from conftest import choice_item, random_items

from rankscope.evaluate.tree import Batch, ChoicePlan, tree_line, tree_mask


def ancestors(batch: Batch, row: int) -> list[list[int]]:
    """Tokens that each token sees, itself last, by position."""
    assert batch.ends is not None
    assert batch.depths is not None
    mask = tree_mask(batch.ends, batch.depths, torch.float32)[row, 0]
    return [torch.nonzero(line == 0).flatten().tolist() for line in mask]


def test_shared_beginnings_stand_once() -> None:
    line = tree_line((1, 2), [(5, 6, 7), (5, 6, 8, 9), (4,), (5, 3)], first=10)
    assert sorted(line.tokens) == [1, 2, 5, 6, 8]
    read = {choice: [line.tokens[at] for at, _, owner in line.targets if owner == choice] for choice in range(10, 14)}
    assert {choice: sorted(tokens) for choice, tokens in read.items()} == {
        10: [2, 5, 6],
        11: [2, 5, 6, 8],
        12: [2],
        13: [2, 5],
    }


def test_each_scored_token_sees_its_prompt_and_its_own_choice() -> None:
    items = random_items(20, seed=1)
    plan = ChoicePlan(items, 200)
    wanted = {}
    for index, item in enumerate(items):
        for number, choice in enumerate(item.choices_ids):
            for place, token in enumerate(choice):
                key = (plan.first_choice[index] + number, place)
                wanted[key] = ((*item.prompt_ids, *choice[:place]), token)
    for batches in (plan.trees, plan.rows):
        found = {}
        for batch in batches:
            width = batch.input_ids.shape[1]
            for read, token, choice in zip(batch.target_read, batch.target_ids, batch.target_choice, strict=True):
                row, column = divmod(int(batch.read[read]), width)
                sees = list(range(column + 1)) if batch.ends is None else ancestors(batch, row)[column]
                place = len(sees) - len(items[owner(plan, int(choice))].prompt_ids)
                found[int(choice), place] = (tuple(batch.input_ids[row, sees].tolist()), int(token))
                if batch.depths is not None:
                    assert batch.depths[row, sees].tolist() == list(range(len(sees)))
        assert found == wanted


def owner(plan: ChoicePlan, choice: int) -> int:
    return max(index for index, first in enumerate(plan.first_choice[:-1]) if first <= choice)


def test_padding_sees_itself_and_is_never_seen() -> None:
    plan = ChoicePlan(
        [choice_item("long", range(3, 12), [(3, 4), (5, 6)]), choice_item("short", (3, 4), [(3,), (5,)])], 99
    )
    (batch,) = plan.trees
    seen = ancestors(batch, 1)
    assert seen[:2] == [[0], [0, 1]]
    assert seen[2:] == [[place] for place in range(2, 11)]


def test_single_tokens_cost_nothing_and_need_no_mask() -> None:
    plan = ChoicePlan([choice_item("letters", (3, 4, 5), [(6,), (7,), (8,), (9,)])], 99)
    assert not plan.branches
    for batches in (plan.trees, plan.rows):
        (batch,) = batches
        assert batch.input_ids.tolist() == [[3, 4, 5]]
        assert batch.read.tolist() == [2]


def test_batches_keep_the_budget_and_the_longest_come_first() -> None:
    plan = ChoicePlan(random_items(40, seed=2), 150)
    for batches in (plan.trees, plan.rows):
        widths = [batch.input_ids.shape[1] for batch in batches]
        assert widths == sorted(widths, reverse=True)
        assert all(batch.input_ids.numel() <= 150 or len(batch.input_ids) == 1 for batch in batches)


def test_a_window_hides_what_is_far() -> None:
    ends, depths = torch.tensor([[4, 4, 3, 4]]), torch.tensor([[0, 1, 2, 2]])
    seen = (tree_mask(ends, depths, torch.float32, window=2) == 0)[0, 0]
    assert seen.tolist() == [
        [True, False, False, False],
        [True, True, False, False],
        [False, True, True, False],
        [False, True, False, True],
    ]


def test_a_budget_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="budget"):
        ChoicePlan([], 0)
