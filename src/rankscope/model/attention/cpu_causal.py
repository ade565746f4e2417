"""Causal attention over sequences of unequal length, in plain matrix products.

Sequences of nearly the same length are laid side by side in a bucket, so that little is computed for padding, and
queries go in blocks against the keys that they may see, so that little is computed above the diagonal. torch's fused
kernel, whose backward pass is slow on a CPU, knows neither buckets nor soft-capping. A token that begins several
sequences alike stands in each; what it gives is taken from one, and the gradients of its key and value are added up.

Shapes: T tokens of all sequences one after another; H query heads, K key heads, G = H / K; in a bucket b sequences,
n tokens of the longest; d head width.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from rankscope.model.attention.registration import Scores
from rankscope.model.attention.sequence_buckets import Bucket, Buckets, Repeats

_BLOCK = 128
"""Queries in a block: its scores against all keys should stay in a core's cache."""

_FUSED = 64
"""Up to here torch's fused kernel is faster, where all sequences are as short."""


def causal_attention(query: Tensor, key: Tensor, value: Tensor, buckets: Buckets, scores: Scores) -> Tensor:
    """(T, H, d) from queries (T, H, d), keys and values (T, K, d): each token sees its own sequence up to itself.

    Gradients pass. Of several sequences of up to 64 tokens torch's fused kernel does the work, else blocks of products.
    """
    if _is_short(buckets, scores):
        return _short_attention(query, key, value, buckets, scores)
    out: Tensor = _Attention.apply(query, key, value, buckets, scores)
    return out


# ---- short sequences, in one bucket ----------------------------------------------------------------------------------


def _is_short(buckets: Buckets, scores: Scores) -> bool:
    longest = buckets.parts[-1].longest
    plain = scores.softcap is None and (scores.window is None or scores.window >= longest)
    return plain and len(buckets.parts) == 1 and longest <= _FUSED


def _short_attention(query: Tensor, key: Tensor, value: Tensor, buckets: Buckets, scores: Scores) -> Tensor:
    """torch's fused kernel: its two passes take less than the calls that blocks of products would need."""
    (bucket,) = buckets.parts

    def padded(tokens: Tensor, repeats: Repeats | None = buckets.repeats) -> Tensor:
        places: Tensor = _ToPlaces.apply(tokens.flatten(1), bucket, buckets.places, repeats)
        return places.view(bucket.count, bucket.longest, *tokens.shape[1:]).transpose(1, 2)

    out = nn.functional.scaled_dot_product_attention(
        padded(query, None), padded(key), padded(value), is_causal=True, dropout_p=scores.dropout, scale=scores.scale,
        enable_gqa=query.shape[1] != key.shape[1],
    )  # fmt: skip
    tokens: Tensor = _ToTokens.apply(out.transpose(1, 2).flatten(2).flatten(0, 1), bucket, buckets.places)
    return tokens.view(query.shape)


class _ToPlaces(torch.autograd.Function):
    """Tokens (T, X) to places (b n, X); backward picks, where autograd would scatter, and adds what `repeats` has.
    Padding has no gradient: no real query sees it, and what it gives is dropped; queries have none where theirs is."""

    @staticmethod
    def forward(ctx: Any, tokens: Tensor, bucket: Bucket, places: Tensor, repeats: Repeats | None) -> Tensor:
        ctx.given = places, repeats
        return tokens.index_select(0, bucket.gather)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        return _at_tokens(gradients[0], *ctx.given), None, None, None


def _at_tokens(by_place: Tensor, places: Tensor, repeats: Repeats | None) -> Tensor:
    """(T, X) of (b n, X): each token's own place, with the sum over its further ones."""
    picked = by_place.index_select(0, places)
    if repeats is not None:
        picked.index_add_(0, repeats.tokens, by_place.index_select(0, repeats.places))
    return picked


class _ToTokens(torch.autograd.Function):
    """Places (b n, X) to tokens (T, X)."""

    @staticmethod
    def forward(ctx: Any, padded: Tensor, bucket: Bucket, places: Tensor) -> Tensor:
        ctx.bucket = bucket
        return padded.index_select(0, places)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        bucket: Bucket = ctx.bucket
        made = gradients[0].index_select(0, bucket.gather)
        if bucket.unread is not None:
            made.masked_fill_(bucket.unread.view(-1, 1), 0.0)
        return made, None, None


# ---- sequences of any length -----------------------------------------------------------------------------------------


class _Attention(torch.autograd.Function):
    """Weights are computed again in the backward pass (as in arXiv 2205.14135), never kept."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, buckets: Buckets, scores: Scores) -> Tensor:
        made: list[Tensor] = []
        kept: list[Tensor] = []
        for bucket in buckets.parts:
            q, k, v = (_lay_out(tokens, bucket, key.shape[1]) for tokens in (query, key, value))
            q *= scores.scale
            made.append(torch.empty_like(q))
            for queries, keys in _blocks(bucket.longest, scores.window):
                weights, _ = _weights(q, k, queries, keys, scores)
                if scores.dropout:
                    kept.append(torch.rand_like(weights) >= scores.dropout)
                    weights = _dropped(weights, kept[-1], scores)
                made[-1][:, :, queries] = torch.bmm(weights, v[:, 0, keys]).view(*q.shape[:2], -1, q.shape[3])
        ctx.save_for_backward(query, key, value, *kept)
        ctx.given = buckets, scores
        return _take_back(made, buckets)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        query, key, value, *kept = ctx.saved_tensors
        buckets, scores = ctx.given
        kept.reverse()
        made: list[tuple[Tensor, Tensor, Tensor]] = []
        for bucket in buckets.parts:
            q, k, v, d_out = (_lay_out(t, bucket, key.shape[1]) for t in (query, key, value, gradients[0]))
            q *= scores.scale
            if bucket.unread is not None:  # they point at a token whose gradient is another place's
                d_out.view(bucket.count, -1, bucket.longest, d_out.shape[3]).masked_fill_(bucket.unread, 0.0)
            made.append((torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)))
            for queries, keys in _blocks(bucket.longest, scores.window):
                dropout = kept.pop() if scores.dropout else None
                _add_gradients(made[-1], (q, k, v, d_out), queries, keys, scores, dropout)
            made[-1][0].mul_(scores.scale)
        d_query = _take_back([part[0] for part in made], buckets)
        d_key, d_value = (_take_back([part[i] for part in made], buckets, buckets.repeats) for i in (1, 2))
        return d_query, d_key, d_value, None, None


def _add_gradients(
    made: tuple[Tensor, Tensor, Tensor],
    given: tuple[Tensor, Tensor, Tensor, Tensor],
    queries: slice,
    keys: slice,
    scores: Scores,
    kept: Tensor | None,
) -> None:
    """One block's share of the gradients `made` of q (already scaled), k and v."""
    q, k, v, d_out = given
    weights, slope = _weights(q, k, queries, keys, scores)
    d_block = d_out[:, :, queries].flatten(1, 2)
    d_weights = torch.bmm(d_block, v[:, 0, keys].transpose(1, 2))
    used = weights
    if kept is not None:
        used, d_weights = _dropped(weights, kept, scores), _dropped(d_weights, kept, scores)
    made[2][:, 0, keys].baddbmm_(used.transpose(1, 2), d_block)
    # Of a softmax: P (dP - sum P dP) by row.
    d_scores = torch._softmax_backward_data(d_weights, weights, -1, weights.dtype)
    if slope is not None:
        d_scores *= slope
    made[0][:, :, queries] = torch.bmm(d_scores, k[:, 0, keys]).view(*q.shape[:2], -1, q.shape[3])
    made[1][:, 0, keys].baddbmm_(d_scores.transpose(1, 2), q[:, :, queries].flatten(1, 2))


def _weights(q: Tensor, k: Tensor, queries: slice, keys: slice, scores: Scores) -> tuple[Tensor, Tensor | None]:
    """Attention weights (b K, G rows, keys) of one block, and the slope of the cap where there is one."""
    made = torch.bmm(q[:, :, queries].flatten(1, 2), k[:, 0, keys].transpose(1, 2))
    slope = None
    if scores.softcap is not None:
        made = torch.tanh_(made.div_(scores.softcap))
        slope = 1.0 - made.square()
        made *= scores.softcap
    rows, columns = queries.stop - queries.start, keys.stop - keys.start
    by_row = made.view(made.shape[0], -1, rows, columns)
    if scores.window is None:  # what lies left of the diagonal square is seen by every query
        by_row[..., queries.start - keys.start :] += _hidden(rows, rows, 0, None, made.dtype, made.device)
    else:
        by_row += _hidden(rows, columns, queries.start - keys.start, scores.window, made.dtype, made.device)
    return torch.softmax(made, -1), slope


@lru_cache(maxsize=64)
def _hidden(
    rows: int, columns: int, ahead: int, window: int | None, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """(rows, columns), minus infinity where a query must not look, else 0; the first query stands `ahead` places after
    the first key. Added, since filling by a mask takes as long as the product; kept for the other heads and layers."""
    distance = torch.arange(rows, device=device)[:, None] + ahead - torch.arange(columns, device=device)
    hidden = (distance < 0) if window is None else (distance < 0) | (distance >= window)
    return torch.zeros(rows, columns, dtype=dtype, device=device).masked_fill_(hidden, -math.inf)


def _dropped(weights: Tensor, kept: Tensor, scores: Scores) -> Tensor:
    return weights * kept / (1.0 - scores.dropout)


def _blocks(longest: int, window: int | None) -> Iterator[tuple[slice, slice]]:
    """Queries, and the keys that some of them see."""
    for start in range(0, longest, _BLOCK):
        stop = min(start + _BLOCK, longest)
        first = max(0, start - window + 1) if window is not None else 0
        yield slice(start, stop), slice(first, stop)


def _lay_out(tokens: Tensor, bucket: Bucket, key_heads: int) -> Tensor:
    """(T, heads, d) to (b K, heads / K, n, d), a copy."""
    width = tokens.shape[2]
    padded = tokens.flatten(1).index_select(0, bucket.gather)
    padded = padded.view(bucket.count, bucket.longest, key_heads, -1, width).permute(0, 2, 3, 1, 4)
    return padded.reshape(bucket.count * key_heads, -1, bucket.longest, width)


def _take_back(laid: list[Tensor], buckets: Buckets, repeats: Repeats | None = None) -> Tensor:
    """(T, heads, d) from (b K, heads / K, n, d) of every bucket, with the sum over `repeats`."""
    flat = []
    for bucket, part in zip(buckets.parts, laid, strict=True):
        by_head = part.view(bucket.count, -1, bucket.longest, part.shape[3])
        flat.append(by_head.transpose(1, 2).flatten(2).flatten(0, 1))
    width = laid[0].shape[3]
    return _at_tokens(torch.cat(flat), buckets.places, repeats).view(len(buckets.places), -1, width)
