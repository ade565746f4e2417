"""The layout of scoring: trunks one after another, then the branches of each, all after a common beginning or none.

A trunk is a prompt, causal in itself. A trunk's branches (the choices, shared beginnings once, in depth-first order)
see all of it; among them, token j is an ancestor of token i exactly where j <= i < end[j], with end[j] the end of j's
subtree. The common beginning is not in the row: its keys and values were computed before, once.

Shapes as in attend.py; B trunks, P tokens of the longest; C trunks that have branches, N tokens of the most; S tokens
of the common beginning.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from rankscope.model.attention.registration import Scores, attend, attend_with_sum, joined

Beginning = list[tuple[Tensor, Tensor]]
"""Keys and values (K, S, d) of every layer."""

PADDING = 1.3
"""Smaller groups of rows waste less on padding and take more calls."""

WORTH_SKIPPING = 0.5
"""Up to this share of the trunks' tokens read, the last layer leaves the others out."""


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


@dataclass
class _Part:
    """Rows of like size that are padded and attend together: the tokens of the padded places of queries (rows, Q) and
    of keys (rows, S), and where a query is. `sees` gives of a window what a query sees, (rows or 1, 1, Q, S) in bool;
    None where all that is causal, with Q = S."""

    queries: Tensor
    keys: Tensor
    real: Tensor
    sees: Callable[[int | None], Tensor | None]
    masks: dict[tuple[int | None, torch.dtype], Tensor | None] = field(default_factory=dict)

    def mask(self, window: int | None, dtype: torch.dtype) -> Tensor | None:
        """Additive; kept for the other layers."""
        if (window, dtype) not in self.masks:
            mask, seen = None, self.sees(window)
            if seen is not None:
                mask = torch.zeros(seen.shape, dtype=dtype, device=seen.device)
                mask.masked_fill_(~seen, torch.finfo(dtype).min)
            self.masks[window, dtype] = mask
        return self.masks[window, dtype]


class _Group:
    """Parts whose queries are all tokens of the row, or `some` of them (sorted in `tokens`). `back`: the place of each
    among the padded places of all parts."""

    def __init__(self, parts: list[_Part], *, some: bool = False) -> None:
        self.parts = parts
        tokens = torch.cat([part.queries[part.real] for part in parts])
        places = torch.nonzero(torch.cat([part.real.flatten() for part in parts])).flatten()
        order = torch.argsort(tokens)
        self.tokens = tokens[order] if some else None
        self.back = places[order]


class BranchLayout:
    """Who sees whom in a flat row of this `shape`, after `beginning`.

    With `read` (N,), the flat positions whose final states are asked for, ascending, the model's last layer, number
    `last`, gives zeros at the other tokens of trunks: nothing comes after it that looks at them.
    """

    def __init__(
        self, shape: Shape, beginning: Beginning | None = None, *, read: Tensor | None = None, last: int | None = None
    ) -> None:
        self.beginning = beginning
        self._longest = int(shape.trunk_lengths.max()) + (int(shape.depths.max()) + 1 if len(shape.depths) else 0)
        branches = list(_branch_parts(shape))
        self._whole = _Group([*_trunk_parts(shape), *branches])
        self._last, self._last_group = last, self._whole
        if read is not None:
            count = int(shape.trunk_lengths.sum())
            read = read[read < count]
            if 0 < len(read) <= count * WORTH_SKIPPING:
                self._last_group = _Group([*_read_parts(shape, read), *branches], some=True)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scores: Scores) -> Tensor:
        heads, tokens, _ = query.shape
        group = self._last_group if layer == self._last else self._whole
        parts = [self._part(part, query, key, value, scores) for part in group.parts]
        output = torch.cat([part for part, _ in parts]).index_select(0, group.back)  # (tokens of the group, H * d)
        output = output.view(len(output), heads, -1)
        if self.beginning is not None:
            total = torch.cat([total for _, total in parts if total is not None]).index_select(0, group.back)
            asked = query if group.tokens is None else query.index_select(1, group.tokens)
            output = joined(output, total, *_after_beginning(asked, *self.beginning[layer], scores))
        if group.tokens is None:
            return output
        return output.new_zeros(tokens, *output.shape[1:]).index_copy_(0, group.tokens, output)

    def _part(
        self, part: _Part, query: Tensor, key: Tensor, value: Tensor, scores: Scores
    ) -> tuple[Tensor, Tensor | None]:
        """Output (rows * Q, H * d), and its log-sums (rows * Q, H) where a beginning must be joined."""
        q, k, v = laid(query, part.queries), laid(key, part.keys), laid(value, part.keys)
        window = scores.window if scores.window is not None and scores.window < self._longest else None
        mask = part.mask(window, query.dtype)
        if self.beginning is None:
            output, total = attend(q, k, v, scores, causal=mask is None, mask=mask), None
        else:
            output, total = attend_with_sum(q, k, v, scores, causal=mask is None, mask=mask)
            total = total.transpose(1, 2).flatten(0, 1)
        return output.transpose(1, 2).flatten(0, 1).flatten(1), total


def _trunk_parts(shape: Shape) -> Iterator[_Part]:
    """Trunks, causal in themselves."""
    lengths = shape.trunk_lengths
    starts = torch.cumsum(lengths, 0) - lengths
    for rows in _alike(lengths.tolist(), lengths.tolist(), lengths.device):
        places, real = padded(starts[rows], lengths[rows])
        yield _Part(places, places, real, partial(_trunk_sees, places.shape[1], places.device))


def _trunk_sees(count: int, device: torch.device, window: int | None) -> Tensor | None:
    if window is None:
        return None
    distance = torch.arange(count, device=device)[:, None] - torch.arange(count, device=device)
    return ((distance >= 0) & (distance < window))[None, None]


def _read_parts(shape: Shape, read: Tensor) -> Iterator[_Part]:
    """Tokens of trunks at places `read` (n,) over their own trunks."""
    lengths = shape.trunk_lengths
    ends = torch.cumsum(lengths, 0)
    owners = torch.searchsorted(ends, read, right=True)
    depths = read - (ends - lengths)[owners]
    trunks, counts = torch.unique_consecutive(owners, return_counts=True)
    firsts = torch.cumsum(counts, 0) - counts
    for rows in _alike(counts.tolist(), lengths[trunks].tolist(), lengths.device):
        chosen, real = padded(firsts[rows], counts[rows])
        keys, _ = padded((ends - lengths)[trunks[rows]], lengths[trunks[rows]])
        yield _Part(read[chosen], keys, real, partial(_read_sees, depths[chosen], keys.shape[1]))


def _read_sees(depths: Tensor, keys: int, window: int | None) -> Tensor:
    """Queries at `depths` (rows, Q) of their trunks. Padding looks like some other query: it sees one key at least."""
    distance = depths[:, :, None] - torch.arange(keys, device=depths.device)
    seen = distance >= 0
    return (seen if window is None else seen & (distance < window))[:, None]


def _branch_parts(shape: Shape) -> Iterator[_Part]:
    """The branches of each trunk, over all of it and over their own ancestors."""
    lengths, counts = shape.trunk_lengths, shape.branch_lengths
    starts = torch.cumsum(lengths, 0) - lengths
    first = int(lengths.sum())
    branch_starts = torch.cumsum(counts, 0) - counts
    for rows in _alike(counts.tolist(), (lengths[shape.owners] + counts).tolist(), lengths.device):
        owners = shape.owners[rows]
        trunks, _ = padded(starts[owners], lengths[owners])
        places, real = padded(branch_starts[rows], counts[rows])
        ends, depths = shape.ends[places] * real, shape.depths[places] * real
        sees = partial(_branches_see, lengths[owners, None], counts[rows, None], ends, depths, trunks.shape[1])
        yield _Part(first + places, torch.cat([trunks, first + places], 1), real, sees)


def _branches_see(
    lengths: Tensor, counts: Tensor, ends: Tensor, depths: Tensor, width: int, window: int | None
) -> Tensor:
    """Of trunks' and branches' tokens (C, 1), ends (C, N) and depths (C, N), trunks padded to `width`: what each branch
    token sees, (C, 1, N, P + N). Padding sees the first: a softmax needs one."""
    number = torch.arange(ends.shape[1], device=ends.device)
    column = torch.arange(width, device=ends.device)
    own = (number[:, None] >= number) & (number[:, None] < ends[:, None, :])  # (C, N, N)
    trunk = (column < lengths)[:, None, :].expand(-1, len(number), -1)  # (C, N, P)
    if window is not None:
        places = depths + lengths
        trunk = trunk & (places[:, :, None] - column < window)
        own = own & (depths[:, :, None] - depths[:, None, :] < window)
    seen = torch.cat([trunk, own], 2)
    seen[:, :, 0] |= number >= counts
    return seen[:, None]


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


def _after_beginning(query: Tensor, key: Tensor, value: Tensor, scores: Scores) -> tuple[Tensor, Tensor]:
    """Attention of every token over the whole beginning: (T, H, d) and log-sums (T, H).

    All queries of a group of heads are one set of queries to their head of keys.
    """
    heads, tokens, size = query.shape
    grouped = query.reshape(1, key.shape[0], -1, size)
    output, total = attend_with_sum(grouped, key[None], value[None], scores)
    return output.view(heads, tokens, size).transpose(0, 1), total.reshape(heads, tokens).transpose(0, 1)
