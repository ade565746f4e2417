"""Choices as branches of their prompt: the batches to run, planned once for a suite and used for every arm.

The requests are a prefix tree: a beginning that many prompts share (few-shot examples), the prompts, and the choices of
each, shared beginnings of choices once. A choice's last token is never an input, so a choice of one token costs nothing
beyond the prompt, and items with the same prompt are one.

Shapes: T tokens of a batch, B rows, N positions read, M scored tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from rankscope.evaluate.shared_prefixes import shared_beginnings
from rankscope.model.attention.scoring_layout import Shape
from rankscope.records import Item

Ids = tuple[int, ...]
Target = tuple[int, int, int]


@dataclass(frozen=True)
class Line:
    """A prompt and its branches. `depths` and `ends` as in `model.branches.Shape`; `targets` are (position that
    predicts, counting the branches after the trunk; token predicted; choice it belongs to). The first `prompt_tokens`
    of the trunk are the prompt, whose last is the first position read."""

    prompt_tokens: int
    trunk: Ids
    branches: Ids
    depths: Ids
    ends: Ids
    targets: tuple[Target, ...]

    @property
    def size(self) -> int:
        return len(self.trunk) + len(self.branches)


@dataclass(frozen=True)
class Reads:
    """Which logits of a batch are needed, and for what."""

    read: Tensor  # (N,) flat positions, ascending
    target_read: Tensor  # (M,) index into `read`, ascending
    target_ids: Tensor  # (M,)
    target_choice: Tensor  # (M,) number of the choice among all choices of all items


@dataclass(frozen=True)
class TreeBatch:
    """All trunks one after another, then all branches, in one row without padding."""

    beginning: Ids
    input_ids: Tensor  # (T,)
    position_ids: Tensor  # (T,) position of a token in its own sequence, the beginning included
    shape: Shape
    reads: Reads


@dataclass(frozen=True)
class RowBatch:
    """Plain rows padded on the right, which causal attention never sees."""

    input_ids: Tensor  # (B, longest)
    reads: Reads


class ChoicePlan:
    """Which tokens of `items` are run and read, in batches of at most `token_budget` padded tokens (one line at least).

    Built once and good for every model that shares the tokenizer. The longest lines come first, so that too little
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
        return int(self.first_choice[-1])

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt with a choice."""
        return max((len(prompt) + max(map(len, choices)) for prompt, choices in self.parts), default=0)

    @cached_property
    def trees(self) -> tuple[TreeBatch, ...]:
        """One line for each different prompt, beginnings that are worth it taken out."""
        lines = self._lines()
        batches: list[TreeBatch] = []
        prompts = [line.trunk[: line.prompt_tokens] for line in lines]
        for shared, members in shared_beginnings(prompts, saving=self.token_budget):
            parts = pack([lines[index] for index in members], self.token_budget, shared)
            batches += [tree_batch(part, shared) for part in parts]
        return tuple(batches)

    @cached_property
    def whole_trees(self) -> tuple[TreeBatch, ...]:
        """One line for each different prompt, each from its first token."""
        return tuple(tree_batch(part, 0) for part in pack(self._lines(), self.token_budget))

    @cached_property
    def rows(self) -> tuple[RowBatch, ...]:
        """One line for each different choice: what any causal model can run."""
        pairs = zip(self.parts, self.first_choice, strict=False)
        lines = [line for part, first in pairs for line in row_lines(*part, first)]
        return tuple(row_batch(part) for part in pack(lines, self.token_budget))

    def by_item(self, values: Sequence[float]) -> list[tuple[float, ...]]:
        """A value for each choice, grouped by item, in the order that the items were given."""
        firsts = self.first_choice
        return [tuple(values[a:b]) for a, b in pairwise(firsts)]

    def _lines(self) -> list[Line]:
        same: dict[Ids, list[tuple[Ids, int]]] = {}
        for (prompt, choices), first in zip(self.parts, self.first_choice, strict=False):
            same.setdefault(prompt, []).extend((choice, first + k) for k, choice in enumerate(choices))
        return [tree_line(prompt, choices) for prompt, choices in same.items()]


def split_item(item: Item) -> tuple[Ids, tuple[Ids, ...]]:
    """Prompt and choices. Without a prompt nothing predicts the first token, so it becomes the prompt, unscored."""
    prompt, choices = item.prompt_ids, item.choices_ids
    if not prompt and len(choices) == 1:
        prompt, choices = choices[0][:1], (choices[0][1:],)
    if not prompt or not choices or not all(choices):
        raise ValueError(f"item {item.item_id}: a prompt and choices of at least one token each are needed")
    return prompt, choices


def tree_line(prompt: Ids, choices: Sequence[tuple[Ids, int]]) -> Line:
    """A prompt with its (choice, number of the choice) as branches. A single branch lengthens the trunk instead."""
    size = len(prompt)
    tokens: list[int] = []
    depths: list[int] = []
    ends: list[int] = []
    targets: list[Target] = []
    path: list[int] = []  # branch tokens of the present choice
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
        return Line(size, (*prompt, *tokens), (), (), (), tuple(targets))
    return Line(size, prompt, tuple(tokens), tuple(depths), tuple(ends), tuple(targets))


def row_lines(prompt: Ids, choices: Sequence[Ids], first: int) -> Iterator[Line]:
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
        yield Line(len(prompt), (*prompt, *inner), (), (), (), tuple(targets))


def pack(lines: Sequence[Line], token_budget: int, shared: int = 0) -> Iterator[list[Line]]:
    """Lines of like length together, longest first; of each, `shared` tokens are not run."""
    lines = sorted(lines, key=lambda line: (-line.size, -len(line.trunk)))
    start = 0
    while start < len(lines):
        count = max(1, token_budget // (lines[start].size - shared))
        yield lines[start : start + count]
        start += count


def tree_batch(lines: Sequence[Line], shared: int) -> TreeBatch:
    """Lines without their first `shared` tokens, which they have in common."""
    trunks = [line.trunk[shared:] for line in lines]
    branched = [index for index, line in enumerate(lines) if line.branches]
    trunk_at = _starts(trunks)
    branch_at = _starts([line.branches for line in lines], trunk_at[-1])
    targets: list[Target] = []
    for line, start, branch_start in zip(lines, trunk_at, branch_at, strict=False):
        size = len(line.trunk)
        for position, token, choice in line.targets:
            place = start + position - shared if position < size else branch_start + position - size
            targets.append((place, token, choice))
    positions = [np.arange(shared, len(line.trunk)) for line in lines]
    positions += [len(line.trunk) + np.array(line.depths, np.int64) for line in lines]
    return TreeBatch(
        beginning=lines[0].trunk[:shared],
        input_ids=_numbers([*trunks, *(line.branches for line in lines)]),
        position_ids=torch.from_numpy(np.concatenate(positions)),
        shape=Shape(
            trunk_lengths=torch.tensor([len(trunk) for trunk in trunks]),
            owners=torch.tensor(branched, dtype=torch.int64),
            branch_lengths=torch.tensor([len(lines[index].branches) for index in branched], dtype=torch.int64),
            depths=_numbers([line.depths for line in lines]),
            ends=_numbers([line.ends for line in lines]),
        ),
        reads=_reads(targets),
    )


def row_batch(lines: Sequence[Line]) -> RowBatch:
    width = len(lines[0].trunk)
    ids = np.zeros((len(lines), width), np.int64)
    targets: list[Target] = []
    for row, line in enumerate(lines):
        ids[row, : len(line.trunk)] = line.trunk
        targets.extend((row * width + position, token, choice) for position, token, choice in line.targets)
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
