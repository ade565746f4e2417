"""Batches of prompts and their choices as prefix trees: planned once for a suite and used for every arm.

The requests are a prefix tree: a prefix that many prompts share (few-shot examples), the prompts, and the choices of
each, what choices begin with in common once. A choice's last token is never an input, so a choice of one token costs
nothing beyond the prompt. Items with the same prompt are one, as far as that saves something: who sees whom in a tree
costs the square of its tokens.

Shapes: T tokens of a batch, B rows, Q positions read, M scored tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from rankscope.evaluate.shared_prefixes import common_tokens, shared_prefixes
from rankscope.model.attention.scoring_layout import TreeShape
from rankscope.records import Item

SMALL_TREE_TOKENS = 256
"""Trees up to here are cheap to attend in, however short the prompt is that they share."""

TREE_OF_PROMPT = 4
"""A larger tree has so many times the tokens of its prompt at most: to run the prompt again costs a quarter of it."""

ALIKE_LIMIT_FACTOR = 4
"""Where a choice is mostly what the one before it is, a tree may have so many times the tokens that it should have."""

Ids = tuple[int, ...]
Target = tuple[int, int, int]


@dataclass(frozen=True)
class PromptTree:
    """A prompt and the tree of its choices, as token ids.

    `row` runs causally: the prompt, whose length is `prompt_tokens`, and after it the only choice where there is but
    one. `tree` holds the choices else, in depth-first order; `depths` and `ends` as in `scoring_layout.TreeShape`.
    `targets` are (position that predicts, counting the tree after the row; token predicted; choice it belongs to).
    """

    prompt_tokens: int
    row: Ids
    tree: Ids
    depths: Ids
    ends: Ids
    targets: tuple[Target, ...]

    @property
    def size(self) -> int:
        """Tokens that are run."""
        return len(self.row) + len(self.tree)


@dataclass(frozen=True)
class Reads:
    """Which logits of a batch are needed, and for what."""

    read: Tensor  # (Q,) flat positions, ascending
    target_read: Tensor  # (M,) index into `read`, ascending
    target_ids: Tensor  # (M,)
    target_choice: Tensor  # (M,) number of the choice among all choices of all items


@dataclass(frozen=True)
class TreeBatch:
    """All prompts one after another, then all their choice trees, in one flat row without padding."""

    prefix_ids: Ids  # shared by all prompts, not among `input_ids`
    input_ids: Tensor  # (T,)
    position_ids: Tensor  # (T,) position of a token in its own sequence, the prefix included
    shape: TreeShape
    reads: Reads


@dataclass(frozen=True)
class RowBatch:
    """Plain rows padded on the right, which causal attention never sees."""

    input_ids: Tensor  # (B, longest)
    reads: Reads


class ChoicePlan:
    """Which tokens of `items` are run and read, in batches of at most `token_budget` padded tokens, but one prompt.

    Built once and good for every model that shares the tokenizer. The longest prompts come first, so that too little
    memory shows at once. Raises ValueError for an item without a choice, with an empty choice, or with an empty prompt
    and several choices.
    """

    def __init__(self, items: Sequence[Item], token_budget: int) -> None:
        if token_budget < 1:
            raise ValueError(f"a token budget of {token_budget} holds nothing")
        self.token_budget = token_budget
        self.parts = [split_item(item) for item in items]
        counts = [len(choices) for _, choices in self.parts]
        self.first_choice = [0, *np.cumsum(counts, dtype=np.int64).tolist()]

    @property
    def choice_count(self) -> int:
        """Choices of all items together."""
        return int(self.first_choice[-1])

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt with a choice."""
        return max((len(prompt) + max(map(len, choices)) for prompt, choices in self.parts), default=0)

    @cached_property
    def trees(self) -> tuple[TreeBatch, ...]:
        """A tree for each different prompt, or several, shared prefixes that are worth it taken out."""
        trees = self._prompt_trees()
        batches: list[TreeBatch] = []
        prompts = [tree.row[: tree.prompt_tokens] for tree in trees]
        for shared, members in shared_prefixes(prompts, saving=self.token_budget):
            parts = pack([trees[index] for index in members], self.token_budget, shared)
            batches += [tree_batch(part, shared) for part in parts]
        return tuple(batches)

    @cached_property
    def trees_without_prefixes(self) -> tuple[TreeBatch, ...]:
        """A tree for each different prompt, or several, each from its first token."""
        return tuple(tree_batch(part, 0) for part in pack(self._prompt_trees(), self.token_budget))

    @cached_property
    def rows(self) -> tuple[RowBatch, ...]:
        """One row for each different choice: what any causal model can run."""
        pairs = zip(self.parts, self.first_choice, strict=False)
        rows = [row for part, first in pairs for row in choice_rows(*part, first)]
        return tuple(row_batch(part) for part in pack(rows, self.token_budget))

    def by_item(self, values: Sequence[float]) -> list[tuple[float, ...]]:
        """A value for each choice, grouped by item, in the order that the items were given."""
        firsts = self.first_choice
        return [tuple(values[a:b]) for a, b in pairwise(firsts)]

    def _prompt_trees(self) -> list[PromptTree]:
        same: dict[Ids, list[tuple[Ids, int]]] = {}
        for (prompt, choices), first in zip(self.parts, self.first_choice, strict=False):
            same.setdefault(prompt, []).extend((choice, first + k) for k, choice in enumerate(choices))
        return [
            prompt_tree(prompt, part)
            for prompt, choices in same.items()
            for part in parted(choices, self._tree_limit(len(prompt)))
        ]

    def _tree_limit(self, prompt_tokens: int) -> int:
        """Tokens that a tree below such a prompt should have at most: beside it in the budget, but for small ones."""
        return max(SMALL_TREE_TOKENS, min(TREE_OF_PROMPT * prompt_tokens, self.token_budget - prompt_tokens))


def split_item(item: Item) -> tuple[Ids, tuple[Ids, ...]]:
    """Prompt and choices. Without a prompt nothing predicts the first token, so it becomes the prompt, unscored."""
    prompt, choices = item.prompt_ids, item.choices_ids
    if not prompt and len(choices) == 1:
        prompt, choices = choices[0][:1], (choices[0][1:],)
    if not prompt or not choices or not all(choices):
        raise ValueError(f"item {item.item_id}: a prompt and choices of at least one token each are needed")
    return prompt, choices


def parted(choices: Sequence[tuple[Ids, int]], limit: int) -> Iterator[list[tuple[Ids, int]]]:
    """Choices with their numbers in groups whose tree has at most `limit` tokens, or of one choice; larger ones where a
    choice is mostly what the one before it is."""
    group: list[tuple[Ids, int]] = []
    size = 0
    for choice, number in sorted(choices):
        inner = len(choice) - 1
        more = inner - (common_tokens(np.array(group[-1][0]), np.array(choice)) if group else 0)
        if group and size + more > (limit if 2 * more > inner else ALIKE_LIMIT_FACTOR * limit):
            yield group
            group, size, more = [], 0, inner
        group.append((choice, number))
        size += more
    yield group


def prompt_tree(prompt: Ids, choices: Sequence[tuple[Ids, int]]) -> PromptTree:
    """A prompt with its (choice, number of the choice) as a prefix tree. A tree without forks lengthens the row."""
    size = len(prompt)
    tokens: list[int] = []
    depths: list[int] = []
    ends: list[int] = []
    targets: list[Target] = []
    path: list[int] = []  # places in the tree of the present choice's tokens
    for choice, number in sorted(choices):
        inner = len(choice) - 1
        shared = 0
        while shared < min(len(path), inner) and tokens[path[shared]] == choice[shared]:
            shared += 1
        for place in path[shared:]:
            ends[place] = len(tokens)
        del path[shared:]
        for depth in range(shared, inner):
            path.append(len(tokens))
            tokens.append(choice[depth])
            depths.append(depth)
            ends.append(0)
        before = (size - 1, *(size + place for place in path))
        targets.extend((before[t], token, number) for t, token in enumerate(choice))
    for place in path:
        ends[place] = len(tokens)
    if not tokens or depths[-1] == len(tokens) - 1:
        return PromptTree(size, (*prompt, *tokens), (), (), (), tuple(targets))
    return PromptTree(size, prompt, tuple(tokens), tuple(depths), tuple(ends), tuple(targets))


def choice_rows(prompt: Ids, choices: Sequence[Ids], first: int) -> Iterator[PromptTree]:
    """An item as plain rows, longest first; a choice that another row begins with is read from that row."""
    rows: list[tuple[Ids, list[Target]]] = []
    before = len(prompt) - 1
    for k in sorted(range(len(choices)), key=lambda k: -len(choices[k])):
        inner = choices[k][:-1]
        targets = next((found for row, found in rows if row[: len(inner)] == inner), None)
        if targets is None:
            targets = []
            rows.append((inner, targets))
        targets.extend((before + t, token, first + k) for t, token in enumerate(choices[k]))
    for inner, targets in rows:
        yield PromptTree(len(prompt), (*prompt, *inner), (), (), (), tuple(targets))


def pack(trees: Sequence[PromptTree], token_budget: int, shared: int = 0) -> Iterator[list[PromptTree]]:
    """Prompts of like length together, longest first; of each, `shared` tokens are not run."""
    trees = sorted(trees, key=lambda tree: (-tree.size, -len(tree.row)))
    start = 0
    while start < len(trees):
        count = max(1, token_budget // (trees[start].size - shared))
        yield trees[start : start + count]
        start += count


def tree_batch(trees: Sequence[PromptTree], shared: int) -> TreeBatch:
    """Prompts without their first `shared` tokens, which they have in common."""
    rows = [tree.row[shared:] for tree in trees]
    forked = [index for index, tree in enumerate(trees) if tree.tree]
    row_at = _starts(rows)
    tree_at = _starts([tree.tree for tree in trees], row_at[-1])
    targets: list[Target] = []
    for tree, start, tree_start in zip(trees, row_at, tree_at, strict=False):
        size = len(tree.row)
        for position, token, choice in tree.targets:
            place = start + position - shared if position < size else tree_start + position - size
            targets.append((place, token, choice))
    positions = [np.arange(shared, len(tree.row)) for tree in trees]
    positions += [len(tree.row) + np.array(tree.depths, np.int64) for tree in trees]
    return TreeBatch(
        prefix_ids=trees[0].row[:shared],
        input_ids=_numbers([*rows, *(tree.tree for tree in trees)]),
        position_ids=torch.from_numpy(np.concatenate(positions)),
        shape=TreeShape(
            prompt_lengths=torch.tensor([len(row) for row in rows]),
            owners=torch.tensor(forked, dtype=torch.int64),
            tree_lengths=torch.tensor([len(trees[index].tree) for index in forked], dtype=torch.int64),
            depths=_numbers([tree.depths for tree in trees]),
            ends=_numbers([tree.ends for tree in trees]),
        ),
        reads=_reads(targets),
    )


def row_batch(rows: Sequence[PromptTree]) -> RowBatch:
    """Rows of which none has a tree, padded with token 0 to the first, the longest."""
    width = len(rows[0].row)
    ids = np.zeros((len(rows), width), np.int64)
    targets: list[Target] = []
    for index, one in enumerate(rows):
        ids[index, : len(one.row)] = one.row
        targets.extend((index * width + position, token, choice) for position, token, choice in one.targets)
    return RowBatch(torch.from_numpy(ids), _reads(targets))


def _reads(targets: Sequence[Target]) -> Reads:
    table = np.array(sorted(targets), np.int64).reshape(-1, 3)
    read, target_read = np.unique(table[:, 0], return_inverse=True)
    return Reads(
        read=torch.from_numpy(read),
        target_read=torch.from_numpy(target_read),
        target_ids=torch.from_numpy(table[:, 1].copy()),
        target_choice=torch.from_numpy(table[:, 2].copy()),
    )


def _starts(parts: Sequence[Ids], first: int = 0) -> list[int]:
    """Where each part begins among all, from `first`, and where the last ends."""
    starts: list[int] = [first]
    for part in parts:
        starts.append(starts[-1] + len(part))
    return starts


def _numbers(parts: Sequence[Ids]) -> Tensor:
    return torch.from_numpy(np.fromiter((number for part in parts for number in part), np.int64))
