"""Attention for scoring: prompts and the trees of their choices in one flat row, after a shared prefix not in it.

First come the prompts, one after another, each causal in itself. Then come their choice trees: the choices of a prompt,
what they have in common once, in depth-first order. A tree's tokens see all of their prompt; among themselves token j
is an ancestor of token i exactly where j <= i < end[j], with end[j] the end of j's subtree. The keys and values of the
shared prefix were computed before, once.

Shapes as in `registration.py`; B prompts, P tokens of the longest; C prompts that have a tree, M tokens of the largest
tree; S tokens of the shared prefix.

Who sees whom is worked out on the host, where shapes are known, and only what attention needs goes to the device: to
read lengths back from a GPU would wait for all that the GPU has to do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from rankscope.model.attention.joined_attention import (
    additive,
    attend,
    attend_in_window,
    attend_with_log_sum,
    join_attention,
)
from rankscope.model.attention.registration import Scores

PrefixKV = list[tuple[Tensor, Tensor]]
"""Keys and values (K, S, d) of a shared prefix, by layer."""

PADDING = 1.3
"""Smaller groups of rows waste less on padding and take more calls."""

CPU = torch.device("cpu")

WORTH_SKIPPING = 0.5
"""Up to this share of the prompts' tokens read, the last layer leaves the others out."""


@dataclass(frozen=True)
class TreeShape:
    """The lengths of what stands in a flat row.

    Of the prompts (B,); which prompts have a choice tree, `owners` (C,), and the tokens of each tree (C,); for every
    token of a tree its depth below the prompt's end and the end of its subtree, counted from the tree's first token.
    """

    prompt_lengths: Tensor
    owners: Tensor
    tree_lengths: Tensor
    depths: Tensor
    ends: Tensor


@dataclass
class _PaddedRows:
    """Rows of like size that are padded and attend together: which token stands at each place of queries (rows, Q) and
    of keys (rows, S), and where a query is `real`. `sees` gives of a window and a device what a query sees,
    (rows, 1, Q, S) in bool; rows without it are causal, with Q = S."""

    queries: Tensor
    keys: Tensor
    real: Tensor
    sees: Callable[[int | None, torch.device], Tensor] | None = None


class _RowsOfDevice:
    """The places of padded rows on `device`, and their masks, which are made there at first use."""

    def __init__(self, rows: _PaddedRows, device: torch.device) -> None:
        self.queries, self.keys = moved(rows.queries, device), moved(rows.keys, device)
        self._sees, self._device = rows.sees, device
        self._masks: dict[tuple[int | None, torch.dtype], Tensor] = {}

    def mask(self, window: int | None, dtype: torch.dtype) -> Tensor | None:
        """Additive, and kept for the other layers; None of causal rows."""
        if self._sees is None:
            return None
        if (window, dtype) not in self._masks:
            self._masks[window, dtype] = additive(self._sees(window, self._device), dtype)
        return self._masks[window, dtype]


class _Queries:
    """Padded rows whose queries are all tokens of the flat row, or `some` of them (sorted in `tokens`). `back`: the
    place of each among the padded places of all rows."""

    def __init__(self, rows: list[_PaddedRows], device: torch.device, *, some: bool = False) -> None:
        tokens = torch.cat([part.queries[part.real] for part in rows])
        places = torch.nonzero(torch.cat([part.real.flatten() for part in rows])).flatten()
        order = torch.argsort(tokens)
        self.rows = [_RowsOfDevice(part, device) for part in rows]
        self.tokens = moved(tokens[order], device) if some else None
        self.back = moved(places[order], device)


def moved(values: Tensor, device: torch.device) -> Tensor:
    """On `device`, without waiting for it: memory of the host that is not pinned is staged before the call returns."""
    return values.to(device, non_blocking=True)


class TreeLayout:
    """Attention over a flat row of prompts and choice trees of this `shape`, each after the same cached `prefix`.

    `shape` and `read` are the host's; queries, keys and the prefix are on `device`. `kernel`: as in
    `joined_attention.attend_with_log_sum`. With `read` (N,), the flat positions whose final states are asked for,
    ascending, the model's last layer, number `last`, gives zeros at the other tokens of prompts: nothing comes after it
    that looks at them.
    """

    def __init__(
        self,
        shape: TreeShape,
        prefix: PrefixKV | None = None,
        *,
        read: Tensor | None = None,
        last: int | None = None,
        device: torch.device = CPU,
        kernel: bool = False,
    ) -> None:
        self.prefix, self._kernel = prefix, kernel
        self._longest = int(shape.prompt_lengths.max()) + (int(shape.depths.max()) + 1 if len(shape.depths) else 0)
        trees = list(_tree_rows(shape))
        self._all = _Queries([*_prompt_rows(shape), *trees], device)
        self._last, self._in_last = last, self._all
        if read is not None:
            count = int(shape.prompt_lengths.sum())
            read = read[read < count]
            if 0 < len(read) <= count * WORTH_SKIPPING:
                self._in_last = _Queries([*_read_rows(shape, read), *trees], device, some=True)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scores: Scores) -> Tensor:
        """As `registration.Layout`: query (H, T, d), key and value (K, T, d) to (T, H, d)."""
        heads, tokens, _ = query.shape
        asked = self._in_last if layer == self._last else self._all
        found = [self._attend_rows(rows, query, key, value, scores) for rows in asked.rows]
        output = torch.cat([part for part, _ in found]).index_select(0, asked.back)  # (tokens asked, H * d)
        output = output.view(len(output), heads, -1)
        if self.prefix is not None:
            log_sum = torch.cat([part for _, part in found if part is not None]).index_select(0, asked.back)
            own = query if asked.tokens is None else query.index_select(1, asked.tokens)
            others = _over_prefix(own, self.prefix[layer], scores, kernel=self._kernel)
            output = join_attention(output, log_sum, *others)
        if asked.tokens is None:
            return output
        return output.new_zeros(tokens, *output.shape[1:]).index_copy_(0, asked.tokens, output)

    def _attend_rows(
        self, rows: _RowsOfDevice, query: Tensor, key: Tensor, value: Tensor, scores: Scores
    ) -> tuple[Tensor, Tensor | None]:
        """Output (rows * Q, H * d), and its log-sums (rows * Q, H) where a prefix must be joined."""
        q, k, v = to_rows(query, rows.queries), to_rows(key, rows.keys), to_rows(value, rows.keys)
        window = scores.window if scores.window is not None and scores.window < self._longest else None
        mask = rows.mask(window, query.dtype)
        causal = mask is None
        if self.prefix is None and causal and window is not None:
            output, log_sum = attend_in_window(q, k, v, scores, window), None
        elif self.prefix is None:
            output, log_sum = attend(q, k, v, scores, causal=causal, mask=mask), None
        else:
            if window is not None:
                raise ValueError("a window ends inside a prefix, at another place for each token")
            output, log_sum = attend_with_log_sum(q, k, v, scores, causal=causal, mask=mask, kernel=self._kernel)
            log_sum = log_sum.transpose(1, 2).flatten(0, 1)
        return output.transpose(1, 2).flatten(0, 1).flatten(1), log_sum


def _prompt_rows(shape: TreeShape) -> Iterator[_PaddedRows]:
    """Prompts, causal in themselves."""
    lengths = shape.prompt_lengths
    starts = torch.cumsum(lengths, 0) - lengths
    for rows in _alike(lengths.tolist(), lengths.tolist()):
        places, real = padded_places(starts[rows], lengths[rows])
        yield _PaddedRows(places, places, real)


def _read_rows(shape: TreeShape, read: Tensor) -> Iterator[_PaddedRows]:
    """Tokens of prompts at places `read` (n,) over their own prompts."""
    lengths = shape.prompt_lengths
    ends = torch.cumsum(lengths, 0)
    owners = torch.searchsorted(ends, read, right=True)
    depths = read - (ends - lengths)[owners]
    prompts, counts = torch.unique_consecutive(owners, return_counts=True)
    firsts = torch.cumsum(counts, 0) - counts
    for rows in _alike(counts.tolist(), lengths[prompts].tolist()):
        chosen, real = padded_places(firsts[rows], counts[rows])
        keys, _ = padded_places((ends - lengths)[prompts[rows]], lengths[prompts[rows]])
        yield _PaddedRows(read[chosen], keys, real, partial(_read_sees, depths[chosen], keys.shape[1]))


def _read_sees(depths: Tensor, keys: int, window: int | None, device: torch.device) -> Tensor:
    """Queries at `depths` (rows, Q) of their prompts. Padding looks like some other query: it sees one key at least."""
    distance = moved(depths, device)[:, :, None] - torch.arange(keys, device=device)
    seen = distance >= 0
    return (seen if window is None else seen & (distance < window))[:, None]


def _tree_rows(shape: TreeShape) -> Iterator[_PaddedRows]:
    """The choice tree of each prompt, over all of the prompt and over each token's own ancestors."""
    lengths, counts = shape.prompt_lengths, shape.tree_lengths
    starts = torch.cumsum(lengths, 0) - lengths
    first = int(lengths.sum())
    tree_starts = torch.cumsum(counts, 0) - counts
    for rows in _alike(counts.tolist(), (lengths[shape.owners] + counts).tolist()):
        owners = shape.owners[rows]
        prompts, _ = padded_places(starts[owners], lengths[owners])
        places, real = padded_places(tree_starts[rows], counts[rows])
        ends, depths = shape.ends[places] * real, shape.depths[places] * real
        sees = partial(_tree_sees, lengths[owners, None], counts[rows, None], ends, depths, prompts.shape[1])
        yield _PaddedRows(first + places, torch.cat([prompts, first + places], 1), real, sees)


def _tree_sees(
    lengths: Tensor, counts: Tensor, ends: Tensor, depths: Tensor, width: int, window: int | None, device: torch.device
) -> Tensor:
    """Of prompts' and trees' tokens (C, 1), ends (C, M) and depths (C, M), prompts padded to `width`: what each token
    of a tree sees, (C, 1, M, P + M). Padding sees the first: a softmax needs one."""
    lengths, counts, ends, depths = (moved(values, device) for values in (lengths, counts, ends, depths))
    number = torch.arange(ends.shape[1], device=ends.device)
    column = torch.arange(width, device=ends.device)
    own = (number[:, None] >= number) & (number[:, None] < ends[:, None, :])  # (C, M, M)
    prompt = (column < lengths)[:, None, :].expand(-1, len(number), -1)  # (C, M, P)
    if window is not None:
        places = depths + lengths
        prompt = prompt & (places[:, :, None] - column < window)
        own = own & (depths[:, :, None] - depths[:, None, :] < window)
    seen = torch.cat([prompt, own], 2)
    seen[:, :, 0] |= number >= counts
    return seen[:, None]


def _alike(queries: list[int], keys: list[int]) -> list[Tensor]:
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
    return [torch.tensor(group) for group in groups]


def padded_places(starts: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens (rows, longest) of sequences that begin at `starts`, and which are real; padding points at token 0."""
    column = torch.arange(int(lengths.max()), device=lengths.device)
    real = column < lengths[:, None]
    return torch.where(real, starts[:, None] + column, 0), real


def to_rows(states: Tensor, places: Tensor) -> Tensor:
    """States (heads, T, d) of a flat row at `places` (rows, longest): (rows, heads, longest, d)."""
    heads, _, size = states.shape
    rows, longest = places.shape
    by_token = states.transpose(0, 1)
    if by_token.is_contiguous():  # values are as the linear layer left them: whole tokens are copied at once
        flat = by_token.view(-1, heads * size).index_select(0, places.flatten())
        return flat.view(rows, longest, heads, size).transpose(1, 2)
    return states.index_select(1, places.flatten()).view(heads, rows, longest, size).transpose(0, 1)


def _over_prefix(
    query: Tensor, prefix: tuple[Tensor, Tensor], scores: Scores, *, kernel: bool
) -> tuple[Tensor, Tensor]:
    """Attention of every query (H, T, d) over the whole prefix, (K, S, d): (T, H, d) and log-sums (T, H).

    All queries of a group of heads are one set of queries to their head of keys.
    """
    (key, value), (heads, tokens, size) = prefix, query.shape
    grouped = query.reshape(1, key.shape[0], -1, size)
    output, log_sum = attend_with_log_sum(grouped, key[None], value[None], scores, kernel=kernel)
    return output.reshape(heads, tokens, size).transpose(0, 1), log_sum.reshape(heads, tokens).transpose(0, 1)
