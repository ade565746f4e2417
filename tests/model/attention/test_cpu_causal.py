"""Attention in buckets against scores of all pairs, in float64."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rankscope.model.attention import cpu_causal, sequence_buckets
from rankscope.model.attention.cpu_causal import causal_attention
from rankscope.model.attention.registration import Scores
from rankscope.model.attention.sequence_buckets import buckets_of

CPU = torch.device("cpu")
MIXES = {
    "one token": [1],
    "one row": [9],
    "equal": [7, 7, 7],
    "short, padded": [1, 5, 1, 30, 12],
    "a block and one more": [128, 129],
    "around the block": [1, 127, 128, 131, 260],
    "many buckets": [3, 400, 60, 1, 75, 95, 130, 200, 50],
}


def drawn(lengths: list[int], heads: int, key_heads: int, width: int = 6, seed: int = 0) -> tuple[Tensor, ...]:
    """Queries, keys and values of all tokens, and a gradient of what comes out."""
    generator = torch.Generator().manual_seed(seed)
    made = [
        torch.randn(sum(lengths), count, width, generator=generator, dtype=torch.float64)
        for count in (heads, key_heads, key_heads, heads)
    ]
    return *(part.requires_grad_() for part in made[:3]), made[3]


def dense(
    query: Tensor, key: Tensor, value: Tensor, lengths: list[int], scores: Scores, kept: list[Tensor] | None = None
) -> Tensor:
    """Softmax over the scores of all pairs of a sequence; `kept` (H, n, n) for each sequence where there is dropout."""
    out, start = [], 0
    for i, count in enumerate(lengths):
        rows = slice(start, start + count)
        start += count
        q = query[rows].transpose(0, 1)
        k, v = (
            part[rows].transpose(0, 1).repeat_interleave(query.shape[1] // key.shape[1], 0) for part in (key, value)
        )
        s = q @ k.mT * scores.scale
        if scores.softcap is not None:
            s = scores.softcap * torch.tanh(s / scores.softcap)
        distance = torch.arange(count)[:, None] - torch.arange(count)
        hidden = (distance < 0) | (distance >= (scores.window or count))
        weights = s.masked_fill(hidden, float("-inf")).softmax(-1)
        if kept is not None:
            weights = weights * kept[i] / (1 - scores.dropout)
        out.append((weights @ v).transpose(0, 1))
    return torch.cat(out)


def assert_same(lengths: list[int], heads: int, key_heads: int, scores: Scores) -> None:
    *given, d_out = drawn(lengths, heads, key_heads)
    found = causal_attention(*given, buckets_of(lengths, CPU), scores)
    expected = dense(*given, lengths, scores)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-11)
    for ours, theirs in zip(
        torch.autograd.grad(found, given, d_out), torch.autograd.grad(expected, given, d_out), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("lengths", MIXES.values(), ids=MIXES)
@pytest.mark.parametrize(("window", "softcap"), [(None, None), (9, None), (None, 2.0), (130, 0.5)])
@pytest.mark.parametrize(("heads", "key_heads"), [(4, 2), (3, 1), (2, 2)])
def test_is_attention_over_all_pairs(
    lengths: list[int], heads: int, key_heads: int, window: int | None, softcap: float | None
) -> None:
    assert_same(lengths, heads, key_heads, Scores(0.7, window, softcap))


@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    lengths=st.lists(st.one_of(st.integers(1, 60), st.integers(100, 290)), min_size=1, max_size=6),
    window=st.one_of(st.none(), st.integers(1, 200)),
    softcap=st.one_of(st.none(), st.floats(0.3, 20.0)),
    heads=st.sampled_from([(1, 1), (2, 1), (4, 2)]),
)
def test_is_attention_for_any_lengths(
    lengths: list[int], window: int | None, softcap: float | None, heads: tuple[int, int]
) -> None:
    assert_same(lengths, *heads, Scores(0.4, window, softcap))


@pytest.mark.parametrize("scores", [Scores(0.5), Scores(0.5, window=2), Scores(0.5, softcap=0.8), Scores(1, 3, 2.0)])
def test_gradients_are_those_of_small_steps(scores: Scores, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also over the edges of blocks, which are made small here."""
    monkeypatch.setattr(cpu_causal, "_BLOCK", 2)
    monkeypatch.setattr(cpu_causal, "_FUSED", 0)
    monkeypatch.setattr(sequence_buckets, "_SHORT", 2)
    lengths = [1, 5, 3]
    *given, _ = drawn(lengths, 2, 1, width=2)
    assert torch.autograd.gradcheck(lambda *g: causal_attention(*g, buckets_of(lengths, CPU), scores), given)


SHARED = {
    "short": ([5, 5, 9, 3], [(1, 0, 3), (2, 1, 5)]),
    "all of a prompt": ([4, 4, 4], [(1, 0, 4), (2, 0, 4)]),
    "over buckets": ([60, 12, 200, 140], [(1, 0, 12), (2, 0, 50), (3, 2, 130)]),
}
"""Lengths, and of which row so many first tokens are those of which earlier one."""


@pytest.mark.parametrize(("lengths", "alike"), SHARED.values(), ids=SHARED)
@pytest.mark.parametrize(("window", "softcap"), [(None, None), (4, None), (None, 2.0)])
@pytest.mark.parametrize(("heads", "key_heads"), [(4, 2), (2, 2)])
def test_tokens_that_stand_in_several_sequences(
    lengths: list[int], alike: list[tuple[int, int, int]], window: int | None, softcap: float | None,
    heads: int, key_heads: int,
) -> None:  # fmt: skip
    """As if each sequence had tokens of its own, with gradients added up."""
    starts = [sum(lengths[:row]) for row in range(len(lengths))]
    stands = torch.arange(sum(lengths))
    for row, before, count in alike:
        stands[starts[row] : starts[row] + count] = stands[starts[before] : starts[before] + count]
    kept, row_tokens = torch.unique(stands, return_inverse=True)
    *given, d_out = drawn([len(kept)], heads, key_heads)
    scores = Scores(0.7, window, softcap)
    found = causal_attention(*given, buckets_of(lengths, CPU, row_tokens), scores)
    whole = dense(*(part[row_tokens] for part in given), lengths, scores)
    expected = whole[kept]
    torch.testing.assert_close(whole, expected[row_tokens], rtol=1e-10, atol=1e-11)  # alike in each sequence
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-11)
    for ours, theirs in zip(
        torch.autograd.grad(found, given, d_out), torch.autograd.grad(expected, given, d_out), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("block", [1, 3, 64])
def test_the_size_of_blocks_changes_nothing(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(cpu_causal, "_BLOCK", block)
    assert_same([1, 10, 2, 70], 4, 2, Scores(0.7, 5, 2.0))


@settings(max_examples=25, deadline=None, derandomize=True)
@given(lengths=st.lists(st.integers(1, 700), min_size=1, max_size=12))
def test_every_token_has_one_place_and_little_is_padding(lengths: list[int]) -> None:
    buckets = buckets_of(lengths, CPU)
    gathered = torch.cat([bucket.gather for bucket in buckets.parts])
    assert gathered[buckets.places].tolist() == list(range(sum(lengths)))
    assert sum(bucket.count for bucket in buckets.parts) == len(lengths)
    for bucket in buckets.parts:
        real = bucket.count * bucket.longest if bucket.unread is None else int((~bucket.unread).sum())
        if bucket.longest > 60:  # the longest that may share a bucket with the short ones is 1.2 times 48
            assert bucket.count * bucket.longest <= 1.2 * real + 1e-9
    places = sum(len(bucket.gather) for bucket in buckets.parts)
    assert places <= 48 * len(lengths) + 1.2 * sum(lengths)


# ---- dropout ---------------------------------------------------------------------------------------------------------


def kept_weights(lengths: list[int], heads: int, key_heads: int, scores: Scores, seed: int) -> list[Tensor]:
    """Which weights (H, n, n) stayed: with scores of 0 and values that are unit vectors, the weights come out."""
    total = sum(lengths)
    zeros = torch.zeros(total, heads, total, dtype=torch.float64)
    values = torch.eye(total, dtype=torch.float64)[:, None].repeat(1, key_heads, 1)
    torch.manual_seed(seed)
    out = causal_attention(zeros, zeros[:, :key_heads], values, buckets_of(lengths, CPU), scores)
    starts = torch.tensor(lengths).cumsum(0) - torch.tensor(lengths)
    spans = [slice(start, start + count) for start, count in zip(starts.tolist(), lengths, strict=True)]
    return [(out[span, :, span].transpose(0, 1) > 0).double() for span in spans]


@pytest.mark.parametrize("scores", [Scores(0.7, dropout=0.3), Scores(0.7, 40, 2.0, dropout=0.3)])
def test_dropout_uses_one_mask_for_outputs_and_gradients(scores: Scores) -> None:
    lengths = [1, 140, 20, 150]
    kept = kept_weights(lengths, 4, 2, scores, seed=5)
    *given, d_out = drawn(lengths, 4, 2)
    torch.manual_seed(5)
    found = causal_attention(*given, buckets_of(lengths, CPU), scores)
    expected = dense(*given, lengths, scores, kept)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-11)
    torch.manual_seed(99)  # the backward pass draws nothing
    for ours, theirs in zip(
        torch.autograd.grad(found, given, d_out), torch.autograd.grad(expected, given, d_out), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-11)


def test_dropout_keeps_the_share_that_was_asked_for() -> None:
    (kept,) = kept_weights([150], 4, 4, Scores(1.0, dropout=0.3), seed=0)
    count = 4 * 150 * 151 / 2
    assert kept.sum().item() / count == pytest.approx(0.7, abs=4 * (0.3 * 0.7 / count) ** 0.5)
    *given, _ = drawn([150], 4, 4)
    plain = causal_attention(*given, buckets_of([150], CPU), Scores(1.0))
    torch.manual_seed(0)
    mean = torch.stack(
        [causal_attention(*given, buckets_of([150], CPU), Scores(1.0, dropout=0.3)).detach() for _ in range(60)]
    ).mean(0)
    spread = (mean - plain).square().mean().sqrt() / plain.square().mean().sqrt()
    assert spread < 0.15, "what is kept is scaled up, so that the mean stays"


def test_what_came_in_is_not_changed() -> None:
    lengths = [3, 140]
    *given, d_out = drawn(lengths, 2, 1)
    copies = [part.detach().clone() for part in (*given, d_out)]
    scores = replace(Scores(0.3), softcap=2.0)
    torch.autograd.grad(causal_attention(*given, buckets_of(lengths, CPU), scores), given, d_out)
    assert all(torch.equal(part.detach(), copy) for part, copy in zip((*given, d_out), copies, strict=True))
