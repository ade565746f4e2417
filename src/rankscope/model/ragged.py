"""Training rows without padding: linear layers, norms and the loss see real tokens only.

A batch is one long row of T tokens, its sequences one after another. Only inside attention are the sequences laid side
by side, (B, H, longest, head), which a causal kernel can do without a mask because the padding stands at the right.
The attention is registered with transformers, so one function serves every model that uses its attention registry; a
check against the model's own padded forward decides once per model whether it may be used.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from rankscope.data.batch import Batch
from rankscope.model.forward import hidden_states

ATTENTION_NAME = "rankscope_ragged"
LAYOUT_KEY = "rankscope_layout"


@dataclass(frozen=True)
class Layout:
    """Where each token stands among the padded sequences, and back.

    `gather` (B, longest): token of each padded place (padding points at token 0); `scatter` (T,): padded place of each
    token; `real` (B * longest, 1): False at padding.
    """

    gather: Tensor
    scatter: Tensor
    real: Tensor

    @staticmethod
    def of(lengths: Tensor) -> Layout:
        """The layout of sequences of these `lengths` (B,), which stand one after another."""
        longest = int(lengths.max())
        column = torch.arange(longest, device=lengths.device)
        real = column[None, :] < lengths[:, None]
        starts = torch.cumsum(lengths, 0) - lengths
        gather = torch.where(real, starts[:, None] + column[None, :], 0)
        return Layout(gather=gather, scatter=torch.nonzero(real.flatten()).flatten(), real=real.reshape(-1, 1))


class _Pad(torch.autograd.Function):
    """Tokens (T, X) to padded places (B * longest, X); backward is a gather, not the slower scatter-add of autograd."""

    @staticmethod
    def forward(ctx: Any, tokens: Tensor, layout: Layout) -> Tensor:
        ctx.layout = layout
        return tokens.index_select(0, layout.gather.flatten())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0].index_select(0, ctx.layout.scatter), None


class _Unpad(torch.autograd.Function):
    """Padded places (B * longest, X) to tokens (T, X)."""

    @staticmethod
    def forward(ctx: Any, padded: Tensor, layout: Layout) -> Tensor:
        ctx.layout = layout
        return padded.index_select(0, layout.scatter)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        layout: Layout = ctx.layout
        return gradients[0].index_select(0, layout.gather.flatten()) * layout.real, None


def _pad(states: Tensor, layout: Layout) -> Tensor:
    """(1, H, T, head) to (B, H, longest, head)."""
    _, heads, _, width = states.shape
    batch, longest = layout.gather.shape
    flat = states[0].transpose(0, 1).reshape(-1, heads * width)
    return _Pad.apply(flat, layout).view(batch, longest, heads, width).transpose(1, 2)


def ragged_attention(
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
    """Causal attention within each sequence of a ragged row; signature and shapes of transformers' registry."""
    layout: Layout = kwargs[LAYOUT_KEY]
    q, k, v = _pad(query, layout), _pad(key, layout), _pad(value, layout)
    dtype = q.dtype
    if dtype == torch.bfloat16 and q.device.type == "cpu":
        # torch's CPU kernel has a bf16 backward that is about ten times slower than its fp32 one.
        q, k, v = q.float(), k.float(), v.float()
    longest = layout.gather.shape[1]
    grouped = q.shape[1] != k.shape[1]
    window = sliding_window if sliding_window is not None and sliding_window < longest else None
    if softcap is not None:
        out = _softcapped(q, k, v, scaling, softcap, window, dropout)
    elif window is not None:
        mask = _band(longest, window, q.device)
        out = nn.functional.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, dropout_p=dropout, scale=scaling, enable_gqa=grouped
        )
    else:
        out = nn.functional.scaled_dot_product_attention(
            q, k, v, is_causal=True, dropout_p=dropout, scale=scaling, enable_gqa=grouped
        )
    batch, heads, _, width = out.shape
    padded = out.to(dtype).transpose(1, 2).reshape(batch * longest, heads * width)
    return _Unpad.apply(padded, layout).view(1, -1, heads, width), None


def _band(longest: int, window: int | None, device: torch.device) -> Tensor:
    """(longest, longest), True where a query may look: itself and what came before it, `window` tokens at most."""
    distance = torch.arange(longest, device=device)[:, None] - torch.arange(longest, device=device)[None, :]
    allowed = distance >= 0
    return allowed & (distance < window) if window is not None else allowed


def _softcapped(
    q: Tensor, k: Tensor, v: Tensor, scaling: float | None, softcap: float, window: int | None, dropout: float
) -> Tensor:
    """Attention with tanh-capped scores (Gemma 2, arXiv 2408.00118, section 2), without a fused kernel."""
    groups = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    scores = q @ k.transpose(-1, -2) * (scaling if scaling is not None else q.shape[-1] ** -0.5)
    scores = torch.tanh(scores / softcap) * softcap
    scores = scores.masked_fill(~_band(q.shape[2], window, q.device), float("-inf"))
    weights = nn.functional.softmax(scores, dim=-1, dtype=torch.float32).to(q.dtype)
    return nn.functional.dropout(weights, dropout, training=dropout > 0) @ v


def _no_mask(*_: Any, **__: Any) -> None:
    """The layout carries what a mask would."""


@contextmanager
def _ragged_attention_on(model: PreTrainedModel) -> Iterator[None]:
    before = model.config._attn_implementation
    model.set_attn_implementation(ATTENTION_NAME)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def register() -> None:
    """Make the attention known to transformers; does nothing the second time."""
    AttentionInterface.register(ATTENTION_NAME, ragged_attention)
    AttentionMaskInterface.register(ATTENTION_NAME, _no_mask)


class TokenPath:
    """How a model computes the states that predict completions: ragged where that is proven equal, else padded."""

    def __init__(self, model: PreTrainedModel, *, ragged: bool) -> None:
        self.model = model
        self.ragged = ragged

    @contextmanager
    def ready(self) -> Iterator[None]:
        """Training steps happen inside; the model's own attention is back afterwards."""
        if not self.ragged:
            yield
            return
        with _ragged_attention_on(self.model):
            yield

    def target_states(self, batch: Batch) -> Tensor:
        """(P, D): the final states at `batch.target_positions`."""
        if self.ragged:
            return _ragged_states(self.model, batch).index_select(0, batch.target_positions)
        return _padded_states(self.model, batch).index_select(0, batch.target_positions)


_known: WeakKeyDictionary[PreTrainedModel, bool] = WeakKeyDictionary()
"""Whether a model may be ragged; the answer only, since a path would keep its model in memory for good."""


def token_path_of(model: PreTrainedModel) -> TokenPath:
    """The model's `TokenPath`, checked at first use."""
    if model not in _known:
        _known[model] = _ragged_equals_padded(model)
    return TokenPath(model, ragged=_known[model])


def padded_path(model: PreTrainedModel) -> TokenPath:
    """The path of rows that are padded, for what stands in a model and does not know ragged rows."""
    return TokenPath(model, ragged=False)


def _ragged_states(model: PreTrainedModel, batch: Batch) -> Tensor:
    extra: dict[str, Any] = {LAYOUT_KEY: Layout.of(batch.sequence_lengths)}
    states = hidden_states(model, batch.input_ids[None], position_ids=batch.position_ids[None], **extra)
    return states[0]


def _padded_states(model: PreTrainedModel, batch: Batch) -> Tensor:
    layout = Layout.of(batch.sequence_lengths)
    real = layout.real.view(layout.gather.shape)
    states = hidden_states(
        model, batch.input_ids[layout.gather], attention_mask=real.long(),
        position_ids=batch.position_ids[layout.gather], use_cache=False,
    )  # fmt: skip
    return states.flatten(0, 1).index_select(0, layout.scatter)


@torch.no_grad()
def _ragged_equals_padded(model: PreTrainedModel) -> bool:
    """Sequences of unequal length, longer than a small sliding window, through both paths: equal but for rounding?"""
    register()
    lengths = torch.tensor([23, 7, 40, 1])
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, model.config.get_text_config().vocab_size, (int(lengths.sum()),), generator=generator)
    positions = torch.cat([torch.arange(int(n)) for n in lengths])
    device = model.device
    batch = Batch(
        input_ids=ids.to(device), position_ids=positions.to(device), sequence_lengths=lengths.to(device),
        target_positions=torch.arange(len(ids), device=device), target_ids=ids.to(device),
    )  # fmt: skip
    was_training = model.training
    model.eval()
    try:
        expected = _padded_states(model, batch).float()
        with _ragged_attention_on(model):
            found = _ragged_states(model, batch).float()
    except (KeyError, TypeError, ValueError):
        return False  # the model does not pass our layout to its attention
    finally:
        model.train(was_training)
    # By token, so that one wrong place among many right ones is found; a wrong mask moves a state by its own size.
    error = (found - expected).abs().mean(-1) / expected.abs().mean(-1).clamp_min(1e-6)
    return bool((error.max() < (1e-4 if model.dtype == torch.float32 else 0.05)).item())
