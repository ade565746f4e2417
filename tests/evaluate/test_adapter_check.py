"""Adapters that do nothing, or too much, are noticed."""

from __future__ import annotations

from contextlib import nullcontext

import peft
import pytest
import torch
from scoring_models import make_model, random_items

from rankscope.evaluate.adapter_scoring import AdapterChangesBase, AdapterNotApplied, check_adapter
from rankscope.evaluate.choice_scoring import choice_logprobs

ITEMS = random_items(3, seed=1)


def adapted(scale: float) -> tuple[peft.PeftModel, list[tuple[float, ...]]]:
    """A model with a LoRA adapter whose B is `scale` everywhere, and the base's scores."""
    base = make_model("Llama")
    scores = choice_logprobs(base, ITEMS, token_budget=100)
    torch.manual_seed(0)
    wrapped = peft.get_peft_model(base, peft.LoraConfig(r=2, target_modules=["q_proj", "up_proj"]))
    for name, weight in wrapped.named_parameters():
        if "lora_B" in name:
            torch.nn.init.constant_(weight, scale)
    return wrapped, scores


def test_an_adapter_that_works_passes() -> None:
    wrapped, base = adapted(0.1)
    check_adapter(wrapped.get_base_model(), wrapped.disable_adapter, ITEMS, base, token_budget=100)


def test_an_adapter_that_does_nothing_is_refused() -> None:
    wrapped, base = adapted(0.0)
    with pytest.raises(AdapterNotApplied, match="exactly the base's"):
        check_adapter(wrapped.get_base_model(), wrapped.disable_adapter, ITEMS, base, token_budget=100)


def test_an_adapter_that_stays_on_is_refused() -> None:
    wrapped, base = adapted(0.1)
    with pytest.raises(AdapterChangesBase, match="nats from the base's"):
        check_adapter(wrapped.get_base_model(), nullcontext, ITEMS, base, token_budget=100)


def test_a_check_needs_items() -> None:
    wrapped, _ = adapted(0.1)
    with pytest.raises(ValueError, match="some items"):
        check_adapter(wrapped.get_base_model(), wrapped.disable_adapter, [], [], token_budget=100)
