"""Attention of one flat row of tokens whose order and sharing a layout knows, in any model of transformers.

A model is run with all tokens of a batch in one row (1, T), so that linear layers, norms and the head see real tokens
only. Its attention is exchanged for one that hands queries, keys and values to the layout given with the call; what a
token may see is the layout's business alone. Whether a model passes the layout on, and means by its attention what is
computed here, is for the caller to probe against the model's own forward.

Shapes: B rows, H heads, K heads of keys and values (H a multiple of K), T tokens, Q queries, S keys, d head size.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

ATTENTION_NAME = "rankscope_layout"
LAYOUT_KEY = "rankscope_layout"
REFUSALS = (TypeError, ValueError, RuntimeError, IndexError, AttributeError, KeyError, NotImplementedError)
"""Each architecture refuses attention that it does not know in its own way."""


@dataclass(frozen=True)
class Scores:
    """How a layer makes scores of queries and keys.

    `window`: a query sees only keys fewer than `window` positions back. `cap`: scores become cap * tanh(scores / cap)
    (Gemma 2, arXiv 2408.00118, section 2).
    """

    scale: float | None
    window: int | None
    cap: float | None


class Layout(Protocol):
    """Knows who sees whom among the tokens of a flat row."""

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scores: Scores) -> Tensor:
        """Of query (H, T, d), key and value (K, T, d): the attention's output (T, H, d)."""
        ...


def layout_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Signature and shapes of transformers' registry: (1, heads, T, d) in, (1, T, H, d) out. For inference only."""
    layout: Layout = kwargs[LAYOUT_KEY]
    scores = Scores(scaling, sliding_window, softcap)
    layer: Any = module.layer_idx
    return layout.attend(layer, query[0], key[0], value[0], scores)[None], None


def _no_mask(*_: Any, **__: Any) -> None:
    """The layout carries what a mask would."""


@contextmanager
def layout_attention_on(model: PreTrainedModel) -> Iterator[None]:
    """The model's attention asks a layout inside, which every forward must be given; its own is back afterwards."""
    AttentionInterface.register(ATTENTION_NAME, layout_attention)
    AttentionMaskInterface.register(ATTENTION_NAME, _no_mask)
    before = model.config._attn_implementation
    model.set_attn_implementation(ATTENTION_NAME)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def attend(
    query: Tensor, key: Tensor, value: Tensor, scores: Scores, *, causal: bool = False, mask: Tensor | None = None
) -> Tensor:
    """Output (B, H, Q, d) for query (B, H, Q, d), key and value (B, K, S, d).

    `mask` is additive, (B or 1, 1, Q, S); `causal` needs Q = S. A window must be in the mask.
    """
    if scores.cap is None:
        return nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, is_causal=causal, scale=scores.scale,
            enable_gqa=query.shape[1] != key.shape[1],
        )  # fmt: skip
    return _plain_attention(query, key, value, scores, causal=causal, mask=mask)[0]


def attend_with_sum(
    query: Tensor, key: Tensor, value: Tensor, scores: Scores, *, causal: bool = False, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """What `attend` gives, and (B, H, Q) in fp32: log of the sum of exp(score), to join parts of the keys with."""
    if scores.cap is None and query.device.type == "cpu":
        fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        output, total = fused(query, key, value, 0.0, causal, attn_mask=mask, scale=scores.scale)
        return output, total
    return _plain_attention(query, key, value, scores, causal=causal, mask=mask)


def joined(output: Tensor, total: Tensor, other_output: Tensor, other_total: Tensor) -> Tensor:
    """Attention over two disjoint sets of keys from that over each: softmax weights scale by exp of the sums.

    Outputs (..., d) and log-sums (...) as of `attend_with_sum`.
    """
    share = torch.sigmoid(other_total - total)[..., None]
    return torch.lerp(output.float(), other_output.float(), share).to(output.dtype)


def _plain_attention(
    query: Tensor, key: Tensor, value: Tensor, scores: Scores, *, causal: bool, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Attention in products and a softmax: what no fused kernel does."""
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scale = query.shape[-1] ** -0.5 if scores.scale is None else scores.scale
    weights = query @ key.transpose(-1, -2) * scale
    if scores.cap is not None:
        weights = torch.tanh(weights / scores.cap) * scores.cap
    if mask is not None:
        weights = weights + mask
    if causal:
        hidden = torch.ones(weights.shape[-2:], dtype=torch.bool, device=weights.device).triu(1)
        weights = weights.masked_fill(hidden, torch.finfo(weights.dtype).min)
    total = weights.float().logsumexp(-1)
    return nn.functional.softmax(weights, -1, dtype=torch.float32).to(value.dtype) @ value, total
