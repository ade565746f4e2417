"""Answers of another model as drafts: the tokens that would follow the prompt, and scores that they do not change."""

from __future__ import annotations

import pytest
from scoring_models import random_items
from test_score_suites import mixed_suite
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from rankscope.assets import bundled_base_path
from rankscope.evaluate import score_suites
from rankscope.evaluate.answer_drafts import answers_in, draft_ids
from rankscope.evaluate.score_suites import score_suite
from rankscope.records import Item


@pytest.fixture(scope="module")
def bundled() -> PreTrainedTokenizerBase:
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(bundled_base_path())
    return tokenizer


@pytest.mark.parametrize("first", [(), (1,)], ids=["", "after a token that begins a sequence"])
@pytest.mark.parametrize(
    ("prompt", "whole"),
    [
        ("Question: what is 12 + 30?\nAnswer:", "Question: what is 12 + 30?\nAnswer: 12+30=42\n#### 42"),
        ("Question: what is 12 + 30?\nAnswer: ", "Question: what is 12 + 30?\nAnswer: 12+30=42\n#### 42"),
        ("<|user|> what is 12 + 30?\n", "<|user|> what is 12 + 30?\n12+30=42\n#### 42"),
    ],
)
def test_a_draft_is_what_would_follow(
    bundled: PreTrainedTokenizerBase, prompt: str, whole: str, first: tuple[int, ...]
) -> None:
    ids, wanted = (tuple(bundled(text, add_special_tokens=False).input_ids) for text in (prompt.rstrip(" "), whole))
    item = Item("x", "number", (*first, *ids), prompt_text=prompt)
    other = Item("y", "number", ids, prompt_text=prompt)
    drafts = draft_ids(bundled, [other, item], {"x": "12+30=42\n#### 42", "y": ""})
    assert drafts == [(), wanted[len(ids) :]]
    assert drafts[1]


def test_a_prompt_of_other_tokens_has_a_draft_too(bundled: PreTrainedTokenizerBase) -> None:
    item = Item("x", "open", (5, 6, 7), prompt_text="What?")
    assert draft_ids(bundled, [item], {"x": "This"}) == [tuple(bundled(" This", add_special_tokens=False).input_ids)]
    assert draft_ids(bundled, [item], {}) == [()]


def test_known_answers_change_no_score(
    llama: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite = mixed_suite()
    found = score_suite(llama, tokenizer, suite, token_budget=100)
    answers = answers_in(found, "mixed")
    assert {"open", "number"} <= answers.keys()
    assert answers_in(found, "another") == {}
    given = []
    greedy = score_suites.greedy
    monkeypatch.setattr(
        score_suites, "greedy", lambda *rest, **named: given.append(named["drafts"]) or greedy(*rest, **named)
    )
    assert score_suite(llama, tokenizer, suite, token_budget=100, answers=answers) == found
    assert all(any(drafts) for drafts in given)
    assert len(given) == 2
    other = dict.fromkeys(answers, "something else entirely")
    assert score_suite(llama, tokenizer, suite, token_budget=100, answers=other) == found
    assert random_items(1, seed=0)[0].item_id not in answers_in(found[:1], "mixed")
