"""Rows without padding where they give the model's own states; torch's kernel for unequal lengths where it does too."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from own_forward import rows
from scoring_models import make_model
from torch import Tensor
from transformers import PreTrainedModel

from rankscope.data.training_batches import collate, repeated
from rankscope.model.attention import unpadded_rows
from rankscope.model.attention.unpadded_rows import RowLayout, TrainingForward, padded_forward, training_forward
from rankscope.records import Example

Kernel = Callable[..., Tensor]


def states(forward: TrainingForward) -> Tensor:
    with torch.no_grad(), forward.ready():
        return forward.target_states(collate(rows())).float()


@pytest.mark.parametrize("family", ["Llama", "Qwen2", "Mistral", "Gemma2", "Gemma3", "GPT2", "GPTNeoX"])
def test_states_are_those_of_padded_rows(family: str) -> None:
    model = make_model(family)
    forward = training_forward(model)
    assert forward.unpadded
    torch.testing.assert_close(states(forward), states(padded_forward(model)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["Bloom", "Mamba"])
def test_a_model_that_does_not_pass_the_layout_on_pads(family: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    assert not training_forward(make_model(family)).unpadded
    assert "training rows are padded, because" in caplog.text


def alike() -> list[Example]:
    """Rows that begin alike: two prompts that are the same, one that goes on, and one longer than a small window."""
    start = tuple(range(3, 23))
    prompts = [start, start, (*start, 30, 31), (*start[:12], *range(40, 80))]
    return [Example(f"{i}", prompt, (50 + i, 60, 2)) for i, prompt in enumerate(prompts)]


@pytest.mark.parametrize("family", ["Llama", "Qwen2", "Gemma2", "Gemma3", "GPTNeoX"])
@pytest.mark.parametrize("twice", [False, True], ids=["", "checkpointing"])
def test_shared_prefixes_change_neither_states_nor_gradients(family: str, twice: bool) -> None:
    model = make_model(family).train()
    forward = training_forward(model)
    assert forward.shares
    if twice:
        model.activation_checkpointing_enable({"use_reentrant": False})
    found = []
    for share in (True, False):
        batch = repeated(collate(alike(), share_prefixes=share), 2)
        assert (batch.row_tokens is not None) == share
        with forward.ready():
            states = forward.target_states(batch)
            weights = torch.arange(states.numel(), dtype=states.dtype).view_as(states).sin()
            gradients = torch.autograd.grad((states * weights).sum(), [*model.parameters()], allow_unused=True)
        found.append([states, *gradients])
    for shared, plain in zip(*found, strict=True):
        if plain is not None:
            torch.testing.assert_close(shared, plain, rtol=1e-3, atol=1e-4)


def test_where_a_dropout_draws_nothing_is_shared() -> None:
    assert training_forward(make_model("Llama")).shares
    assert not training_forward(make_model("Llama", attention_dropout=0.1)).shares
    assert not training_forward(make_model("GPT2", resid_pdrop=0.1)).shares


def test_a_sharing_that_mixes_tokens_up_is_found_and_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    own = unpadded_rows.buckets_of

    def wrong(lengths: list[int], device: torch.device, row_tokens: Tensor | None = None) -> Any:
        return own(lengths, device, row_tokens if row_tokens is None else row_tokens.roll(1))

    monkeypatch.setattr(unpadded_rows, "buckets_of", wrong)
    forward = training_forward(make_model("Llama"))
    assert forward.unpadded
    assert not forward.shares


def rounding_model() -> PreTrainedModel:
    """Rounding to bf16 moves its states by far more than a hundredth, as in models with large norms."""
    return make_model("Llama", hidden_size=64, initializer_range=0.3, num_hidden_layers=12).to(torch.bfloat16)  # type: ignore[arg-type]


def test_rounding_of_half_precision_is_no_reason_to_pad() -> None:
    model = rounding_model()
    forward = training_forward(model)
    assert forward.unpadded
    assert forward.skips
    exact = rounding_model().float()
    own, found, right = states(padded_forward(model)), states(forward), states(padded_forward(exact))
    apart = float((own - right).abs().mean())
    assert apart > 0.02 * float(right.abs().mean()), "the model does not round as it should here"
    assert float((found - right).abs().mean()) < 1.2 * apart, "no further from the exact states than its own"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_layout_that_mixes_rows_is_found_and_not_used(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    def mixed(q: Tensor, k: Tensor, v: Tensor, buckets: Any, scores: Any) -> Tensor:
        shared = [part.transpose(0, 1)[None] for part in (q, k, v)]
        out = torch.nn.functional.scaled_dot_product_attention(*shared, is_causal=True, enable_gqa=True)
        return out[0].transpose(0, 1)

    monkeypatch.setattr(unpadded_rows, "causal_attention", mixed)
    model = make_model("Llama") if dtype == torch.float32 else rounding_model()
    assert not training_forward(model).unpadded


def test_lost_positions_are_found_in_half_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    own = unpadded_rows._unpadded_states

    def lost(model: PreTrainedModel, batch: Any, *, varlen: bool) -> Tensor:
        return own(model, replace(batch, position_ids=torch.zeros_like(batch.position_ids)), varlen=varlen)

    monkeypatch.setattr(unpadded_rows, "_unpadded_states", lost)
    assert not training_forward(rounding_model()).unpadded
    assert not training_forward(make_model("Llama", initializer_range=0.1).to(torch.bfloat16)).unpadded  # type: ignore[arg-type]


# ---- torch's kernel, which runs on CUDA only: the choice of it -------------------------------------------------------


def right(q: Tensor, k: Tensor, v: Tensor, starts: Tensor, *_: Any, **given: Any) -> Tensor:
    """What the kernel computes, sequence by sequence."""
    made, reach = [], given["window_size"][0]
    for start, stop in zip(starts.tolist(), starts.tolist()[1:], strict=False):
        distance = torch.arange(stop - start)[:, None] - torch.arange(stop - start)
        seen = (distance >= 0) & ((distance <= reach) | (reach < 0))
        parts = [part[start:stop].transpose(0, 1)[None].float() for part in (q, k, v)]
        out = torch.nn.functional.scaled_dot_product_attention(
            *parts, attn_mask=seen, scale=given["scale"], enable_gqa=given["enable_gqa"]
        )
        made.append(out[0].transpose(0, 1))
    return torch.cat(made).to(q.dtype)


def one_sequence(q: Tensor, k: Tensor, v: Tensor, starts: Tensor, *rest: Any, **given: Any) -> Tensor:
    """A kernel to which all sequences are one."""
    return right(q, k, v, starts[[0, -1]], *rest, **given)


def without_window(*given: Any, **named: Any) -> Tensor:
    return right(*given, **{**named, "window_size": (-1, 0)})


def missing(*_: Any, **__: Any) -> Tensor:
    raise RuntimeError("FlashAttention only supports Ampere GPUs or newer")


def half(family: str) -> PreTrainedModel:
    """In bf16, and with small weights, so that rounding stays small."""
    return make_model(family, initializer_range=0.05).to(torch.bfloat16)


def on_a_gpu(monkeypatch: pytest.MonkeyPatch, kernel: Kernel) -> list[int]:
    """As if the model could use the kernel; says how often it was called."""
    calls: list[int] = []

    def counted(*given: Any, **named: Any) -> Tensor:
        calls.append(1)
        return kernel(*given, **named)

    monkeypatch.setattr(unpadded_rows, "_may_use_varlen", lambda model: model.dtype == torch.bfloat16)
    monkeypatch.setattr(unpadded_rows, "varlen_attn", counted)
    return calls


@pytest.mark.parametrize("family", ["Llama", "Mistral"])
def test_the_kernel_is_used_where_it_is_right(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, model = on_a_gpu(monkeypatch, right), half(family)
    forward = training_forward(model)
    assert forward.varlen
    before = len(calls)
    found = states(forward)
    assert len(calls) == before + 3, "once for each layer"
    own = states(padded_forward(model))
    assert float((found - own).abs().mean() / own.abs().mean()) < 0.02
    assert not training_forward(make_model(family)).varlen, "not in fp32"


@pytest.mark.parametrize(
    ("family", "kernel", "why"),
    [
        ("Llama", one_sequence, "states differ by"),
        ("Mistral", without_window, "states differ by"),
        ("Llama", missing, "it refuses (RuntimeError: FlashAttention only supports Ampere"),
    ],
)
def test_a_kernel_that_is_wrong_or_missing_is_not_used_and_a_note_says_so(
    family: str, kernel: Kernel, why: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    calls, model = on_a_gpu(monkeypatch, kernel), half(family)
    forward = training_forward(model)
    assert (forward.unpadded, forward.varlen) == (True, False)
    assert f"runs in plain matrix products, because {why}" in caplog.text
    before = len(calls)
    found, own = states(forward), states(padded_forward(model))
    assert len(calls) == before
    assert float((found - own).abs().mean() / own.abs().mean()) < 0.02


def test_the_kernel_needs_nothing_that_is_read_back_from_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """On torch's meta device, where nothing has a value: reading one is an error."""

    def kernel(q: Tensor, k: Tensor, v: Tensor, starts: Tensor, *_: Any, **__: Any) -> Tensor:
        assert (starts.dtype, starts.shape) == (torch.int32, (len(rows()) * 2 + 1,))
        return torch.empty_like(q)

    monkeypatch.setattr(unpadded_rows, "varlen_attn", kernel)
    with torch.device("meta"):
        model = make_model("Mistral").to("meta", torch.bfloat16)
    batch = repeated(collate(rows(), device="meta"), 2)
    forward = TrainingForward(model, unpadded=True, varlen=True)
    with torch.no_grad(), forward.ready():
        assert forward.target_states(batch).shape[0] == len(batch.target_ids)
    layout = RowLayout.of(collate(rows()))
    assert "buckets" not in vars(layout), "they are made where they are asked for"


def test_no_memory_for_the_check_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> Tensor:
        raise torch.OutOfMemoryError("2 GiB")

    on_a_gpu(monkeypatch, full)
    with pytest.raises(torch.OutOfMemoryError):
        training_forward(half("Llama"))
