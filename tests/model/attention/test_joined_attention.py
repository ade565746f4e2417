"""Outputs and log-sums by torch's kernel for unequal lengths, which runs on CUDA only: how it is asked, and whether."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from scoring_models import make_model
from test_scoring_layout import KEY_HEADS, PREFIX, SEQUENCES, SHAPE, SIZE, drawn, states
from torch import Tensor
from transformers import PreTrainedModel

from rankscope.model.attention import joined_attention
from rankscope.model.attention.joined_attention import attend_with_log_sum, log_sums_by_kernel
from rankscope.model.attention.registration import Scores
from rankscope.model.attention.scoring_layout import TreeLayout

Kernel = Callable[..., tuple[Tensor, Tensor]]


def right(
    q: Tensor, k: Tensor, v: Tensor, starts_q: Tensor, starts_k: Tensor, *_: Any, **given: Any
) -> tuple[Tensor, Tensor]:
    """What the kernel computes, sequence by sequence: outputs (T, H, d) and log-sums (H, T)."""
    assert given["return_aux"].lse
    assert starts_q.dtype == starts_k.dtype == torch.int32
    assert given["enable_gqa"] == (q.shape[1] != k.shape[1])
    outputs, log_sums = [], []
    for row in range(len(starts_q) - 1):
        own_q, own_k = (slice(int(starts[row]), int(starts[row + 1])) for starts in (starts_q, starts_k))
        group = q.shape[1] // k.shape[1]
        key, value = (side[own_k].float().repeat_interleave(group, 1) for side in (k, v))
        weights = torch.einsum("qhd,khd->hqk", q[own_q].float(), key) * given["scale"]
        if given["window_size"] == (-1, 0):
            weights = weights.masked_fill(torch.ones(weights.shape[1:], dtype=torch.bool).triu(1), -torch.inf)
        outputs.append(torch.einsum("hqk,khd->qhd", weights.softmax(-1), value))
        log_sums.append(weights.logsumexp(-1))
    return torch.cat(outputs).to(q.dtype), torch.cat(log_sums, 1)


def by_token(*given: Any, **named: Any) -> tuple[Tensor, Tensor]:
    """A kernel that gives log-sums by token and head, as its documentation says."""
    output, log_sum = right(*given, **named)
    return output, log_sum.T.contiguous()


def of_two(*given: Any, **named: Any) -> tuple[Tensor, Tensor]:
    """A kernel that gives logarithms to the base of 2."""
    output, log_sum = right(*given, **named)
    return output, log_sum / torch.tensor(2.0).log()


def missing(*_: Any, **__: Any) -> tuple[Tensor, Tensor]:
    raise RuntimeError("FlashAttention only supports Ampere GPUs or newer")


@pytest.mark.parametrize(("queries", "keys", "causal"), [(7, 7, True), (9, 5, False), (1, 6, False)])
def test_the_kernel_is_asked_for_what_plain_attention_gives(
    queries: int, keys: int, causal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joined_attention, "varlen_attn", right)
    query, key, value = drawn(3, 4, queries, 8, seed=1), drawn(3, 2, keys, 8, seed=2), drawn(3, 2, keys, 8, seed=3)
    found = attend_with_log_sum(query, key, value, Scores(0.4), causal=causal, kernel=True)
    wanted = attend_with_log_sum(query, key, value, Scores(0.4), causal=causal)
    for ours, own in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, own, atol=1e-5, rtol=0)


@pytest.mark.parametrize("softcap", [None, 2.0])
def test_shared_beginnings_by_the_kernel_are_those_by_plain_products(
    softcap: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def counted(*given: Any, **named: Any) -> tuple[Tensor, Tensor]:
        calls.append(1)
        return right(*given, **named)

    monkeypatch.setattr(joined_attention, "varlen_attn", counted)
    query, key, value = states(len(SEQUENCES))
    prefix = [(drawn(KEY_HEADS, PREFIX, SIZE, seed=7), drawn(KEY_HEADS, PREFIX, SIZE, seed=9))]
    scores = Scores(0.3, None, softcap)
    found = TreeLayout(SHAPE, prefix, kernel=True).attend(0, query, key, value, scores)
    torch.testing.assert_close(found, TreeLayout(SHAPE, prefix).attend(0, query, key, value, scores))
    assert bool(calls) == (softcap is None), "it knows no soft cap"


def half(family: str) -> PreTrainedModel:
    return make_model(family).to(torch.bfloat16)


def on_a_gpu(monkeypatch: pytest.MonkeyPatch, kernel: Kernel) -> None:
    """As if a model in bf16 could use this kernel."""
    monkeypatch.setattr(joined_attention, "_may_have_kernel", lambda model: model.dtype == torch.bfloat16)
    monkeypatch.setattr(joined_attention, "varlen_attn", kernel)


def test_the_kernel_is_used_where_it_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not log_sums_by_kernel(half("Llama")), "not on a CPU"
    on_a_gpu(monkeypatch, right)
    assert log_sums_by_kernel(half("Llama"))
    assert log_sums_by_kernel(half("GPT2")), "as many heads of keys as of queries"
    assert not log_sums_by_kernel(make_model("Llama")), "not in fp32"


@pytest.mark.parametrize(
    ("kernel", "why"),
    [
        (by_token, "log-sums differ by"),
        (of_two, "log-sums differ by"),
        (missing, "it refuses (RuntimeError: FlashAttention only supports Ampere"),
    ],
)
def test_a_kernel_that_is_wrong_or_missing_is_not_used_and_a_note_says_so(
    kernel: Kernel, why: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    on_a_gpu(monkeypatch, kernel)
    assert not log_sums_by_kernel(half("Llama"))
    assert f"attended to in plain matrix products, because {why}" in caplog.text


@pytest.mark.cuda
@pytest.mark.parametrize("size", [64, 128])
def test_the_kernel_of_this_gpu_gives_log_sums(size: int) -> None:
    model = make_model("Llama", head_dim=size).to("cuda", torch.bfloat16)
    assert log_sums_by_kernel(model)
