"""The decoder: a model that fills a KV cache with prompts and appends a token to every row, and whether it may.

Shapes as in `registration.py`; n rows that are decoded now, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from rankscope.model.attention.joined_attention import log_sums_by_kernel
from rankscope.model.attention.kv_cache import DecodeLayout, KVCache, PrefillLayout, prefix_kv
from rankscope.model.attention.registration import LAYOUT_KEY, FastPathCheck, attention_installed, why_different
from rankscope.model.attention.scoring_layout import moved
from rankscope.model.decoder_parts import key_value_width, text_config, window_that_matters
from rankscope.model.forward import forward_of, probe_ids
from rankscope.model.methods.virtual_tokens_modules import virtual_tokens, without_virtual_tokens
from rankscope.model.sharding.shard import compute_device

PROBE_PROMPT_TOKENS = 12
PROBE_STEPS = 4


class Decoder:
    """A model that decodes up to `slot_count` rows at once, each of at most `room_tokens`, in a KV cache."""

    def __init__(self, model: PreTrainedModel, slot_count: int, room_tokens: int) -> None:
        self.cache = KVCache(slot_count, room_tokens, compute_device(model))
        self._model, self._forward = model, forward_of(model)
        self._prefix = prefix_kv(model, ())
        self._kernel = self._prefix is not None and log_sums_by_kernel(model)
        self._entering: PrefillLayout | None = None

    @contextmanager
    def ready(self) -> Iterator[None]:
        """Rows are prefilled and stepped inside."""
        with without_virtual_tokens(self._model), attention_installed(self._model):
            yield

    def prefill(self, prompts: Sequence[tuple[int, ...]]) -> Tensor:
        """Puts prompts into the next slots; logits (prompts, V) of what follows each."""
        logits = torch.cat(list(self.prefill_drafts(prompts, [()] * len(prompts))))
        self.drop([0] * len(prompts))
        return logits

    def prefill_drafts(self, prompts: Sequence[tuple[int, ...]], drafts: Sequence[tuple[int, ...]]) -> Iterator[Tensor]:
        """Runs each prompt with a draft of what follows it, in the next slots; logits of what follows the prompt and
        each of the draft's tokens, row by row, (some of them, V) at a time. They are rows when `drop` has said so."""
        rows = [(*prompt, *draft) for prompt, draft in zip(prompts, drafts, strict=True)]
        lengths, reads = torch.tensor([*map(len, rows)]), torch.tensor([1 + len(draft) for draft in drafts])
        ids, ends = torch.tensor([*chain.from_iterable(rows)]), lengths.cumsum(0)
        before = 0 if self._prefix is None else self._prefix[0][0].shape[1]
        positions = torch.arange(before, before + len(ids)) - (ends - lengths).repeat_interleave(lengths)
        read = torch.arange(int(reads.sum())) + (ends - reads.cumsum(0)).repeat_interleave(reads)
        last = text_config(self._model).num_hidden_layers - 1
        self._entering = PrefillLayout(self.cache, lengths, self._prefix, last, read=read, kernel=self._kernel)
        given = [moved(values, self.cache.device) for values in (ids, read, positions)]
        yield from self._logits(given[0], given[1], given[2], self._entering)

    def drop(self, counts: Sequence[int]) -> None:
        """What was run with drafts is rows from now on, without the last so many tokens of each."""
        assert self._entering is not None
        self._entering.commit(counts)
        self._entering = None

    def idle(self) -> None:
        """A forward of which nothing is kept: of a process without rows, while others of its team have some."""
        cache, self.cache = self.cache, KVCache(1, 1, self.cache.device)
        try:
            self.prefill([(0,)])
        finally:
            self.cache = cache

    def step(self, tokens: Tensor) -> Tensor:
        """Appends tokens (n,) to the rows; logits (n, V) of what follows each."""
        everywhere, layout = torch.arange(len(tokens), device=tokens.device), DecodeLayout(self.cache)
        logits = torch.cat(list(self._logits(tokens, everywhere, self.cache.lengths, layout)))
        layout.commit()
        return logits

    def _logits(
        self, ids: Tensor, read: Tensor, positions: Tensor, layout: PrefillLayout | DecodeLayout
    ) -> Iterator[Tensor]:
        arguments: dict[str, Any] = {"position_ids": positions[None], LAYOUT_KEY: layout}
        return self._forward.logits_at(ids[None], read, **arguments)


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
