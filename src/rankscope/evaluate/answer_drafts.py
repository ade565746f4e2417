"""Drafts of answers: what another model wrote after the same prompts, as tokens that may follow each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from transformers import PreTrainedTokenizerBase

from rankscope.records import Item, Prediction


def draft_ids(
    tokenizer: PreTrainedTokenizerBase, items: Sequence[Item], answers: Mapping[str, str]
) -> list[tuple[int, ...]]:
    """Of each item the tokens of its answer in `answers`, by item id, as they would stand after its prompt; none where
    there is no answer.

    An answer was kept without white space around it. After a prompt in plain text a space is put before it; one that
    ends in white space, as most chat templates do, needs none. Where that was not so, the draft is wrong, which costs
    time and nothing else.
    """
    known = [place for place, item in enumerate(items) if answers.get(item.item_id)]
    prompts = [items[place].prompt_text.rstrip(" \t") for place in known]
    texts = [
        ("" if prompt[-1:].isspace() else " ") + answers[items[place].item_id]
        for place, prompt in zip(known, prompts, strict=True)
    ]
    drafts: list[tuple[int, ...]] = [()] * len(items)
    if not known:
        return drafts
    whole, parts = (
        tokenizer(given, add_special_tokens=False)["input_ids"]
        for given in ([prompt + text for prompt, text in zip(prompts, texts, strict=True)], texts)
    )
    for place, ids, part in zip(known, whole, parts, strict=True):
        drafts[place] = _after(items[place].prompt_ids, ids) or tuple(part)
    return drafts


def answers_in(predictions: Iterable[Prediction], suite: str) -> dict[str, str]:
    """What was written for the items of a suite, by item id."""
    return {one.item_id: one.predicted for one in predictions if one.suite == suite and one.predicted}


def _after(prompt: tuple[int, ...], whole: Sequence[int]) -> tuple[int, ...]:
    """The rest of the tokens of a prompt and what follows, where they begin as the prompt does; the prompt may have one
    that begins a sequence before them."""
    for first in (0, 1):
        start = prompt[first:]
        if start and tuple(whole[: len(start)]) == start:
            return tuple(whole[len(start) :])
    return ()
