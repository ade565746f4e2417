"""Samples against `model.generate`, against themselves in other batches, and against the softmax they come from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
import torch
from scipy.stats import chisquare
from scoring_models import VOCABULARY, make_model
from test_generation import EOS, own, prompts
from transformers import PreTrainedModel

from rankscope.evaluate.sampling import Sample, sample
from rankscope.model.forward import NotFinite

BOS = (1,)


def draw(model: PreTrainedModel, given: list[tuple[int, ...]], **changes: object) -> list[Sample]:
    how = {"temperature": 1.0, "seed": 0, "max_new_tokens": 12, "eos_ids": EOS, "token_budget": 200, **changes}
    return sample(model, given, **how)  # type: ignore[arg-type]


@pytest.mark.parametrize("family", ["Llama", "Qwen2", "Gemma2", "GPT2", "Mamba"])
def test_at_temperature_0_they_are_what_generate_writes(
    family: str, model_of: Callable[[str], PreTrainedModel]
) -> None:
    model = model_of(family)
    given = prompts(4 if family == "Mamba" else 9, seed=2)
    found = draw(model, given, temperature=0.0)
    assert [list(one.tokens) for one in found] == [own(model, prompt, 12) for prompt in given]
    assert all(one.ended_by in EOS or len(one.tokens) == 12 for one in found)
    assert all(one.whole == (*one.tokens, one.ended_by) for one in found if one.ended_by is not None)


@pytest.mark.parametrize("family", ["Llama", "Mistral", "Mamba"])
def test_a_sample_depends_on_its_seed_and_prompt_alone(family: str, model_of: Callable[[str], PreTrainedModel]) -> None:
    model = model_of(family)
    given = [*prompts(3 if family == "Mamba" else 12, seed=4), BOS]
    together = draw(model, given)
    assert [draw(model, [prompt], token_budget=1)[0] for prompt in given] == together
    assert draw(model, given[::-1], token_budget=31)[::-1] == together
    assert draw(model, given, seed=1) != together
    assert len({one.tokens for one in draw(model, [BOS] * 5)}) > 1, "the copies of a prompt have draws of their own"
    assert draw(model, [BOS] * 5)[:2] == draw(model, [BOS] * 2)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_first_tokens_come_as_often_as_the_softmax_says(llama: PreTrainedModel, temperature: float) -> None:
    count = 20_000
    found = draw(llama, [BOS] * count, temperature=temperature, max_new_tokens=1, token_budget=2_000)
    with torch.no_grad():
        expected = torch.softmax(llama(torch.tensor([BOS])).logits[0, -1].double() / temperature, -1) * count
    counts = Counter(one.whole[0] for one in found)
    common = [token for token in range(VOCABULARY) if expected[token] >= 5]
    observed = [counts[token] for token in common]
    wanted = [float(expected[token]) for token in common]
    rest = count - sum(wanted)
    if rest > 1:
        observed.append(count - sum(observed))
        wanted.append(rest)
    assert len(common) > 30
    assert chisquare(observed, wanted).pvalue > 1e-3
    other = [value * (1.2 if i % 2 else 0.8) for i, value in enumerate(wanted)]
    assert chisquare(observed, [value * count / sum(other) for value in other]).pvalue < 1e-9, "the test can fail"


def test_nan_is_no_sample() -> None:
    model = make_model("Llama")
    draw(model, [(3, 4)], max_new_tokens=2)
    with torch.no_grad():
        model.lm_head.weight.fill_(float("nan"))
    with pytest.raises(NotFinite):
        draw(model, [(3, 4)], max_new_tokens=2)


def test_an_empty_prompt_cannot_be_continued(llama: PreTrainedModel) -> None:
    with pytest.raises(ValueError, match="empty prompt"):
        draw(llama, [BOS, ()])
