"""Attention over some keys, and over two disjoint sets of keys joined: what a cache and shared beginnings are made of.

Shapes as in `registration.py`: B rows, H heads, K heads of keys and values, Q queries, S keys, d head size.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.attention.varlen import AuxRequest, varlen_attn
from transformers import PreTrainedModel

from rankscope.model.attention.registration import FastPathCheck, Scores, why_different
from rankscope.model.decoder_parts import text_config

HALF = (torch.bfloat16, torch.float16)
"""What torch's kernel for sequences of unequal length takes."""


def attend(
    query: Tensor, key: Tensor, value: Tensor, scores: Scores, *, causal: bool = False, mask: Tensor | None = None
) -> Tensor:
    """Output (B, H, Q, d) for query (B, H, Q, d), key and value (B, K, S, d).

    `mask` is additive, (B or 1, 1, Q, S); `causal` needs Q = S. A window must be in the mask.
    """
    if scores.softcap is None:
        return nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, is_causal=causal, scale=scores.scale,
            enable_gqa=query.shape[1] != key.shape[1],
        )  # fmt: skip
    return _plain_attention(query, key, value, scores, causal=causal, mask=mask)[0]


def attend_in_window(query: Tensor, key: Tensor, value: Tensor, scores: Scores, window: int) -> Tensor:
    """What causal `attend` gives with Q = S where each query sees `window` keys up to its own.

    Queries go in blocks of a window's length, each against the keys that some query of it sees: what is computed and
    held grows with the length, not with its square.
    """
    count, parts, mask = query.shape[2], [], None
    for first in range(0, count, window):
        end, start = min(first + window, count), max(0, first - window + 1)
        if first and (mask is None or mask.shape[2] != end - first):
            places = torch.arange(start, end, device=query.device)
            distance = places[first - start :, None] - places
            mask = additive(((distance >= 0) & (distance < window))[None, None], query.dtype)
        block, keys = query[:, :, first:end], slice(start, end)
        parts.append(attend(block, key[:, :, keys], value[:, :, keys], scores, causal=not first, mask=mask))
    return torch.cat(parts, 2)


def additive(seen: Tensor, dtype: torch.dtype) -> Tensor:
    """A mask to add to scores, 0 where a key is `seen` (bool)."""
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, torch.finfo(dtype).min)


def attend_with_log_sum(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scores: Scores,
    *,
    causal: bool = False,
    mask: Tensor | None = None,
    kernel: bool = False,
) -> tuple[Tensor, Tensor]:
    """What `attend` gives, and (B, H, Q) in fp32: log of the sum of exp(score), to join it with other keys' output.

    `kernel`: without mask and soft cap torch's kernel for sequences of unequal length does it, which never holds the
    scores; `log_sums_by_kernel` says whether it may.
    """
    if scores.softcap is None and query.device.type == "cpu" and not kernel:
        fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        output, log_sum = fused(query, key, value, 0.0, causal, attn_mask=mask, scale=scores.scale)
        return output, log_sum
    if kernel and scores.softcap is None and mask is None:
        return _kernel_with_log_sum(query, key, value, scores, causal=causal)
    return _plain_attention(query, key, value, scores, causal=causal, mask=mask)


def _kernel_with_log_sum(
    query: Tensor, key: Tensor, value: Tensor, scores: Scores, *, causal: bool
) -> tuple[Tensor, Tensor]:
    """Rows one after another, as the kernel takes them; it gives log-sums (H, B Q)."""
    (rows, heads, queries, size), keys = query.shape, key.shape[2]
    q, k, v = (states.transpose(1, 2).flatten(0, 1).contiguous() for states in (query, key, value))
    number = torch.arange(rows + 1, dtype=torch.int32, device=query.device)
    output, log_sum = varlen_attn(
        q, k, v, number * queries, number * keys, queries, keys,
        return_aux=AuxRequest(lse=True), scale=scores.scale, window_size=(-1, 0) if causal else (-1, -1),
        enable_gqa=heads != key.shape[1],
    )  # fmt: skip
    return output.view(rows, queries, heads, size).transpose(1, 2), log_sum.view(heads, rows, queries).transpose(0, 1)


def join_attention(output: Tensor, log_sum: Tensor, other: Tensor, other_log_sum: Tensor) -> Tensor:
    """Attention over two disjoint sets of keys from that over each: softmax weights scale by exp of the log-sums.

    Outputs (..., d) and log-sums (...) as of `attend_with_log_sum` (the combination of arXiv 2307.08691, section 3.1).
    """
    share = torch.sigmoid(other_log_sum - log_sum)[..., None]
    return torch.lerp(output.float(), other.float(), share).to(output.dtype)


def _plain_attention(
    query: Tensor, key: Tensor, value: Tensor, scores: Scores, *, causal: bool, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Attention in products and a softmax: what no fused kernel does."""
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    weights = query @ key.transpose(-1, -2) * scores.scale
    if scores.softcap is not None:
        weights = torch.tanh(weights / scores.softcap) * scores.softcap
    if mask is not None:
        weights = weights + mask
    if causal:
        hidden = torch.ones(weights.shape[-2:], dtype=torch.bool, device=weights.device).triu(1)
        weights = weights.masked_fill(hidden, torch.finfo(weights.dtype).min)
    log_sum = weights.float().logsumexp(-1)
    return nn.functional.softmax(weights, -1, dtype=torch.float32).to(value.dtype) @ value, log_sum


# ---- may the kernel give log-sums? ----------------------------------------------------------------------------------

_LOG_SUMS = FastPathCheck(
    fast="shared beginnings are attended to in torch's kernel for sequences of unequal length",
    slow="shared beginnings are attended to in plain matrix products",
)


def log_sums_by_kernel(model: PreTrainedModel) -> bool:
    """Whether `attend_with_log_sum` may use the kernel for this model; found out once, on its device."""
    if not _may_have_kernel(model):
        return False
    config = text_config(model)
    heads = int(config.num_attention_heads)
    key_heads = int(getattr(config, "num_key_value_heads", None) or heads)
    size = int(getattr(config, "head_dim", None) or config.hidden_size // heads)
    compare = partial(_compare_log_sums, (heads, key_heads, size), model.dtype, model.device)
    return _LOG_SUMS.holds(model, compare, model.dtype)


def _may_have_kernel(model: PreTrainedModel) -> bool:
    return model.device.type == "cuda" and model.dtype in HALF


def _compare_log_sums(shape: tuple[int, int, int], dtype: torch.dtype, device: torch.device) -> str:
    """Why the kernel's outputs and log-sums of random numbers are not those of plain products in fp32, or nothing.

    Two rows that are causal, and one whose queries all see other keys, as those of a shared beginning. A log-sum in the
    place of another query or head is off by a large part of itself.
    """
    heads, key_heads, size = shape
    dice, scores = torch.Generator().manual_seed(0), Scores(size**-0.5)
    for rows, queries, keys, causal in ((2, 24, 24, True), (1, 40, 16, False)):
        sides = ((heads, queries), (key_heads, keys), (key_heads, keys))
        q, k, v = (torch.randn(rows, *side, size, generator=dice).to(device, dtype) for side in sides)
        found = attend_with_log_sum(q, k, v, scores, causal=causal, kernel=True)
        wanted = _plain_attention(q.float(), k.float(), v.float(), scores, causal=causal, mask=None)
        for what, ours, own in zip(("outputs", "log-sums"), found, wanted, strict=True):
            if why := why_different(ours.float(), own, 0.02, what):
                return why
    return ""
