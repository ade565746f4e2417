"""Plans: what is run, what is read, and who sees whom."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
from scoring_models import choice_item, random_items

from rankscope.evaluate.prompt_choice_tree import (
    SMALL_TREE_TOKENS,
    ChoicePlan,
    PromptTree,
    RowBatch,
    TreeBatch,
    prompt_tree,
)
from rankscope.records import Item


def sequences(batch: TreeBatch | RowBatch) -> dict[int, list[int]]:
    """The tokens that each place sees, itself last."""
    if isinstance(batch, RowBatch):
        width = batch.input_ids.shape[1]
        flat = batch.input_ids.flatten().tolist()
        return {place: flat[place - place % width : place + 1] for place in range(len(flat))}
    ids, shape = batch.input_ids.tolist(), batch.shape
    found: dict[int, list[int]] = {}
    start, prompts = 0, []
    for length in shape.prompt_lengths.tolist():
        prompts.append([*batch.prefix_ids, *ids[start : start + length]])
        for place in range(length):
            found[start + place] = prompts[-1][: len(batch.prefix_ids) + place + 1]
        start += length
    first = start
    for owner, count in zip(shape.owners.tolist(), shape.tree_lengths.tolist(), strict=True):
        ends = shape.ends[start - first : start - first + count].tolist()
        for place in range(count):
            path = [ids[start + other] for other in range(place + 1) if place < ends[other]]
            found[start + place] = [*prompts[owner], *path]
        start += count
    return found


def few_shot_items() -> list[Item]:
    """Twenty items after one prefix, two with the same prompt, and some without it."""
    prefix = tuple(range(3, 83))
    items = [choice_item(one.item_id, (*prefix, *one.prompt_ids), one.choices_ids) for one in random_items(20, seed=5)]
    again = choice_item("again", items[0].prompt_ids, [(9, 9), (8,)])
    return [*items, again, *random_items(5, seed=6)]


def test_what_choices_share_stands_once() -> None:
    tree = prompt_tree((1, 2), [((5, 6, 7), 10), ((5, 6, 8, 9), 11), ((4,), 12), ((5, 3, 3), 13)])
    assert tree.row == (1, 2)
    assert sorted(tree.tree) == [3, 5, 6, 8]
    everything = (*tree.row, *tree.tree)
    read = {number: {everything[at] for at, _, owner in tree.targets if owner == number} for number in range(10, 14)}
    assert read == {10: {2, 5, 6}, 11: {2, 5, 6, 8}, 12: {2}, 13: {2, 5, 3}}


def test_a_tree_without_forks_lengthens_the_row() -> None:
    tree = prompt_tree((1, 2), [((5, 6, 7), 0), ((5, 9), 1)])
    assert tree == PromptTree(2, (1, 2, 5, 6), (), (), (), tree.targets)


def sentence_items() -> list[Item]:
    """Pairs of sentences, all after the one token that begins a text: more than one small tree holds."""
    return [
        choice_item(one.item_id, (1,), [(*one.prompt_ids, *c) for c in one.choices_ids])
        for one in random_items(60, seed=3)
    ]


def test_texts_after_one_token_are_rows_of_their_own() -> None:
    texts = [choice_item(f"text-{k}", (1,), [tuple(range(2 + k, 302 + k))]) for k in range(5)]
    plan = ChoicePlan(texts, 1000)
    for batch in (*plan.trees, *plan.trees_without_prefixes):
        assert not len(batch.shape.owners)
        assert len(batch.input_ids) <= 1000
    assert sum(len(batch.shape.prompt_lengths) for batch in plan.trees) == 5


def test_trees_below_a_short_prompt_stay_small_and_lose_little() -> None:
    plan = ChoicePlan(sentence_items(), 2000)
    trees = [int(size) for batch in plan.trees for size in batch.shape.tree_lengths]
    assert len(trees) > 1
    assert max(trees) <= 2 * SMALL_TREE_TOKENS, "a pair that is mostly alike is not cut"
    whole = prompt_tree((1,), [(c, k) for k, c in enumerate(c for one in sentence_items() for c in one.choices_ids)])
    assert sum(len(batch.input_ids) for batch in plan.trees) < 1.1 * whole.size


@pytest.mark.parametrize("budget", [64, 500, 520, 4096])
def test_an_item_is_one_tree_though_its_prompt_fills_the_budget(budget: int) -> None:
    """Else its prompt is run once for each choice."""
    choices = [tuple(range(600 + 20 * k, 615 + 20 * k)) for k in range(4)]
    plan = ChoicePlan([choice_item("long", tuple(range(3, 503)), choices)], budget)
    (batch,) = plan.trees
    assert batch.shape.tree_lengths.tolist() == [4 * 14]


def test_texts_that_are_mostly_alike_share_what_they_have_in_common() -> None:
    start = tuple(range(2, 302))
    items = [choice_item(str(k), (1,), [(*start, *range(400 + 20 * k, 415 + 20 * k))]) for k in range(10)]
    (batch,) = ChoicePlan(items, 4096).trees
    assert len(batch.input_ids) == 1 + 300 + 10 * 14


def test_a_long_prompt_is_shared_by_a_tree_of_its_size() -> None:
    prompt = tuple(range(3, 503))
    items = [choice_item(str(k), prompt, [tuple(range(600 + k, 650 + k))]) for k in range(60)]
    sizes = [
        int(size) for batch in ChoicePlan(items, 10_000).trees_without_prefixes for size in batch.shape.tree_lengths
    ]
    assert len(sizes) == 2
    assert max(sizes) <= 4 * len(prompt)


@pytest.mark.parametrize("kind", ["trees", "trees_without_prefixes", "rows"])
@pytest.mark.parametrize("made", [partial(random_items, 20, seed=1), few_shot_items, sentence_items])
def test_each_scored_token_sees_its_prompt_and_its_own_choice(kind: str, made: Callable[[], list[Item]]) -> None:
    items = made()
    plan = ChoicePlan(items, 200)
    wanted = {}
    for index, item in enumerate(items):
        for number, choice in enumerate(item.choices_ids):
            for place, token in enumerate(choice):
                key = (plan.first_choice[index] + number, place)
                wanted[key] = ([*item.prompt_ids, *choice[:place]], token)
    found = {}
    for batch in getattr(plan, kind):
        seen = sequences(batch)
        reads = batch.reads
        for read, token, choice in zip(reads.target_read, reads.target_ids, reads.target_choice, strict=True):
            at = int(reads.read[read])
            place = len(seen[at]) - len(items[owner(plan, int(choice))].prompt_ids)
            found[int(choice), place] = (seen[at], int(token))
            if isinstance(batch, TreeBatch):
                assert int(batch.position_ids[at]) == len(seen[at]) - 1
    assert found == wanted


def owner(plan: ChoicePlan, choice: int) -> int:
    return max(index for index, first in enumerate(plan.first_choice[:-1]) if first <= choice)


def test_a_shared_prefix_and_the_same_prompt_are_run_once() -> None:
    plan = ChoicePlan(few_shot_items(), 200)
    shared = [batch for batch in plan.trees if batch.prefix_ids]
    assert {batch.prefix_ids for batch in shared} == {tuple(range(3, 83))}
    assert sum(len(batch.shape.prompt_lengths) for batch in shared) == 20
    run = sum(len(batch.input_ids) for batch in plan.trees)
    assert sum(len(batch.input_ids) for batch in plan.trees_without_prefixes) == run + 20 * 80


def test_single_tokens_cost_nothing() -> None:
    plan = ChoicePlan([choice_item("letters", (3, 4, 5), [(6,), (7,), (8,), (9,)])], 99)
    for (batch,) in (plan.trees, plan.rows):
        assert batch.input_ids.flatten().tolist() == [3, 4, 5]
        assert batch.reads.read.tolist() == [2]


def test_batches_keep_the_budget_and_the_longest_come_first() -> None:
    plan = ChoicePlan(random_items(40, seed=2), 150)
    widths = [batch.input_ids.shape[1] for batch in plan.rows]
    assert widths == sorted(widths, reverse=True)
    assert all(batch.input_ids.numel() <= 150 or len(batch.input_ids) == 1 for batch in plan.rows)
    assert all(len(batch.input_ids) <= 150 or len(batch.shape.prompt_lengths) == 1 for batch in plan.trees)
    sizes = [max(map(len, sequences(batch).values())) for batch in plan.trees]
    assert max(sizes) == sizes[0]


def test_a_budget_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="budget"):
        ChoicePlan([], 0)
