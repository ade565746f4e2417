"""A KV cache for rows that are decoded together, and the decoder that fills it and appends a token to every row.

Each row has a slot of the cache, with room for the longest row there may be. The rows decoded now fill the first slots
without a gap, so a step runs one token of each row as one flat row, without padding and without copying what is kept. A
row that has ended stays and is run along, or the last rows move into the slots of those that have ended. How long rows
are is known on the host too, so that a step never waits for the device.

Shapes as in `registration.py`; n rows that are decoded now, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from rankscope.model.attention.joined_attention import attend, log_sums_by_kernel
from rankscope.model.attention.registration import (
    LAYOUT_KEY,
    FastPathCheck,
    Scores,
    attention_installed,
    why_different,
)
from rankscope.model.attention.scoring_layout import (
    PrefixKV,
    TreeLayout,
    TreeShape,
    moved,
    padded_places,
    to_rows,
)
from rankscope.model.decoder_parts import key_value_width, text_config, window_that_matters
from rankscope.model.forward import forward_of, hidden_states, probe_ids
from rankscope.model.methods.virtual_tokens_modules import virtual_tokens, without_virtual_tokens
from rankscope.model.sharding.shard import compute_device

PROBE_PROMPT_TOKENS = 12
PROBE_STEPS = 4


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
    for their last tokens only; `kernel` as in `joined_attention.attend_with_log_sum`. Afterwards, `commit` makes them
    rows of the cache.
    """

    def __init__(
        self,
        cache: KVCache,
        lengths: Tensor,
        prefix: PrefixKV | None,
        last: int | None = None,
        *,
        kernel: bool = False,
    ) -> None:
        none = torch.zeros(0, dtype=torch.int64)
        ends = torch.cumsum(lengths, 0)
        shape = TreeShape(lengths, none, none, none, none)
        self._prompts = TreeLayout(shape, prefix, read=ends - 1, last=last, device=cache.device, kernel=kernel)
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

    def commit(self) -> None:
        """Counts the new rows, when every layer has run."""
        self._cache.add((self._lengths + self._prefix_tokens).tolist())


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


class Decoder:
    """A model that decodes up to `slot_count` rows at once, each of at most `room_tokens`, in a KV cache."""

    def __init__(self, model: PreTrainedModel, slot_count: int, room_tokens: int) -> None:
        self.cache = KVCache(slot_count, room_tokens, compute_device(model))
        self._model, self._forward = model, forward_of(model)
        self._prefix = prefix_kv(model, ())
        self._kernel = self._prefix is not None and log_sums_by_kernel(model)

    @contextmanager
    def ready(self) -> Iterator[None]:
        """Rows are prefilled and stepped inside."""
        with without_virtual_tokens(self._model), attention_installed(self._model):
            yield

    def prefill(self, prompts: Sequence[tuple[int, ...]]) -> Tensor:
        """Puts prompts into the next slots; logits (prompts, V) of what follows each."""
        lengths = torch.tensor([len(prompt) for prompt in prompts])
        ids = torch.tensor([token for prompt in prompts for token in prompt])
        ends = lengths.cumsum(0)
        before = 0 if self._prefix is None else self._prefix[0][0].shape[1]
        positions = torch.arange(before, before + len(ids)) - (ends - lengths).repeat_interleave(lengths)
        last = text_config(self._model).num_hidden_layers - 1
        layout = PrefillLayout(self.cache, lengths, self._prefix, last, kernel=self._kernel)
        given = [moved(values, self.cache.device) for values in (ids, ends - 1, positions)]
        return self._logits(given[0], given[1], given[2], layout)

    def idle(self) -> None:
        """A forward of which nothing is kept: of a process without rows, while others of its team have some."""
        cache, self.cache = self.cache, KVCache(1, 1, self.cache.device)
        try:
            self.prefill([(0,)])
        finally:
            self.cache = cache

    def step(self, tokens: Tensor) -> Tensor:
        """Appends tokens (n,) to the rows; logits (n, V) of what follows each."""
        everywhere = torch.arange(len(tokens), device=tokens.device)
        return self._logits(tokens, everywhere, self.cache.lengths, DecodeLayout(self.cache))

    def _logits(self, ids: Tensor, read: Tensor, positions: Tensor, layout: PrefillLayout | DecodeLayout) -> Tensor:
        arguments: dict[str, Any] = {"position_ids": positions[None], LAYOUT_KEY: layout}
        logits = torch.cat(list(self._forward.logits_at(ids[None], read, **arguments)))
        layout.commit()
        return logits


# ---- may this model be decoded in a KV cache? ------------------------------------------------------------------------

_CACHED = FastPathCheck(fast="rows are decoded together in a KV cache", slow="rows are decoded by its own generate")


def decodes_in_cache(model: PreTrainedModel, longest_tokens: int) -> bool:
    """Whether a `Decoder` gives the model's own logits for rows of at most `longest_tokens`; found out once."""
    window, virtual = window_that_matters(model, longest_tokens), virtual_tokens(model)
    conditions = (model.config._attn_implementation, window, model.dtype, virtual)
    return _CACHED.holds(model, partial(_compare_cached, model, window), *conditions)


def _compare_cached(model: PreTrainedModel, window: int | None) -> str:
    """Runs two rows of random tokens, of unlike lengths, in a KV cache and alone: why logits differ, or nothing.

    A key in the wrong place, a wrong position or a lost window moves logits by their own size.
    """
    if virtual_tokens(model) and window is not None:
        return "virtual tokens stand before a window"
    if not key_value_width(model):
        return "it keeps more than keys and values"
    long = PROBE_PROMPT_TOKENS if window is None else window + 2
    tokens = probe_ids(model, long + PROBE_STEPS)
    own: list[Tensor] = []
    forward = forward_of(model)
    starts = [long, long // 2]
    for start in starts:
        read = torch.arange(start - 1, start + PROBE_STEPS, device=compute_device(model))
        own.append(torch.cat(list(forward.logits_at(tokens[None, : start + PROBE_STEPS], read))))
    decoder = Decoder(model, len(starts), long + PROBE_STEPS)
    with decoder.ready():
        found = [decoder.prefill([tuple(tokens[:start].tolist()) for start in starts])]
        for step in range(PROBE_STEPS):
            found.append(decoder.step(torch.stack([tokens[start + step] for start in starts])))
    return why_different(torch.stack(found, 1), torch.stack(own), 1e-4 if model.dtype == torch.float32 else 5e-2)
