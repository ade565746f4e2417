"""An attention is put into a model for a while and taken out without a trace; fast paths are compared once."""

from __future__ import annotations

import gc
import logging
import math
import weakref
from typing import Any

import pytest
import torch
from scoring_models import make_model
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

from rankscope.model.attention.registration import (
    ATTENTION_NAME,
    LAYOUT_KEY,
    FastPathCheck,
    HeldPaths,
    Scores,
    attention_installed,
    share_answers,
    why_different,
)

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


# ---- fast paths ------------------------------------------------------------------------------------------------------


def check(**changes: object) -> FastPathCheck:
    return FastPathCheck(fast="quickly", slow="slowly", **changes)  # type: ignore[arg-type]


def test_a_path_is_compared_once_for_each_model_and_condition(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    one, other, path, asked = make_model("Llama"), make_model("GPT2"), check(), []

    def compare(reason: str) -> str:
        asked.append(reason)
        return reason

    for _ in range(2):
        assert path.holds(one, lambda: compare(""))
        assert not path.holds(one, lambda: compare("the window is lost"), 9)
        assert not path.holds(other, lambda: compare("it is GPT-2"))
    assert asked == ["", "the window is lost", "it is GPT-2"]
    assert [record.message for record in caplog.records] == [
        "LlamaForCausalLM: quickly",
        "LlamaForCausalLM: slowly, because the window is lost",
        "GPT2LMHeadModel: slowly, because it is GPT-2",
    ]


def test_what_held_for_a_model_holds_for_its_copies_and_what_did_not_is_asked_of_each() -> None:
    path, other, held, asked = check(), check(), HeldPaths(), []
    one, copy, stranger = (make_model("Llama") for _ in range(3))

    def compare(reason: str) -> str:
        asked.append(reason)
        return reason

    share_answers(one, held)
    assert path.holds(one, lambda: compare(""))
    assert not path.holds(one, lambda: compare("NaN"), 9)
    share_answers(copy, held)
    assert path.holds(copy, lambda: compare("not asked"))
    assert path.holds(copy, lambda: compare(""), 9), "the first model's numbers were its own"
    assert not path.holds(one, lambda: compare("not asked"), 9)
    assert other.holds(copy, lambda: compare("")), "another path"
    assert path.holds(stranger, lambda: compare(""))
    assert asked == ["", "NaN", "", "", ""]


def test_another_check_has_its_own_answers() -> None:
    model = make_model("Llama")
    assert check().holds(model, lambda: "")
    assert not check().holds(model, lambda: "no")


@pytest.mark.parametrize("refusal", [KeyError("rankscope_layout"), RuntimeError("no kernel\nfor this"), TypeError()])
def test_a_model_that_refuses_goes_its_own_way_with_a_note(
    refusal: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    def compare() -> str:
        raise refusal

    with caplog.at_level(logging.WARNING):
        assert not check(slow_level=logging.WARNING).holds(make_model("Llama"), compare)
    (record,) = caplog.records
    assert record.message.startswith(f"LlamaForCausalLM: slowly, because it refuses ({type(refusal).__name__}: ")
    assert "for this" not in record.message, "one line"


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("2 GiB"), ArithmeticError("not finite")])
def test_what_says_nothing_of_the_path_passes_and_is_not_remembered(error: Exception) -> None:
    model, path, answers = make_model("Llama"), check(), [error, None]

    def compare() -> str:
        if (found := answers.pop(0)) is not None:
            raise found
        return ""

    with pytest.raises(type(error)):
        path.holds(model, compare)
    assert path.holds(model, compare)


def test_only_what_a_path_lists_is_a_refusal() -> None:
    def compare() -> str:
        raise RuntimeError("a fault of ours")

    with pytest.raises(RuntimeError, match="of ours"):
        check(refusals=(KeyError,)).holds(make_model("Llama"), compare)


def test_answers_do_not_keep_a_model_in_memory() -> None:
    model, path = make_model("Llama"), check()
    path.holds(model, lambda: "")
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


def test_the_difference_is_told_and_nan_is_one() -> None:
    own = torch.tensor([3.0, -200.0])
    assert why_different(own + 0.01, own, 1e-4) == ""
    assert why_different(own + 0.03, own, 1e-4) == "logits differ by 0.03"
    assert why_different(own / 1000 + 0.001, own / 1000, 1e-4, "states") == "states differ by 0.001"
    assert "differ by nan" in why_different(torch.tensor([3.0, math.nan]), own, 1e-4)
    assert "shape (1,), its own (2,)" in why_different(own[:1], own, 1e-4)
