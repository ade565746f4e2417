"""A task of lm-eval -> the items of a suite: tokens, as lm-eval's `hf` model would have them, and how to grade them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from importlib import metadata
from typing import TYPE_CHECKING, Any

from rankscope.data.encoder import Encoder
from rankscope.evaluate.lm_eval.task import HarnessTask
from rankscope.records import Graded, Grading, HarnessFacts, Item
from rankscope.study.problems import InputProblems, Problem, show
from rankscope.study.study import SuiteSource

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance

MAX_NEW_TOKENS = 256
"""Where a task gives no limit, as in lm-eval."""


def harness_items(
    task: HarnessTask, source: SuiteSource, item_ids: Sequence[str], encoder: Encoder
) -> tuple[list[Item], list[int], Grading | None, int, HarnessFacts]:
    """(items, tokens that each needs in the context, grading, limit of new tokens, facts) of the documents `item_ids`.

    A text's grading is None: it has a loss and no score. Raises InputProblems for a document that the task fails on,
    and for settings of generation that are not greedy.
    """
    chat = encoder.chat_text if encoder.chat else None
    every = task.requests(chat, encoder.system_prompt)
    by_id = {str(doc_id): asked for doc_id, asked in zip(task.docs, every, strict=True)}
    asked = [by_id[item_id] for item_id in item_ids]
    facts = HarnessFacts(
        task=task.name, output_type=task.output_type, version=task.version, task_sha256=task.sha256(asked),
        num_fewshot=task.num_fewshot, metric=task.metric or None, filter=task.filter,
        lm_eval_version=metadata.version("lm-eval"),
    )  # fmt: skip
    if task.output_type == "loglikelihood_rolling":
        items, needed = _texts(asked, item_ids, encoder)
        return items, needed, None, source.max_new_tokens, facts
    if task.output_type == "generate_until":
        settings = [generation_settings(one[0].args[1], f"{task.place}.harness") for one in asked]
        stops = tuple(dict.fromkeys(stop for until, _ in settings for stop in until))
        if len(set(settings)) > 1:
            found = "other stop strings for other documents"
            raise InputProblems([Problem(task.name, f"{task.place}.harness", found, "the same for all")])
        items, needed = _open(task, asked, item_ids, encoder)
        return items, needed, _grading(task, asked, item_ids, stops), settings[0][1], facts
    items, needed = _choices(task, asked, item_ids, encoder)
    return items, needed, _grading(task, asked, item_ids, ()), source.max_new_tokens, facts


def generation_settings(given: dict[str, Any], place: str) -> tuple[tuple[str, ...], int]:
    """(stop strings, limit of new tokens) of lm-eval's generation arguments. Raises InputProblems for sampling."""
    from lm_eval.models.utils import normalize_gen_kwargs

    settings = normalize_gen_kwargs(given, MAX_NEW_TOKENS)
    found = None
    if settings.get("do_sample"):
        found = "do_sample: true"
    elif (beams := settings.get("num_beams", 1)) != 1:
        found = f"num_beams: {show(beams)}"
    if found is not None:
        expected = "greedy decoding: answers that are drawn differ between arms by chance"
        raise InputProblems([Problem("lm-eval", place, found, expected)])
    until = settings["until"]
    return (until,) if isinstance(until, str) else tuple(until), int(settings["max_gen_toks"])


def _grading(
    task: HarnessTask, asked: Sequence[Sequence[Instance]], item_ids: Sequence[str], stops: tuple[str, ...]
) -> Grading:
    by_id = dict(zip(item_ids, asked, strict=True))

    def grade(graded_ids: Sequence[str], responses: Sequence[Sequence[Any]]) -> list[Graded]:
        return task.grade([by_id[item_id] for item_id in graded_ids], responses)

    return Grading(stops, bool(task.needs_greedy), grade)


def _choices(
    task: HarnessTask, asked: Sequence[Sequence[Instance]], item_ids: Sequence[str], encoder: Encoder
) -> tuple[list[Item], list[int]]:
    """Requests of one prompt are the choices of one item; of several prompts, its parts."""
    split = iter(encoder.split([request.args[:2] for requests in asked for request in requests]))
    items, needed = [], []
    for item_id, requests in zip(item_ids, asked, strict=True):
        pairs = [next(split) for _ in requests]
        parts: list[Item] = []
        for prompt, rest in pairs:
            if parts and parts[-1].prompt_ids == prompt:
                parts[-1] = replace(parts[-1], choices_ids=(*parts[-1].choices_ids, rest))
            else:
                parts.append(Item(item_id, "choices", prompt, (rest,)))
        texts = task.texts(requests)
        whole = replace(parts[0], choice_texts=texts, prompt_text=str(requests[0].args[0]))
        items.append(whole if len(parts) == 1 else replace(whole, choices_ids=(), parts=tuple(parts)))
        needed.append(max(len(prompt) + len(rest) for prompt, rest in pairs))
    return items, needed


def _open(
    task: HarnessTask, asked: Sequence[Sequence[Instance]], item_ids: Sequence[str], encoder: Encoder
) -> tuple[list[Item], list[int]]:
    prompts = [str(requests[0].args[0]) for requests in asked]
    targets = [str(task.task.doc_to_target(requests[0].doc)) for requests in asked]
    encoded = encoder.tokenize(prompts)
    lengths = [len(ids) for ids in encoder.tokenize(targets)]
    items = [
        Item(item_id, "open", ids, answers=(target,), prompt_text=prompt)
        for item_id, ids, target, prompt in zip(item_ids, encoded, targets, prompts, strict=True)
    ]
    return items, [len(item.prompt_ids) + length for item, length in zip(items, lengths, strict=True)]


def _texts(
    asked: Sequence[Sequence[Instance]], item_ids: Sequence[str], encoder: Encoder
) -> tuple[list[Item], list[int]]:
    texts = [str(requests[0].args[0]) for requests in asked]
    items = [
        Item(item_id, "text", prompt, (ids,) if ids else (), text_bytes=len(text.encode()))
        for item_id, text, (prompt, ids) in zip(item_ids, texts, encoder.text_ids(texts), strict=True)
    ]
    # The last token is predicted and never read, so a text may be as long as the context.
    return items, [len(item.prompt_ids) + sum(map(len, item.choices_ids)) - 1 for item in items]
