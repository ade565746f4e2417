"""A KV cache for rows that are decoded together, and the attention that fills it and appends a token to every row.

Each row has a slot of the cache, with room for the longest row there may be. The rows decoded now fill the first slots
without a gap, so a step runs one token of each row as one flat row, without padding and without copying what is kept. A
row that has ended stays and is run along, or the last rows move into the slots of those that have ended. How long rows
are is known on the host too, so that a step never waits for the device.

Shapes as in `registration.py`; n rows that are decoded now, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from rankscope.model.attention.joined_attention import attend
from rankscope.model.attention.registration import Scores
from rankscope.model.attention.scoring_layout import (
    PrefixKV,
    TreeLayout,
    TreeShape,
    moved,
    padded_places,
    to_rows,
)
from rankscope.model.forward import hidden_states
from rankscope.model.methods.virtual_tokens_modules import virtual_tokens
from rankscope.model.sharding.shard import compute_device


def prefix_kv(model: PreTrainedModel, ids: tuple[int, ...]) -> PrefixKV | None:
    """Keys and values of the model's virtual tokens and of `ids`, by the model's own forward; None without either."""
    count = virtual_tokens(model) + len(ids)
    if not count:
        return None
    cache = DynamicCache(config=model.config)
    # Virtual tokens alone need some token after them, whose keys are then left away.
    hidden_states(
        model, torch.tensor([ids or (0,)], device=compute_device(model)), past_key_values=cache, use_cache=True
    )
    return [(layer.keys[0, :, :count], layer.values[0, :, :count]) for layer in cache.layers]


class KVCache:
    """Keys and values (slots, K, room in tokens, d) of every layer; `lengths` (n,): how many tokens each row has."""

    def __init__(self, slot_count: int, room_tokens: int, device: torch.device) -> None:
        self.slot_count = slot_count
        self.room_tokens = room_tokens
        self.device = device
        self.lengths = torch.zeros(0, dtype=torch.int64, device=device)
        self._counts: list[int] = []  # as `lengths`, on the host
        self._growth: list[int] = []  # by how much each row grows at a step: 0 where it has ended
        self._growth_there = self.lengths
        self._buffers: dict[int, tuple[Tensor, Tensor]] = {}

    @property
    def longest(self) -> int:
        """Tokens of the longest row that has not ended."""
        return max((count for count, grows in zip(self._counts, self._growth, strict=True) if grows), default=0)

    def buffers(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """The layer's buffers; `key` and `value` are some (K, T, d) of this layer."""
        if layer not in self._buffers:
            # Zeros: what is masked must still be a number.
            keys, values = (
                states.new_zeros(self.slot_count, states.shape[0], self.room_tokens, states.shape[2])
                for states in (key, value)
            )
            self._buffers[layer] = keys, values
        return self._buffers[layer]

    def add(self, counts: list[int]) -> None:
        """Rows of so many tokens, which stand in the next slots."""
        self._counts += counts
        self.lengths = torch.cat([self.lengths, moved(torch.tensor(counts), self.device)])
        self._grow_by([*self._growth, *([1] * len(counts))])

    def grow(self) -> None:
        """Every row that has not ended has one token more."""
        self._counts = [count + more for count, more in zip(self._counts, self._growth, strict=True)]
        self.lengths = self.lengths + self._growth_there

    def end(self, rows: Collection[int]) -> None:
        """These rows grow no further; a step runs them at the place where they ended."""
        self._grow_by([0 if row in rows else grows for row, grows in enumerate(self._growth)])

    def keep(self, alive: list[int]) -> list[int]:
        """Drops all rows but these; returns which row each slot holds now (the old indices, in the new order)."""
        count, longest = len(alive), max((self._counts[row] for row in alive), default=0)
        holes = sorted(set(range(count)) - set(alive))
        movers = [index for index in alive if index >= count]
        order = list(range(count))
        for hole, mover in zip(holes, movers, strict=True):
            order[hole] = mover
        if holes:
            to, source = moved(torch.tensor([holes, movers]), self.device)
            for pair in self._buffers.values():
                for buffer in pair:
                    buffer[to, :, :longest] = buffer[source, :, :longest]
        self._counts = [self._counts[row] for row in order]
        self.lengths = self.lengths[moved(torch.tensor(order, dtype=torch.int64), self.device)]
        self._grow_by([self._growth[row] for row in order])
        return order

    def _grow_by(self, growth: list[int]) -> None:
        self._growth = growth
        self._growth_there = moved(torch.tensor(growth, dtype=torch.int64), self.device)


class PrefillLayout:
    """The attention of prefill: prompts one after another in a flat row, whose keys and values go into the next slots.

    `lengths` (rows,) in tokens, on the host; each comes after `prefix`. The model's last layer, number `last`, is asked
    for the tokens at flat positions `read` only, ascending, by default each row's last; `kernel` as in
    `joined_attention.attend_with_log_sum`. Afterwards, `commit` makes them rows of the cache.
    """

    def __init__(
        self,
        cache: KVCache,
        lengths: Tensor,
        prefix: PrefixKV | None,
        last: int | None = None,
        *,
        read: Tensor | None = None,
        kernel: bool = False,
    ) -> None:
        none = torch.zeros(0, dtype=torch.int64)
        ends = torch.cumsum(lengths, 0)
        shape, read = TreeShape(lengths, none, none, none, none), ends - 1 if read is None else read
        self._prompts = TreeLayout(shape, prefix, read=read, last=last, device=cache.device, kernel=kernel)
        self._cache, self._lengths = cache, lengths
        self._places = moved(padded_places(ends - lengths, lengths)[0], cache.device)
        self._prefix_tokens = 0 if prefix is None else prefix[0][0].shape[1]

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scores: Scores) -> Tensor:
        """As `registration.Layout`; keeps keys and values (K, T, d) on the way."""
        rows, width = self._places.shape
        first, start = len(self._cache.lengths), self._prefix_tokens
        buffers = self._cache.buffers(layer, key, value)
        for index, (buffer, states) in enumerate(zip(buffers, (key, value), strict=True)):
            buffer[first : first + rows, :, start : start + width] = to_rows(states, self._places)
            if self._prompts.prefix is not None:
                buffer[first : first + rows, :, :start] = self._prompts.prefix[layer][index]
        return self._prompts.attend(layer, query, key, value, scores)

    def commit(self, dropped: Sequence[int] | None = None) -> None:
        """Counts the new rows, when every layer has run; of each the last `dropped` tokens are no part of it."""
        lengths = self._lengths if dropped is None else self._lengths - torch.tensor(dropped)
        self._cache.add((lengths + self._prefix_tokens).tolist())


class DecodeLayout:
    """The attention of a decoding step: one new token of each row, in the order of the slots, over all that it has.

    Afterwards, `commit` counts the tokens.
    """

    def __init__(self, cache: KVCache) -> None:
        self._cache, self._seen = cache, cache.longest + 1
        self._rows = torch.arange(len(cache.lengths), device=cache.device)
        self._masks: dict[tuple[int | None, torch.dtype], Tensor] = {}

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scores: Scores) -> Tensor:
        """As `registration.Layout`, with T = n; keeps keys and values (K, n, d) on the way."""
        cache, rows, seen = self._cache, len(self._rows), self._seen
        keys, values = cache.buffers(layer, key, value)
        keys[self._rows, :, cache.lengths] = key.transpose(0, 1)
        values[self._rows, :, cache.lengths] = value.transpose(0, 1)
        heads, _, size = query.shape
        # All queries of a group of heads are queries to their head of keys.
        grouped = query.transpose(0, 1).reshape(rows, key.shape[0], -1, size)
        mask = self._mask(scores.window, query.dtype)
        output = attend(grouped, keys[:rows, :, :seen], values[:rows, :, :seen], scores, mask=mask)
        return output.reshape(rows, heads, -1)

    def _mask(self, window: int | None, dtype: torch.dtype) -> Tensor:
        """(n, 1, 1, seen): a row's own tokens, those out of the window left out; seen is one more than the longest row
        of those that have not ended."""
        if (window, dtype) not in self._masks:
            # A row that has ended may be longer than what is seen; it looks like one that is not.
            lengths = self._cache.lengths.clamp_max(self._seen - 1)[:, None]
            place = torch.arange(self._seen, device=lengths.device)
            seen = place <= lengths
            if window is not None:
                seen &= lengths - place < window
            mask = torch.zeros(seen.shape, dtype=dtype, device=seen.device)
            self._masks[window, dtype] = mask.masked_fill_(~seen, torch.finfo(dtype).min)[:, None, None]
        return self._masks[window, dtype]

    def commit(self) -> None:
        """Counts the new tokens, when every layer has run."""
        self._cache.grow()
