"""The layout of scoring: trunks one after another, then the branches of each, all after a common beginning or none.

A trunk is a prompt, causal in itself. A trunk's branches (the choices, shared beginnings once, in depth-first order)
see all of it; among them, token j is an ancestor of token i exactly where j <= i < end[j], with end[j] the end of j's
subtree. The common beginning is not in the row: its keys and values were computed before, once.

Shapes as in attend.py; B trunks, P tokens of the longest; C trunks that have branches, N tokens of the most; S tokens
of the common beginning.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rankscope.model.attend import Scores, attend, attend_with_sum, joined

Beginning = list[tuple[Tensor, Tensor]]
"""Keys and values (K, S, d) of every layer."""

PADDING = 1.3
"""Smaller groups of rows waste less on padding and take more calls."""


@dataclass(frozen=True)
class Shape:
    """The lengths in a flat row: trunks (B,); which trunks branch (C,), their branch tokens (C,), and for every branch
    token its depth below the trunk's end and the end of its subtree, counted from the first of the same trunk."""

    trunk_lengths: Tensor
    owners: Tensor
    branch_lengths: Tensor
    depths: Tensor
    ends: Tensor

    def to(self, device: torch.device) -> Shape:
        parts = (self.trunk_lengths, self.owners, self.branch_lengths, self.depths, self.ends)
        return Shape(*(part.to(device) for part in parts))


@dataclass(frozen=True)
class _Part:
    """Rows of like size that are padded and attend together; trunks have `branches` None and attend causally.

    `queries` and `keys` are the tokens of the padded places; `branches` are (tokens of the trunk (C, 1), branch tokens
    (C, 1), ends (C, N), depths (C, N)).
    """

    queries: Tensor
    keys: Tensor
    branches: tuple[Tensor, Tensor, Tensor, Tensor] | None

    def mask(self, window: int | None, dtype: torch.dtype) -> Tensor | None:
        """Additive, (C or 1, 1, N, keys); None for what is causal."""
        if self.branches is None and window is None:
            return None
        seen = _band(self.queries.shape[1], window, self.queries.device) if self.branches is None else self.see(window)
        return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, torch.finfo(dtype).min)

    def see(self, window: int | None) -> Tensor:
        """(C, 1, N, P + N), True where a branch token sees a key. Padding sees the first: a softmax needs one."""
        assert self.branches is not None
        lengths, counts, ends, depths = self.branches
        number = torch.arange(ends.shape[1], device=ends.device)
        column = torch.arange(self.keys.shape[1] - len(number), device=ends.device)
        own = (number[:, None] >= number) & (number[:, None] < ends[:, None, :])  # (C, N, N)
        trunk = (column < lengths)[:, None, :].expand(-1, len(number), -1)  # (C, N, P)
        if window is not None:
            places = depths + lengths
            trunk = trunk & (places[:, :, None] - column < window)
            own = own & (depths[:, :, None] - depths[:, None, :] < window)
        seen = torch.cat([trunk, own], 2)
        seen[:, :, 0] |= number >= counts
        return seen[:, None]


class BranchLayout:
    """Who sees whom in a flat row of this `shape`, after `beginning`."""

    def __init__(self, shape: Shape, beginning: Beginning | None = None) -> None:
        self.beginning = beginning
        self._masks: dict[tuple[int, int | None, torch.dtype], Tensor | None] = {}
        self._parts: list[_Part] = []
        back: list[Tensor] = []  # the place of every token in its part, parts one after another
        tokens: list[Tensor] = []
        lengths, counts = shape.trunk_lengths, shape.branch_lengths
        self._longest = int(lengths.max()) + (int(shape.depths.max()) + 1 if len(shape.depths) else 0)
        starts = torch.cumsum(lengths, 0) - lengths
        first = int(lengths.sum())
        branch_starts = torch.cumsum(counts, 0) - counts
        for rows in _alike(lengths.tolist(), lengths.tolist(), lengths.device):
            places, real = padded(starts[rows], lengths[rows])
            self._add(_Part(places, places, None), real, tokens, back)
        for rows in _alike(counts.tolist(), (lengths[shape.owners] + counts).tolist(), lengths.device):
            owners = shape.owners[rows]
            trunks, _ = padded(starts[owners], lengths[owners])
            places, real = padded(branch_starts[rows], counts[rows])
            branches = (
                lengths[owners, None],
                counts[rows, None],
                shape.ends[places] * real,
                shape.depths[places] * real,
            )
            part = _Part(first + places, torch.cat([trunks, first + places], 1), branches)
            self._add(part, real, tokens, back)
        scatter = torch.empty(first + int(counts.sum()), dtype=torch.int64, device=lengths.device)
        scatter[torch.cat(tokens)] = torch.cat(back)
        self._scatter = scatter

    def _add(self, part: _Part, real: Tensor, tokens: list[Tensor], back: list[Tensor]) -> None:
        before = sum(one.queries.numel() for one in self._parts)
        tokens.append(part.queries[real])
        back.append(before + torch.nonzero(real.flatten()).flatten())
        self._parts.append(part)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scores: Scores) -> Tensor:
        heads, tokens, _ = query.shape
        window = scores.window
        if window is not None and window >= self._longest:
            window = None
        parts = [self._part(number, query, key, value, scores, window) for number in range(len(self._parts))]
        output = torch.cat([part for part, _ in parts]).index_select(0, self._scatter)  # (T, H * d)
        output = output.view(tokens, heads, -1)
        if self.beginning is None:
            return output
        sums = [total for _, total in parts if total is not None]
        total = torch.cat(sums).index_select(0, self._scatter)
        before, before_total = _after_beginning(query, *self.beginning[layer], scores)
        return joined(output, total, before, before_total)

    def _part(
        self, number: int, query: Tensor, key: Tensor, value: Tensor, scores: Scores, window: int | None
    ) -> tuple[Tensor, Tensor | None]:
        """Output (rows * Q, H * d), and its log-sums (rows * Q, H) where a beginning must be joined."""
        part = self._parts[number]
        q, k, v = laid(query, part.queries), laid(key, part.keys), laid(value, part.keys)
        at = (number, window, query.dtype)
        if at not in self._masks:
            self._masks[at] = part.mask(window, query.dtype)
        mask = self._masks[at]
        if self.beginning is None:
            output, total = attend(q, k, v, scores, causal=mask is None, mask=mask), None
        else:
            output, total = attend_with_sum(q, k, v, scores, causal=mask is None, mask=mask)
            total = total.transpose(1, 2).flatten(0, 1)
        return output.transpose(1, 2).flatten(0, 1).flatten(1), total


def _alike(queries: list[int], keys: list[int], device: torch.device) -> list[Tensor]:
    """Rows in groups whose padded attention is at most `PADDING` times what it would be without padding."""
    groups: list[list[int]] = []
    width = span = work = 0
    for row in sorted(range(len(queries)), key=lambda row: (-queries[row], -keys[row])):
        wide = max(span, keys[row])
        if groups and (len(groups[-1]) + 1) * width * wide <= PADDING * (work + queries[row] * keys[row]):
            groups[-1].append(row)
            span, work = wide, work + queries[row] * keys[row]
        else:
            groups.append([row])
            width, span, work = queries[row], keys[row], queries[row] * keys[row]
    return [torch.tensor(group, device=device) for group in groups]


def padded(starts: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens (rows, longest) of sequences that begin at `starts`, and which are real; padding points at token 0."""
    column = torch.arange(int(lengths.max()), device=lengths.device)
    real = column < lengths[:, None]
    return torch.where(real, starts[:, None] + column, 0), real


def laid(states: Tensor, places: Tensor) -> Tensor:
    """(heads, T, d) to (rows, heads, longest, d)."""
    heads, _, size = states.shape
    rows, longest = places.shape
    by_token = states.transpose(0, 1)
    if by_token.is_contiguous():  # values are as the linear layer left them: whole tokens are copied at once
        flat = by_token.view(-1, heads * size).index_select(0, places.flatten())
        return flat.view(rows, longest, heads, size).transpose(1, 2)
    return states.index_select(1, places.flatten()).view(heads, rows, longest, size).transpose(0, 1)


def _band(count: int, window: int | None, device: torch.device) -> Tensor:
    """(1, 1, count, count), True where a token looks at itself and what came before it, `window` tokens at most."""
    distance = torch.arange(count, device=device)[:, None] - torch.arange(count, device=device)
    seen = (distance >= 0) & (distance < (count if window is None else window))
    return seen[None, None]


def _after_beginning(query: Tensor, key: Tensor, value: Tensor, scores: Scores) -> tuple[Tensor, Tensor]:
    """Attention of every token over the whole beginning: (T, H, d) and log-sums (T, H).

    All queries of a group of heads are one set of queries to their head of keys.
    """
    heads, tokens, size = query.shape
    grouped = query.reshape(1, key.shape[0], -1, size)
    output, total = attend_with_sum(grouped, key[None], value[None], scores)
    return output.view(heads, tokens, size).transpose(0, 1), total.reshape(heads, tokens).transpose(0, 1)
