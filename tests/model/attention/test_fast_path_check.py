"""An optimised path is compared once with the model's own forward, and the answer is kept."""

from __future__ import annotations

import gc
import logging
import math
import weakref

import pytest
import torch
from scoring_models import make_model

from rankscope.model.attention.fast_path_check import FastPathCheck, why_different


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
