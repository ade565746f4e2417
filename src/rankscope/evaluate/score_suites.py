"""A suite scored by a model: one prediction for each item, whatever the items' form."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import pandas as pd
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rankscope.data.encoder import answer_end
from rankscope.evaluate.answer_drafts import draft_ids
from rankscope.evaluate.answer_grading import grade_answers
from rankscope.evaluate.choice_scoring import choice_logprobs, choices_with_greedy
from rankscope.evaluate.generation import greedy, written_texts
from rankscope.evaluate.judge_grading import Desk
from rankscope.evaluate.lm_eval.grading import grade
from rankscope.evaluate.prompt_choice_tree import ChoicePlan
from rankscope.evaluate.stop_strings import StopStrings
from rankscope.model.sharding.shard import team_of
from rankscope.records import Form, Grading, Item, Prediction, Suite
from rankscope.study.graders.answer_text import exact_match, number_match, token_f1


def predictions_frame(run_id: str, predictions: Sequence[Prediction]) -> pd.DataFrame:
    """One row for each item, with the columns of docs/records.md; nullable types, so that missing stays missing."""
    columns = {name: [getattr(one, name) for one in predictions] for name in Prediction.__dataclass_fields__}
    frame = pd.DataFrame(columns)
    frame.insert(0, "run_id", run_id)
    floats = ["score", "score_normalized", "f1", "loss_nats", "score_asked_again"]
    integers = ["prompt_tokens", "scored_tokens", "text_bytes"]
    return frame.astype({**dict.fromkeys(floats, "Float64"), **dict.fromkeys(integers, "Int64"), "cluster": "str"})


WRITTEN_FORMS: tuple[Form, ...] = ("open", "number")

NEXT_QUESTION = "\nQuestion:"
"""A model that goes on with the next question has ended its answer."""

NEXT_TURN = "\nUser:"
"""So has one that, in a conversation in plain text, goes on with what the user says."""


@dataclass(frozen=True)
class SuitePlan:
    """A suite with the batches of its choices and texts, planned once and used for every arm."""

    suite: Suite
    token_budget: int

    @cached_property
    def items(self) -> tuple[Item, ...]:
        """The suite's items, read from its token file once: reading them takes longer than grading a small model's."""
        return tuple(self.suite.items)

    @cached_property
    def scored(self) -> tuple[Item, ...]:
        """The items whose log-likelihood is taken; of an item with parts the parts."""
        taken = (item for item in self.items if item.form not in WRITTEN_FORMS)
        return tuple(part for item in taken for part in item.parts or (item,))

    @cached_property
    def choices(self) -> ChoicePlan:
        """The batches of `scored`."""
        return ChoicePlan(self.scored, self.token_budget)


def score_suite(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    suite: Suite | SuitePlan,
    *,
    token_budget: int,
    logprobs: Sequence[tuple[float, ...]] | None = None,
    desk: Desk | None = None,
    answers: Mapping[str, str] | None = None,
) -> list[Prediction]:
    """Every item's prediction, in the suite's order. A `SuitePlan` saves planning the batches for each arm again.

    `logprobs`: what `choice_logprobs` gives for the plan's `scored`, where that is known already. `desk`: where replies
    of a judge are kept, which only a suite with a judge needs. `answers`: by item id what another model wrote, which
    saves time where this one writes the same (but for suites of lm-eval).

    choices: score 1 or 0 for the largest summed log-likelihood, `score_normalized` for the largest per character of the
    choice (lm-eval's acc and acc_norm); among equals the first. open: exact match, and token F1, or what the suite's
    grader gives. number: the final
    number. text and reference: no score; the loss in nats over `scored_tokens` tokens, and the bytes of the text.

    Open answers end at a line break (unless some answer of the suite has one), all generated text at the next
    `Question:` (of a plain conversation, `User:`), what a chat template ends a turn with, EOS, `max_new_tokens` or the
    end of the context.

    A suite of lm-eval ends and grades its answers as the task says.

    Raises NotFinite where the model gives NaN: a failed run, not a wrong answer. So is NotGraded, where a grader fails.
    """
    plan = suite if isinstance(suite, SuitePlan) else SuitePlan(suite, token_budget)
    suite = plan.suite
    if suite.grading is not None:
        return score_graded(model, tokenizer, plan, suite.grading, token_budget, logprobs)
    if logprobs is None:
        logprobs = choice_logprobs(model, plan.scored, token_budget=plan.token_budget, plan=plan.choices)
    found = iter(logprobs)  # in the items' order
    written: dict[Form, Iterator[Prediction]] = {}
    for form in WRITTEN_FORMS:
        items = [item for item in plan.items if item.form == form]
        longer = suite.grader is not None and not suite.grader.one_line
        texts = generate_answers(model, tokenizer, items, form, suite.max_new_tokens, token_budget, longer, answers)
        # A judge is asked once, whoever else holds the model.
        grades = team_of(model).told(partial(grade_texts, suite, items, texts, desk))
        written[form] = iter(grades)
    graded = [
        grade_choices(suite.name, item, next(found))
        if item.form == "choices"
        else grade_text(suite.name, item, next(found))
        if item.form in ("text", "reference")
        else next(written[item.form])
        for item in plan.items
    ]
    return [replace(one, cluster=item.cluster) for one, item in zip(graded, plan.items, strict=True)]


def score_graded(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    plan: SuitePlan,
    grading: Grading,
    token_budget: int,
    known: Sequence[tuple[float, ...]] | None,
) -> list[Prediction]:
    """The predictions of a suite of lm-eval, answered as its task asks and graded as its task says.

    `known` as the `logprobs` of `score_suite`. Raises NotFinite as there, and ValueError for a metric that has no value
    from 0 to 1 for a single item.
    """
    suite = plan.suite
    logprobs: list[tuple[float, ...] | None] = [None] * len(suite.items)
    responses: list[list[Any]] = []
    if suite.items[0].form == "open":
        prompts = [item.prompt_ids for item in suite.items]
        ends = eos_ids(model, tokenizer)
        texts = written_texts(model, tokenizer, prompts, grading.stops, suite.max_new_tokens, ends, token_budget)
        responses = [[text] for text in texts]
    else:
        if grading.needs_greedy:
            scores = choices_with_greedy(model, plan.scored, token_budget=plan.token_budget)
        else:
            found = known
            if found is None:
                found = choice_logprobs(model, plan.scored, token_budget=plan.token_budget, plan=plan.choices)
            scores = [tuple((value, False) for value in values) for values in found]
        by_part = iter(scores)
        responses = [[pair for _ in item.parts or (item,) for pair in next(by_part)] for item in suite.items]
        logprobs = [tuple(value for value, _ in found) for found in responses]
    graded = grade(grading, suite.items, responses)
    return [
        Prediction(
            suite=suite.name, item_id=item.item_id, score=one.score, score_normalized=one.score_normalized, f1=None,
            predicted=one.predicted, answer=one.answer, choice_logprobs=values, prompt_tokens=len(item.prompt_ids),
        )
        for item, one, values in zip(suite.items, graded, logprobs, strict=True)
    ]  # fmt: skip


def grade_choices(suite: str, item: Item, logprobs: Sequence[float]) -> Prediction:
    """The prediction of a multiple-choice item from the log-likelihoods of its choices in nats."""
    best = first_largest(logprobs)
    lengths = item.choice_characters or tuple(map(len, item.choice_texts))
    normalized = first_largest([value / max(1, length) for value, length in zip(logprobs, lengths, strict=True)])
    right = item.answer_index
    return Prediction(
        suite=suite,
        item_id=item.item_id,
        score=None if right is None else float(best == right),
        score_normalized=None if right is None else float(normalized == right),
        f1=None,
        predicted=item.choice_texts[best],
        answer=None if right is None else item.choice_texts[right],
        choice_logprobs=tuple(logprobs),
        prompt_tokens=len(item.prompt_ids),
    )


def grade_text(suite: str, item: Item, logprobs: Sequence[float]) -> Prediction:
    """The loss of a plain text or a reference, from its log-likelihood in nats. Without a token before it, its first is
    not scored."""
    tokens = len(item.choices_ids[0]) - (not item.prompt_ids)
    return Prediction(
        suite=suite,
        item_id=item.item_id,
        score=None,
        score_normalized=None,
        f1=None,
        predicted=None,
        answer=item.answers[0] if item.answers else None,
        choice_logprobs=None,
        prompt_tokens=len(item.prompt_ids),
        loss_nats=-logprobs[0],
        scored_tokens=tokens,
        text_bytes=item.text_bytes,
    )


def grade_written(suite: str, item: Item, text: str) -> Prediction:
    """The prediction of an open answer or a number, from the generated text: exact match, or the same final number."""
    is_open = item.form == "open"
    right = exact_match(text, item.answers) if is_open else number_match(text, item.answers)
    return Prediction(
        suite=suite,
        item_id=item.item_id,
        score=float(right),
        score_normalized=None,
        f1=token_f1(text, item.answers) if is_open else None,
        predicted=text,
        answer=item.answers[0] if item.answers else None,
        choice_logprobs=None,
        prompt_tokens=len(item.prompt_ids),
    )


def grade_texts(
    suite: Suite, items: Sequence[Item], texts: Sequence[str], desk: Desk | None = None
) -> list[Prediction]:
    """The predictions of written answers, by the suite's grader where it has one. Raises NotGraded."""
    found = [grade_written(suite.name, item, text) for item, text in zip(items, texts, strict=True)]
    if suite.grader is None or not items:
        return found
    grades = grade_answers(suite, items, texts, desk)
    return [
        replace(one, score=grades.scores[place], f1=None, score_asked_again=grades.again.get(place))
        for place, one in enumerate(found)
    ]


def generate_answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    items: Sequence[Item],
    form: Form,
    max_new_tokens: int,
    token_budget: int,
    longer: bool = False,
    known: Mapping[str, str] | None = None,
) -> list[str]:
    """The text that the model writes after each prompt, without the stop and without white space around it. `known`:
    what another model wrote, by item id."""
    if not items:
        return []

    def decode(tokens: list[int]) -> str:
        return str(tokenizer.decode(tokens, skip_special_tokens=True))

    one_line = form == "open" and not longer and not any("\n" in answer for item in items for answer in item.answers)
    talk = any(item.prompt_text.endswith("\n\nAssistant:") for item in items)
    stops = ["\n"] if one_line else [NEXT_QUESTION, NEXT_TURN] if talk else [NEXT_QUESTION]
    end = answer_end(tokenizer)[1]
    if end and not any(end in answer for item in items for answer in item.answers):
        stops.append(end)  # a chat template's own end of a turn, where that is plain text
    stop = StopStrings(stops, decode)
    written = greedy(
        model,
        [item.prompt_ids for item in items],
        max_new_tokens=max_new_tokens,
        eos_ids=eos_ids(model, tokenizer),
        token_budget=token_budget,
        stop=stop,
        drafts=draft_ids(tokenizer, items, known) if known else None,
    )
    texts = [decode(tokens) for tokens in written]
    return [(text if (cut := stop.cut(text)) is None else cut).strip().removesuffix(end).strip() for text in texts]


def eos_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Every token that ends a text: as the rows are trained, of the model's config, of its generation config."""
    known = set(answer_end(tokenizer)[0])
    configs = (model.config.get_text_config(decoder=True), getattr(model, "generation_config", None))
    for config in configs:
        known.update(_ids(getattr(config, "eos_token_id", None)))
    return known


def _ids(value: int | Iterable[int] | None) -> Iterable[int]:
    if value is None:
        return ()
    return (value,) if isinstance(value, int) else value


def first_largest(values: Sequence[float]) -> int:
    """The index of the largest value, the first among equals."""
    return max(range(len(values)), key=values.__getitem__)
