"""An attention is put into a model for a while, and taken out again without a trace."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from scoring_models import make_model
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

from rankscope.model.attention.registration import ATTENTION_NAME, LAYOUT_KEY, Scores, attention_installed

TOKENS = torch.tensor([[5, 6, 7, 8]])


class Seen:
    """A layout that notes what it is given, and answers with zeros."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, tuple[int, ...], tuple[int, ...], Scores]] = []

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scores: Scores) -> Tensor:
        self.calls.append((layer, tuple(query.shape), tuple(key.shape), scores))
        return torch.zeros_like(query).transpose(0, 1)


def registered() -> tuple[bool, bool]:
    names = (AttentionInterface._global_mapping, AttentionMaskInterface._global_mapping)
    return ATTENTION_NAME in names[0], ATTENTION_NAME in names[1]


@pytest.mark.parametrize("family", ["Llama", "Mistral", "Gemma2", "GPT2"])
def test_every_layer_asks_the_layout_and_nothing_stays(family: str) -> None:
    model, layout = make_model(family), Seen()
    before = model.config._attn_implementation
    with torch.no_grad():
        own = model(TOKENS).logits
        with attention_installed(model):
            other = model(TOKENS, use_cache=False, **{LAYOUT_KEY: layout}).logits
        assert torch.equal(model(TOKENS).logits, own)
    assert not torch.equal(other, own)
    assert model.config._attn_implementation == before
    assert registered() == (False, False)
    assert [call[0] for call in layout.calls] == [0, 1, 2]
    heads, key_heads = (4, 4) if family == "GPT2" else (4, 2)
    assert {(call[1], call[2]) for call in layout.calls} == {((heads, 4, 8), (key_heads, 4, 8))}
    scores = layout.calls[0][3]
    assert scores.dropout == 0
    wanted = {"Gemma2": (9, 5.0), "Mistral": (9, None)}.get(family, (None, None))
    assert (scores.window, scores.softcap) == wanted


def test_without_a_layout_a_model_says_which_key_it_lacks() -> None:
    model = make_model("Llama")
    with attention_installed(model), pytest.raises(KeyError, match=LAYOUT_KEY):
        model(TOKENS)
    assert registered() == (False, False)


def test_an_observer_may_stand_inside_a_layout_and_both_come_back() -> None:
    """The inner attention is the model's own kind, with masks of its own; then the outer one answers again."""
    model, layout, shapes = make_model("Llama"), Seen(), []

    def observed(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **_: Any
    ) -> tuple[Tensor, None]:
        shapes.append(None if mask is None else tuple(mask.shape))
        return torch.zeros_like(query).transpose(1, 2), None

    mask = torch.tensor([[1, 1, 1, 0]])
    with torch.no_grad(), attention_installed(model):
        with attention_installed(model, observed, sdpa_mask):
            model(TOKENS, attention_mask=mask, use_cache=False)
        assert shapes == [(1, 1, 4, 4)] * 3
        assert not layout.calls
        model(TOKENS, use_cache=False, **{LAYOUT_KEY: layout})
    assert len(layout.calls) == 3
    assert registered() == (False, False)
    assert model.config._attn_implementation == "sdpa"


def test_it_comes_back_after_an_error() -> None:
    model = make_model("Llama")
    with pytest.raises(ZeroDivisionError), attention_installed(model):
        raise ZeroDivisionError
    assert model.config._attn_implementation == "sdpa"
    assert registered() == (False, False)
