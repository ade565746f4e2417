"""Hidden states and the head give the model's own logits, for many families, or the model's own are used."""

from __future__ import annotations

import gc
import logging
import weakref
from typing import Any

import peft
import pytest
import torch
import transformers
from transformers import PreTrainedModel

from rankscope.model.attention.unpadded_rows import training_forward
from rankscope.model.forward import (
    NotFinite,
    compare_head,
    forward_of,
    hidden_states,
)
from rankscope.model.output_head import head_logits, target_logprobs

VOCABULARY = 97
SMALL: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "initializer_range": 0.5,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
SCALED: dict[str, dict[str, Any]] = {
    "GraniteConfig": {"logits_scaling": 4.0},
    "CohereConfig": {"logit_scale": 0.25},
    "Gemma2Config": {"final_logit_softcapping": 2.0},
}
FAMILIES = ["Llama", "Qwen2", "Mistral", "Phi3", "Gemma2", "Gemma3Text", "GPTNeoX", "GPT2", "Granite", "Cohere", "OPT"]


def make(family: str) -> PreTrainedModel:
    name = f"{family}Config"
    settings = SMALL | SCALED.get(name, {})
    if family == "GPT2":
        settings = {key: settings[key] for key in ("vocab_size", "initializer_range", "pad_token_id")}
        settings |= {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64, "bos_token_id": 1, "eos_token_id": 2}
    if family == "OPT":
        settings |= {"word_embed_proj_dim": 8, "ffn_dim": 24}
    if family in ("GPTNeoX", "OPT"):
        settings = {key: value for key, value in settings.items() if key not in ("head_dim", "num_key_value_heads")}
    torch.manual_seed(0)
    return transformers.AutoModelForCausalLM.from_config(getattr(transformers, name)(**settings)).eval()


TOKENS = torch.tensor([[5, 8, 13, 21, 34, 55, 3, 7, 11], [2, 4, 8, 16, 32, 64, 31, 62, 27]])


@pytest.mark.parametrize("family", FAMILIES)
def test_equals_the_models_own_logits(family: str) -> None:
    model = make(family)
    with torch.no_grad():
        states = hidden_states(model, TOKENS)
        own = model(TOKENS).logits
        ours = head_logits(model, states)
    assert states.shape == (*TOKENS.shape, states.shape[-1])
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, own, atol=1e-5, rtol=1e-5)
    assert compare_head(model) == ""
    assert forward_of(model).direct


@pytest.mark.parametrize("family", ["Llama", "Gemma2"])
def test_half_precision_passes_its_check(family: str) -> None:
    model = make(family).to(torch.bfloat16)
    assert forward_of(model).direct
    assert head_logits(model, hidden_states(model, TOKENS)).dtype == torch.float32


def test_caches_masks_and_positions_reach_the_model() -> None:
    model = make("Llama")
    cache = transformers.DynamicCache(config=model.config)
    with torch.no_grad():
        whole = hidden_states(model, TOKENS)
        hidden_states(model, TOKENS[:, :6], past_key_values=cache, use_cache=True)
        rest = hidden_states(model, TOKENS[:, 6:], past_key_values=cache, use_cache=True)
        torch.testing.assert_close(rest, whole[:, 6:], atol=1e-5, rtol=1e-5)
        padded = torch.nn.functional.pad(TOKENS, (2, 0))
        mask = torch.nn.functional.pad(torch.ones_like(TOKENS), (2, 0))
        positions = torch.nn.functional.pad(torch.arange(9).expand(2, 9), (2, 0))
        found = hidden_states(model, padded, attention_mask=mask, position_ids=positions)[:, 2:]
    torch.testing.assert_close(found, whole, atol=1e-5, rtol=1e-5)


def test_logits_at_positions_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make("Gemma2")
    forward = forward_of(model)
    positions = torch.tensor([0, 3, 8, 9, 17])
    monkeypatch.setattr("rankscope.model.output_head.CHUNK_ELEMENTS", {"cpu": 2 * VOCABULARY})
    monkeypatch.setattr("rankscope.model.output_head.LEAST_CHUNK_ROWS", 1)
    with torch.no_grad():
        own = model(TOKENS).logits.flatten(0, 1)[positions]
        parts = list(forward.logits_at(TOKENS, positions))
        assert [len(part) for part in parts] == [2, 2, 1]
        torch.testing.assert_close(torch.cat(parts), own, atol=1e-5, rtol=1e-5)
        forward.direct = False
        torch.testing.assert_close(torch.cat(list(forward.logits_at(TOKENS, positions))), own, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", ["Gemma2", "Llama", "Phi"])
def test_log_probabilities_in_blocks_of_the_vocabulary(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks that do not divide the vocabulary, a last one of one column, targets in each of them, and of equal tokens
    the first as the best; soft-capping and a head with a bias."""
    model = make(family)
    with torch.no_grad():
        weight = model.get_output_embeddings().weight
        weight[70], weight[80] = weight[3], weight[3]
        states = hidden_states(model, TOKENS).flatten(0, 1)
        logits = model(TOKENS).logits.flatten(0, 1).double()
        logits[:, 70] = logits[:, 80] = logits[:, 3]
        rows = torch.arange(len(states)).repeat_interleave(3)
        ids = torch.stack(
            [torch.arange(len(states)) * 5 % VOCABULARY, logits.argmax(-1), torch.full((len(states),), 96)]
        )
        ids = ids.T.flatten()
        wanted = logits.log_softmax(-1)[rows, ids]
        for rows_at_once, columns in ((512, 32), (4, 16), (5, 96), (1, 8)):
            for name, value in (("MOST_ROWS", rows_at_once), ("_LEAST_COLUMNS", columns), ("_MOST_COLUMNS", columns)):
                monkeypatch.setattr(f"rankscope.model.output_head.{name}", value)
            found = target_logprobs(model, states, rows, ids, best=True)
            torch.testing.assert_close(found.logprobs.double(), wanted, atol=1e-5, rtol=1e-5)
            assert found.best is not None
            assert torch.equal(found.best, ids == logits.argmax(-1)[rows])


def test_a_head_that_does_more_falls_back_to_the_models_own(caplog: pytest.LogCaptureFixture) -> None:
    model = make("Llama")
    own_forward = model.forward

    def shifted(*args: Any, **kwargs: Any) -> Any:
        outputs = own_forward(*args, **kwargs)
        outputs.logits = outputs.logits * 1.5
        return outputs

    model.forward = shifted  # type: ignore[method-assign]
    assert "logits differ by" in compare_head(model)
    with caplog.at_level(logging.WARNING):
        forward = forward_of(model)
    assert not forward.direct
    assert "its own logits are used" in caplog.text
    positions = torch.tensor([4, 12])
    with torch.no_grad():
        (found,) = forward.logits_at(TOKENS, positions)
        torch.testing.assert_close(found, shifted(TOKENS).logits.flatten(0, 1)[positions])


def test_a_model_of_nan_is_no_mismatch() -> None:
    model = make("Llama")
    with torch.no_grad():
        model.lm_head.weight[3] = float("nan")
    with pytest.raises(NotFinite):
        compare_head(model)


def test_decided_once_for_each_model(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make("Llama")
    first = forward_of(model)
    monkeypatch.setattr("rankscope.model.forward.compare_head", lambda model: pytest.fail("checked again"))
    assert forward_of(model).direct is first.direct is True


def test_deciding_does_not_keep_a_model_in_memory() -> None:
    """Full fine-tuning loads a model for every run: one that stayed would fill the device."""
    model = make("Llama")
    forward_of(model)
    training_forward(model)
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


def test_adapters_inside_the_model_count() -> None:
    model = make("Llama")
    before = head_logits(model, hidden_states(model, TOKENS)).detach()
    torch.manual_seed(1)
    wrapped = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False))
    inner = wrapped.get_base_model()
    assert compare_head(inner) == ""
    with torch.no_grad():
        after = head_logits(inner, hidden_states(inner, TOKENS))
        torch.testing.assert_close(after, wrapped(TOKENS).logits, atol=1e-5, rtol=1e-5)
    assert float((after - before).abs().max()) > 1e-3


def test_gradients_pass() -> None:
    model = make("Gemma2")
    head_logits(model, hidden_states(model, TOKENS)).logsumexp(-1).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_training_mode_comes_back() -> None:
    model = make("Llama").train()
    compare_head(model)
    assert model.training
