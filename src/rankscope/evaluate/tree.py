"""Choices as branches of one sequence: the batches to run, planned once for a suite and used for every arm.

A line is one row of a batch. As a tree, an item's prompt comes once and its choices branch off it, shared beginnings
once, in depth-first order: token j is an ancestor of token i exactly where j <= i < end[j], with end[j] the end of j's
subtree. So one array of ends describes the attention mask of a whole batch. A choice's last token is never an input,
so a choice of one token costs nothing beyond the prompt.

Shapes: B lines of a batch, T tokens of its longest line, N positions read, M scored tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from rankscope.records import Item


@dataclass(frozen=True)
class Line:
    """Tokens of one row; `targets` are (position that predicts, token predicted, choice it belongs to)."""

    tokens: tuple[int, ...]
    depths: tuple[int, ...] | None
    ends: tuple[int, ...] | None
    targets: tuple[tuple[int, int, int], ...]


@dataclass(frozen=True)
class Batch:
    """Lines padded on the right. `depths` and `ends` are None where no line branches: causal attention is right."""

    input_ids: Tensor  # (B, T)
    depths: Tensor | None  # (B, T): the position in its own sequence
    ends: Tensor | None  # (B, T)
    read: Tensor  # (N,) positions in B*T whose logits are needed, ascending
    target_read: Tensor  # (M,) index into `read`, ascending
    target_ids: Tensor  # (M,)
    target_choice: Tensor  # (M,) number of the choice among all choices of all items


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

    @property
    def branches(self) -> bool:
        """Whether any item branches; without one, a tree and plain rows are the same."""
        return any(batch.ends is not None for batch in self.trees)

    @cached_property
    def trees(self) -> tuple[Batch, ...]:
        """One line for each item."""
        firsts = self.first_choice
        lines = (tree_line(*part, first) for part, first in zip(self.parts, firsts, strict=False))
        return tuple(pack(list(lines), self.token_budget))

    @cached_property
    def rows(self) -> tuple[Batch, ...]:
        """One line for each different choice: what any causal model can run."""
        pairs = zip(self.parts, self.first_choice, strict=False)
        lines = (line for part, first in pairs for line in row_lines(*part, first))
        return tuple(pack(list(lines), self.token_budget))

    def by_item(self, values: Sequence[float]) -> list[tuple[float, ...]]:
        """A value for each choice, grouped by item, in the order that the items were given."""
        firsts = self.first_choice
        return [tuple(values[a:b]) for a, b in pairwise(firsts)]


def split_item(item: Item) -> tuple[tuple[int, ...], tuple[tuple[int, ...], ...]]:
    """Prompt and choices. Without a prompt nothing predicts the first token, so it becomes the prompt, unscored."""
    prompt, choices = item.prompt_ids, item.choices_ids
    if not prompt and len(choices) == 1:
        prompt, choices = choices[0][:1], (choices[0][1:],)
    if not prompt or not choices or not all(choices):
        raise ValueError(f"item {item.item_id}: a prompt and choices of at least one token each are needed")
    return prompt, choices


def tree_line(prompt: tuple[int, ...], choices: Sequence[tuple[int, ...]], first: int) -> Line:
    """An item as one line, its choices numbered from `first`."""
    size = len(prompt)
    if all(len(choice) == 1 for choice in choices):
        return Line(prompt, None, None, tuple((size - 1, choice[0], first + k) for k, choice in enumerate(choices)))
    tokens, depths, ends = list(prompt), list(range(size)), [0] * size
    targets: list[tuple[int, int, int]] = []
    path: list[int] = []  # positions of the present branch
    for k in sorted(range(len(choices)), key=lambda k: choices[k]):
        choice = choices[k]
        inner = len(choice) - 1
        shared = 0
        while shared < min(len(path), inner) and tokens[path[shared]] == choice[shared]:
            shared += 1
        for position in path[shared:]:
            ends[position] = len(tokens)
        del path[shared:]
        for depth in range(shared, inner):
            path.append(len(tokens))
            tokens.append(choice[depth])
            depths.append(size + depth)
            ends.append(0)
        before = (size - 1, *path)
        targets.extend((before[t], token, first + k) for t, token in enumerate(choice))
    whole = len(tokens)
    if depths[-1] == whole - 1:  # a single branch: plain causal attention
        return Line(tuple(tokens), None, None, tuple(targets))
    return Line(tuple(tokens), tuple(depths), tuple(end or whole for end in ends), tuple(targets))


def row_lines(prompt: tuple[int, ...], choices: Sequence[tuple[int, ...]], first: int) -> Iterator[Line]:
    """An item as plain rows, longest first; a choice that another row begins with is read from that row."""
    rows: list[tuple[tuple[int, ...], list[tuple[int, int, int]]]] = []
    before = len(prompt) - 1
    for k in sorted(range(len(choices)), key=lambda k: -len(choices[k])):
        inner = choices[k][:-1]
        targets = next((found for row, found in rows if row[: len(inner)] == inner), None)
        if targets is None:
            targets = []
            rows.append((inner, targets))
        targets.extend((before + t, token, first + k) for t, token in enumerate(choices[k]))
    for inner, targets in rows:
        yield Line((*prompt, *inner), None, None, tuple(targets))


def pack(lines: list[Line], token_budget: int) -> Iterator[Batch]:
    """Batches of lines of like length, longest first."""
    lines = sorted(lines, key=lambda line: -len(line.tokens))
    start = 0
    while start < len(lines):
        size = max(1, token_budget // len(lines[start].tokens))
        yield _batch(lines[start : start + size])
        start += size


def _batch(lines: Sequence[Line]) -> Batch:
    width = len(lines[0].tokens)
    shape = (len(lines), width)
    branching = any(line.ends is not None for line in lines)
    ids = np.zeros(shape, np.int64)
    depths = np.zeros(shape, np.int64)
    ends = np.tile(np.arange(1, width + 1), (len(lines), 1))  # padding sees itself alone
    targets: list[tuple[int, int, int]] = []
    for row, line in enumerate(lines):
        size = len(line.tokens)
        ids[row, :size] = line.tokens
        depths[row, :size] = np.arange(size) if line.depths is None else line.depths
        ends[row, :size] = size if line.ends is None else line.ends
        offset = row * width
        targets.extend((offset + position, token, choice) for position, token, choice in line.targets)
    table = np.array(sorted(targets), np.int64).reshape(-1, 3)
    read, target_read = np.unique(table[:, 0], return_inverse=True)
    return Batch(
        input_ids=torch.from_numpy(ids),
        depths=torch.from_numpy(depths) if branching else None,
        ends=torch.from_numpy(ends) if branching else None,
        read=torch.from_numpy(read),
        target_read=torch.from_numpy(target_read),
        target_ids=torch.from_numpy(table[:, 1].copy()),
        target_choice=torch.from_numpy(table[:, 2].copy()),
    )


def tree_mask(ends: Tensor, depths: Tensor, dtype: torch.dtype, window: int | None = None) -> Tensor:
    """Additive attention mask (B, 1, T, T) of a batch: each token sees its ancestors and itself.

    `window`: only those fewer than `window` positions back, as layers with sliding-window attention see them.
    """
    index = torch.arange(ends.shape[1], device=ends.device)
    seen = (index[:, None] >= index) & (index[:, None] < ends[:, None, :])
    if window is not None:
        seen &= depths[:, :, None] - depths[:, None, :] < window
    mask = torch.zeros(seen.shape, dtype=dtype, device=ends.device)
    return mask.masked_fill_(~seen, torch.finfo(dtype).min)[:, None]
