"""Whether a continuation is what greedy decoding would write, against the model's own choice of tokens."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from scoring_models import random_items
from transformers import PreTrainedModel

from rankscope.evaluate.choice_scoring import choice_logprobs, choices_with_greedy
from rankscope.records import Item


@pytest.mark.parametrize("family", ["Llama", "GPT2", "Mamba"])
def test_greedy_is_what_the_model_itself_would_write(family: str, model_of: Callable[[str], PreTrainedModel]) -> None:
    """One choice is the most likely continuation, one leaves it at its last token, one at its first."""
    model = model_of(family)
    items, wanted = [], []
    for item in random_items(5, seed=6):
        ids = list(item.prompt_ids)
        for _ in range(3):
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        best = tuple(ids[-3:])
        late, early = (*best[:2], (best[2] + 1) % 320), ((best[0] + 1) % 320, *best[1:])
        items.append(Item(item.item_id, "choices", item.prompt_ids, (late, best, early, best[:1])))
        wanted.append([False, True, False, True])
    found = choices_with_greedy(model, items, token_budget=120)
    assert [[greedy for _, greedy in row] for row in found] == wanted
    plain = choice_logprobs(model, items, token_budget=120)
    assert [value for row in found for value, _ in row] == pytest.approx([value for row in plain for value in row])
