"""Cross-entropy in chunks against torch's on all logits."""

from __future__ import annotations

import pytest
import torch
import transformers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import PreTrainedModel

from rankscope.model import head_loss, output_head
from rankscope.model.head_loss import summed_cross_entropy

WIDTH, VOCABULARY = 16, 53
CAP = 2.0


@pytest.fixture(autouse=True, params=["whole rows", "blocks of the vocabulary", "blocks, in groups of positions"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How logits are made: four whole rows at a time; or blocks of 16 columns, for all positions or seven at a time."""
    name = str(request.param)
    monkeypatch.setattr(head_loss, "chunk_rows", lambda model: 4)
    if name != "whole rows":
        for limit in ("_LEAST_COLUMNS", "_MOST_COLUMNS"):
            monkeypatch.setattr(output_head, limit, 16)
    if name == "blocks, in groups of positions":
        for module in (head_loss, output_head):
            monkeypatch.setattr(module, "MOST_ROWS", 7)
    return name


def make(family: str, *, tied: bool, dtype: torch.dtype = torch.float32, trained: bool = False) -> PreTrainedModel:
    capped = {"final_logit_softcapping": CAP} if family == "Gemma2" else {}
    config = getattr(transformers, f"{family}Config")(
        vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, head_dim=8, tie_word_embeddings=tied, initializer_range=0.5, pad_token_id=0, **capped,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config).to(dtype).eval()
    return model.requires_grad_(trained)


def reference(model: PreTrainedModel, states: Tensor, targets: Tensor, arms: int) -> Tensor:
    """All logits at once, in fp32 from there on."""
    logits = (states.to(model.dtype) @ model.get_output_embeddings().weight.T).float()
    if model.config.model_type == "gemma2":
        logits = CAP * torch.tanh(logits / CAP)
    each = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
    return each.view(arms, -1).sum(1)


def drawn(count: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    states = torch.randn(count, WIDTH, generator=generator).to(dtype)
    return states.requires_grad_(), torch.randint(0, VOCABULARY, (count,), generator=generator)


FACTORS = torch.tensor([0.25, 3.0, 0.0, -1.5])
"""What a loss is multiplied by after it, for each arm; 0 for an arm that has none."""


@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(arms=st.integers(1, 4), each=st.integers(1, 11), family=st.sampled_from(["Llama", "Gemma2"]))
def test_loss_and_gradient_of_states(arms: int, each: int, family: str) -> None:
    model, (states, targets) = make(family, tied=True), drawn(arms * each)
    found, expected = (f(model, states, targets, arms) for f in (summed_cross_entropy, reference))
    assert found.shape == (arms,)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    ours, theirs = (torch.autograd.grad(loss, states, FACTORS[:arms])[0] for loss in (found, expected))
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        assert torch.equal(summed_cross_entropy(model, states, targets, arms), found.detach())


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", ["Llama", "Gemma2"])
def test_gradient_of_a_trained_head(family: str, tied: bool) -> None:
    """Tied weights get the gradient of the embeddings too, which stand under the states."""
    model, (_, targets) = make(family, tied=tied, trained=True), drawn(10)
    ids = torch.arange(5, 15)[None]
    weights = list(dict.fromkeys(p for _, p in model.named_parameters()))
    assert (model.get_output_embeddings().weight is model.get_input_embeddings().weight) == tied
    states = [model.get_decoder()(input_ids=ids).last_hidden_state[0] for _ in range(2)]
    found, expected = summed_cross_entropy(model, states[0], targets), reference(model, states[1], targets, 1)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    ours, theirs = (torch.autograd.grad(0.3 * loss.sum(), weights) for loss in (found, expected))
    assert all(part.abs().max() > 0 for part in theirs)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_a_head_that_is_trained_on_states_that_are_not() -> None:
    model, (states, targets) = make("Llama", tied=False, trained=True), drawn(10)
    weight = model.get_output_embeddings().weight
    found, expected = (f(model, states.detach(), targets, 1) for f in (summed_cross_entropy, reference))
    ours, theirs = (torch.autograd.grad(loss.sum(), weight)[0] for loss in (found, expected))
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("family", ["Llama", "Gemma2"])
def test_bfloat16_rounds_the_logits_and_nothing_after_them(family: str, trained: bool) -> None:
    """Losses and a head's gradient are summed over the chunks in fp32; what comes out has the weight's dtype."""
    model = make(family, tied=False, dtype=torch.bfloat16, trained=trained)
    states, targets = drawn(40, torch.bfloat16)
    found, expected = (f(model, states, targets, 1) for f in (summed_cross_entropy, reference))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)
    leaves = [states, *([model.get_output_embeddings().weight] if trained else [])]
    ours, theirs = (torch.autograd.grad(loss.sum(), leaves) for loss in (found, expected))
    for one, other in zip(ours, theirs, strict=True):
        assert one.dtype == torch.bfloat16
        torch.testing.assert_close(one, other, rtol=0.02, atol=0.02)


def test_a_model_in_float64_has_a_loss_no_worse_than_fp32() -> None:
    model, (states, targets) = make("Llama", tied=True, dtype=torch.float64), drawn(10, torch.float64)
    loss = summed_cross_entropy(model, states, targets)
    torch.testing.assert_close(loss, reference(model, states, targets, 1), rtol=1e-5, atol=1e-5)
    assert torch.autograd.grad(loss.sum(), states)[0].dtype == torch.float64


def test_no_more_than_a_chunk_of_logits_exists(way: str) -> None:
    if way != "whole rows":
        pytest.skip("blocks do not call the head")
    seen = []
    model, (states, targets) = make("Llama", tied=True), drawn(22)
    model.get_output_embeddings().register_forward_hook(lambda _, __, out: seen.append(out.shape[0]))
    summed_cross_entropy(model, states, targets, 2).sum().backward()
    assert seen == [4, 4, 3, 4, 4, 3]
