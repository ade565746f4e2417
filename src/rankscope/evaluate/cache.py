"""Keys and values of a batch that grows by one token at a time and loses its finished rows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

SPARE_TOKENS = 64
CPU_CACHE_BYTES = 1 << 30


class ReservedLayer(DynamicLayer):
    """A DynamicLayer that keeps spare room, so that a step writes one token instead of copying all of them.

    `keys` and `values` (B, heads, tokens, head size) are views of the filled part of their buffers.
    """

    keys: Tensor
    values: Tensor

    def __init__(self) -> None:
        super().__init__()
        self._buffers: tuple[Tensor, Tensor] | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Appends (B, heads, new tokens, head size) of each; returns all keys and values."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        before = self.get_seq_length()
        after = before + key_states.shape[-2]
        if self._buffers is None or self._buffers[0].shape[-2] < after:
            old_keys, old_values = (self.keys, self.values) if before else (key_states, value_states)
            self._buffers = (self._grown(old_keys, key_states, before), self._grown(old_values, value_states, before))
        keys, values = self._buffers
        keys[:, :, before:after] = key_states
        values[:, :, before:after] = value_states
        self.keys, self.values = keys[:, :, :after], values[:, :, :after]
        return self.keys, self.values

    @staticmethod
    def _grown(filled: Tensor, new: Tensor, before: int) -> Tensor:
        batch, heads, count, size = new.shape
        buffer = new.new_empty(batch, heads, before + count + SPARE_TOKENS, size)
        if before:
            buffer[:, :, :before] = filled
        return buffer

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keeps only the rows of `indices`."""
        if self._buffers is None:
            return
        count = self.get_seq_length()
        keys, values = (buffer.index_select(0, indices) for buffer in self._buffers)
        self._buffers = (keys, values)
        self.keys, self.values = keys[:, :, :count], values[:, :, :count]


def plain_cache(model: PreTrainedModel) -> DynamicCache | None:
    """An empty cache for this model; None where it keeps anything but keys and values (no padding then)."""
    cache = DynamicCache(config=model.config)
    if not all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in cache.layers):
        return None
    cache.layers = [ReservedLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def bytes_per_token(model: PreTrainedModel) -> int:
    """Keys and values of one token in all layers."""
    config = model.config.get_text_config(decoder=True)
    heads: int = config.num_attention_heads
    key_heads: int = getattr(config, "num_key_value_heads", None) or heads
    head_size: int = getattr(config, "head_dim", None) or config.hidden_size // heads
    return 2 * int(config.num_hidden_layers) * key_heads * head_size * model.dtype.itemsize


def cache_bytes_of(model: PreTrainedModel) -> int:
    """What the cache may take: 1 GiB of main memory, or a quarter of what is free on a CUDA device."""
    if model.device.type != "cuda":
        return CPU_CACHE_BYTES
    free, _ = torch.cuda.mem_get_info(model.device)
    return int(free) // 4
