"""Items answered by lm-eval's `hf` model, from their strings: what base_suites.py compares with."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from rankscope.evaluate.score_suites import NEXT_QUESTION, first_largest
from rankscope.model.load import LoadedModel
from rankscope.records import Item
from rankscope.study.study import SuiteSource

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
BATCH_SIZE = 4
"""Logits of a vocabulary of 262,144 are a mebibyte a token, of every token of a batch."""


@dataclass(frozen=True)
class Answer:
    """What was said (the choice, or what was written; of plain text nothing), and log-likelihoods in nats."""

    said: str
    nats: tuple[float, ...] = ()


def lm_eval_answers(base: LoadedModel, items: Sequence[Item], source: SuiteSource, context_tokens: int) -> list[Answer]:
    """An answer to each item, all of one form. Raises ImportError without lm-eval."""
    from lm_eval.models.huggingface import HFLM

    told = logging.root.manager.disable
    logging.disable(logging.WARNING)  # it warns of every prompt that begins with BOS
    try:
        model = HFLM(
            pretrained=base.model, tokenizer=base.tokenizer, batch_size=BATCH_SIZE, max_length=context_tokens,
            device=str(base.model.device),
        )  # fmt: skip
        ways = {"choices": _chosen, "text": _read}
        return ways.get(items[0].form, _written)(model, items, source)
    finally:
        logging.disable(told)


def _read(model: object, items: Sequence[Item], _: SuiteSource) -> list[Answer]:
    """The log-likelihood of each whole text."""
    from lm_eval.api.instance import Instance

    asked = [Instance("loglikelihood_rolling", {}, (item.prompt_text,), i) for i, item in enumerate(items)]
    return [Answer("", (float(value),)) for value in model.loglikelihood_rolling(asked, disable_tqdm=True)]  # type: ignore[attr-defined]


def _chosen(model: object, items: Sequence[Item], source: SuiteSource) -> list[Answer]:
    """The choice with the largest log-likelihood, `acc` of a multiple-choice task."""
    from lm_eval.api.instance import Instance

    pairs = []
    for item in items:
        gap = "" if item.prompt_text[-1:].isspace() else " "
        follow = LETTERS[: len(item.choice_texts)] if source.choices == "letters" else item.choice_texts
        pairs += [(item.prompt_text, gap + choice) for choice in follow]
    requests = [Instance("loglikelihood", {}, pair, i) for i, pair in enumerate(pairs)]
    values = iter(float(value) for value, _ in model.loglikelihood(requests, disable_tqdm=True))  # type: ignore[attr-defined]
    found = [tuple(next(values) for _ in item.choice_texts) for item in items]
    return [Answer(item.choice_texts[first_largest(nats)], nats) for item, nats in zip(items, found, strict=True)]


def _written(model: object, items: Sequence[Item], source: SuiteSource) -> list[Answer]:
    """Greedy text up to the stop that a study has for such a suite."""
    from lm_eval.api.instance import Instance

    longer = source.grader is not None and not source.grader.one_line
    rules = {
        "until": [NEXT_QUESTION] if longer or source.kind == "reasoning" else ["\n"],
        "do_sample": False,
        "max_gen_toks": source.max_new_tokens,
    }
    asked = [Instance("generate_until", {}, (item.prompt_text.rstrip(), rules), i) for i, item in enumerate(items)]
    return [Answer(text.strip()) for text in model.generate_until(asked, disable_tqdm=True)]  # type: ignore[attr-defined]
