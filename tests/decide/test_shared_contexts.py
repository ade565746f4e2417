"""Items that share a long text and no cluster are warned of."""

from __future__ import annotations

import pandas as pd

from rankscope.decide.shared_contexts import shared_contexts


def prompts(texts: list[str]) -> pd.DataFrame:
    return pd.DataFrame({"suite": "reading", "prompt": texts})


def passage(number: int) -> str:
    return " ".join(f"word{number}x{place}" for place in range(60))


def test_questions_on_one_text_are_found() -> None:
    texts = [f"{passage(i // 5)}\n\nQuestion: {i}?\nAnswer:" for i in range(20)]
    (said,) = shared_contexts(prompts(texts))
    assert said.startswith("reading: 20 of 20 items begin with a long text")
    assert shared_contexts(prompts(texts), frozenset({"reading"})) == []


def test_what_all_prompts_begin_with_is_no_shared_text() -> None:
    examples = passage(99)
    assert shared_contexts(prompts([f"{examples}\n\n{passage(i)} Question {i}?" for i in range(20)])) == []
    assert shared_contexts(prompts([f"{examples} Question: what is {i}?" for i in range(20)])) == []


def test_a_few_alike_and_short_prompts_are_nothing() -> None:
    texts = [f"{passage(max(i, 1))} Question {i}?" for i in range(20)]
    assert shared_contexts(prompts(texts)) == []
    assert shared_contexts(prompts([f"Question {i}?" for i in range(20)])) == []
