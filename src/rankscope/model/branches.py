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
from torch.nn.utils.rnn import pad_sequence

from rankscope.model.attend import Scores, attend, attend_with_sum, joined

Beginning = list[tuple[Tensor, Tensor]]
"""Keys and values (K, S, d) of every layer."""


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


class BranchLayout:
    """Who sees whom in a flat row of this `shape`, after `beginning`."""

    def __init__(self, shape: Shape, beginning: Beginning | None = None) -> None:
        self.beginning = beginning
        self._shape = shape
        self.trunk_places, trunk_scatter = _places(shape.trunk_lengths, 0)
        self._scatter = trunk_scatter
        self._masks: dict[tuple[str, int | None, torch.dtype], Tensor] = {}
        self._branch_places: Tensor | None = None
        if len(shape.owners):
            first = int(shape.trunk_lengths.sum())
            self._branch_places, scatter = _places(shape.branch_lengths, first)
            self._key_places = torch.cat([self.trunk_places[shape.owners], self._branch_places], 1)
            self._scatter = torch.cat([trunk_scatter, scatter + self.trunk_places.numel()])

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scores: Scores) -> Tensor:
        heads, tokens, size = query.shape
        window = scores.window
        if window is not None and window >= self._longest:
            window = None
        trunk_mask = None if window is None else self._mask("trunks", window, query.dtype)
        parts = [self._part(query, key, value, self.trunk_places, self.trunk_places, scores, trunk_mask)]
        if self._branch_places is not None:
            mask = self._mask("branches", window, query.dtype)
            parts.append(self._part(query, key, value, self._branch_places, self._key_places, scores, mask))
        output = torch.cat([part for part, _ in parts]).index_select(0, self._scatter)  # (T, H * d)
        output = output.view(tokens, heads, size)
        if self.beginning is None:
            return output
        sums = [total for _, total in parts if total is not None]
        total = torch.cat(sums).index_select(0, self._scatter)
        before, before_total = _after_beginning(query, *self.beginning[layer], scores)
        return joined(output, total, before, before_total)

    def _part(
        self, query: Tensor, key: Tensor, value: Tensor, queries: Tensor, keys: Tensor, scores: Scores,
        mask: Tensor | None,
    ) -> tuple[Tensor, Tensor | None]:  # fmt: skip
        """Output (rows * Q, H * d), and its log-sums (rows * Q, H) where a beginning must be joined."""
        q, k, v = laid(query, queries), laid(key, keys), laid(value, keys)
        if self.beginning is None:
            output, total = attend(q, k, v, scores, causal=mask is None, mask=mask), None
        else:
            output, total = attend_with_sum(q, k, v, scores, causal=mask is None, mask=mask)
            total = total.transpose(1, 2).flatten(0, 1)
        return output.transpose(1, 2).flatten(0, 1).flatten(1), total

    @property
    def _longest(self) -> int:
        deepest = int(self._shape.depths.max()) + 1 if len(self._shape.depths) else 0
        return self.trunk_places.shape[1] + deepest

    def _mask(self, which: str, window: int | None, dtype: torch.dtype) -> Tensor:
        key = (which, window, dtype)
        if key not in self._masks:
            if which == "trunks":
                assert window is not None
                seen = _band(self.trunk_places.shape[1], window, self._scatter.device)[None]
            else:
                seen = self._branches_see(window)
            mask = torch.zeros(seen.shape, dtype=dtype, device=seen.device)
            self._masks[key] = mask.masked_fill_(~seen, torch.finfo(dtype).min)[:, None]
        return self._masks[key]

    def _branches_see(self, window: int | None) -> Tensor:
        """(C, N, P + N), True where a branch token sees a key. Padding sees the first key: a softmax needs one."""
        shape, device = self._shape, self._scatter.device
        assert self._branch_places is not None
        width = self.trunk_places.shape[1]
        lengths = shape.trunk_lengths[shape.owners][:, None]  # (C, 1)
        counts = shape.branch_lengths.tolist()
        ends = pad_sequence(list(shape.ends.split(counts)), batch_first=True)  # (C, N)
        depths = pad_sequence(list(shape.depths.split(counts)), batch_first=True) + lengths
        column, number = torch.arange(width, device=device), torch.arange(ends.shape[1], device=device)
        own = (number[:, None] >= number) & (number[:, None] < ends[:, None, :])  # (C, N, N)
        trunk = (column < lengths)[:, None, :].expand(-1, len(number), -1)  # (C, N, P)
        if window is not None:
            trunk = trunk & (depths[:, :, None] - column < window)
            own = own & (depths[:, :, None] - depths[:, None, :] < window)
        seen = torch.cat([trunk, own], 2)
        seen[:, :, 0] |= number >= shape.branch_lengths[:, None]
        return seen


def _places(lengths: Tensor, first: int) -> tuple[Tensor, Tensor]:
    """Where the tokens of sequences that stand one after another from `first` come in padded rows, and back.

    (rows, longest) token of each place, padding pointing at the first token; (tokens,) place of each token.
    """
    column = torch.arange(int(lengths.max()), device=lengths.device)
    real = column < lengths[:, None]
    starts = first + torch.cumsum(lengths, 0) - lengths
    return torch.where(real, starts[:, None] + column, 0), torch.nonzero(real.flatten()).flatten()


def laid(states: Tensor, places: Tensor) -> Tensor:
    """(heads, T, d) to (rows, heads, longest, d)."""
    heads, _, size = states.shape
    rows, longest = places.shape
    by_token = states.transpose(0, 1)
    if by_token.is_contiguous():  # values are as the linear layer left them: whole tokens are copied at once
        flat = by_token.view(-1, heads * size).index_select(0, places.flatten())
        return flat.view(rows, longest, heads, size).transpose(1, 2)
    return states.index_select(1, places.flatten()).view(heads, rows, longest, size).transpose(0, 1)


def _band(count: int, window: int, device: torch.device) -> Tensor:
    """(count, count), True where a token looks at itself and what came before it, `window` tokens at most."""
    distance = torch.arange(count, device=device)[:, None] - torch.arange(count, device=device)
    return (distance >= 0) & (distance < window)


def _after_beginning(query: Tensor, key: Tensor, value: Tensor, scores: Scores) -> tuple[Tensor, Tensor]:
    """Attention of every token over the whole beginning: (T, H, d) and log-sums (T, H).

    All queries of a group of heads are one set of queries to their head of keys.
    """
    heads, tokens, size = query.shape
    grouped = query.reshape(1, key.shape[0], -1, size)
    output, total = attend_with_sum(grouped, key[None], value[None], scores)
    return output.view(heads, tokens, size).transpose(0, 1), total.reshape(heads, tokens).transpose(0, 1)
