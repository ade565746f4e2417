"""A loaded task of lm-eval as a suite: its questions, its prompts as tokens, and what is kept of it to grade answers.

Tokens are what lm-eval's `hf` model would have. Grading needs neither the task nor its data set again
(`evaluate/lm_eval/grading.py`): each item keeps its document, and the suite the task's configuration.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from importlib import metadata
from typing import TYPE_CHECKING, Any

from rankscope.data.bounded_templates import TEMPLATE_ERRORS
from rankscope.data.encoder import Encoder
from rankscope.data.sources import TaskItems, seeded_sample
from rankscope.evaluate.lm_eval.grading import SCORES, document_of, grading_of
from rankscope.records import HarnessFacts, Item, Row
from rankscope.study.problems import InputProblems, Problem, show
from rankscope.study.study import SuiteSource

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance
    from lm_eval.api.task import Task

MAX_NEW_TOKENS = 256
"""Where a task gives no limit, as in lm-eval."""


class LoadedTask:
    """A task with the documents that are asked. `rows`: the documents as rows, to be compared with training rows.

    `metric` and `filter` name the value that is an item's score, as lm-eval's results do. Raises InputProblems for a
    task without a usable metric or without documents, and for a document that it fails on.
    """

    def __init__(self, task: Task, source: SuiteSource, place: str) -> None:
        self.task, self.place, self._source = task, place, source
        self.file = str(source.harness)
        self.name = str(task.task_name)
        self.output_type = str(task.OUTPUT_TYPE)
        self.num_fewshot = int(task.config.num_fewshot or 0)
        self.filters: list[str] = [str(ensemble.name) for ensemble in task._filters]
        self.metric, self.filter = self._scored_by(source.metric)
        self._docs = dict(enumerate(task.eval_docs))
        asked = list(self._docs)
        if source.limit is not None:
            asked = seeded_sample([str(doc_id) for doc_id in asked], source.limit, "limit")
        self.rows = [self._row(doc_id) for doc_id in asked]
        if not self.rows:
            raise InputProblems([Problem(self.file, place, "no document", "at least one")])

    def items(self, encoder: Encoder) -> TaskItems:
        """The items of the documents that are asked, in the order of `rows`.

        Raises InputProblems for a document that the task fails on, and for settings of generation that are not greedy.
        """
        every = self._requests(encoder)
        asked = [every[int(row.item_id)] for row in self.rows]
        max_new_tokens = self._source.max_new_tokens
        stops: tuple[str, ...] = ()
        if self.output_type == "loglikelihood_rolling":
            items, needed = self._texts(asked, encoder)
        elif self.output_type == "generate_until":
            stops, max_new_tokens = self._generation(asked)
            stops += (encoder.end_text,) if encoder.end_text else ()
            items, needed = self._open(asked, encoder)
        else:
            items, needed = self._choices(asked, encoder)
        grading = None
        if self.output_type != "loglikelihood_rolling":  # a text has a loss and no score
            grading = grading_of(self.task, self.metric, self.filter, stops)
            items = [
                replace(item, document=self._document(requests[0].doc, item.item_id))
                for item, requests in zip(items, asked, strict=True)
            ]
        return TaskItems(items, needed, max_new_tokens, self._facts(asked), grading)

    def _scored_by(self, wanted: str | None) -> tuple[str, str]:
        """Metric and filter, `METRIC` or `METRIC,FILTER` as asked for, else the task's first that has a score."""
        known = list(self.task._metric_fn_list)
        allowed = SCORES.get(self.output_type, known)
        usable = [metric for metric in known if metric in allowed]
        if self.output_type == "loglikelihood_rolling":
            return "", self.filters[0]
        metric, _, chosen = (wanted or "").partition(",")
        if (metric and metric not in usable) or not usable:
            found = show(metric) if metric else f"the metrics {', '.join(known)}"
            expected = f"one of {', '.join(usable)}" if usable else "a metric of each item, such as acc or exact_match"
            raise InputProblems([Problem(self.name, f"{self.place}.metric", found, expected)])
        if chosen and chosen not in self.filters:
            expected = f"a filter of the task: {', '.join(self.filters)}"
            raise InputProblems([Problem(self.name, f"{self.place}.metric", show(chosen), expected)])
        return metric or usable[0], chosen or self.filters[0]

    def _row(self, doc_id: int) -> Row:
        """The document's question without few-shot examples."""
        doc, place = self._docs[doc_id], f"document {doc_id}"
        try:
            target = self.task.doc_to_target(doc)
            if self.output_type == "loglikelihood_rolling":
                return Row(str(doc_id), place, text=str(target))
            asked = self.task.doc_to_text(doc)
            choices = self.task.doc_to_choice(doc) if self.task.config.doc_to_choice else None
        except TEMPLATE_ERRORS as error:
            raise self._failed(doc_id, error) from error
        answers = target if isinstance(target, list) else [target]
        if choices is not None:
            answers = [choices[one] if isinstance(one, int) and one < len(choices) else one for one in answers]
        question = str(asked).strip().removeprefix("Question:").removesuffix("Answer:").strip()
        return Row(
            str(doc_id), place, question=question, answer=str(answers[0] if answers else "").strip(),
            aliases=tuple(str(one).strip() for one in answers[1:]),
        )  # fmt: skip

    def _requests(self, encoder: Encoder) -> list[list[Instance]]:
        """What lm-eval would ask, by document: all of them, since few-shot examples are drawn one after another."""
        chat = encoder.chat_text if encoder.chat else None
        found = []
        for doc_id, doc in self._docs.items():
            try:
                context = self.task.fewshot_context(
                    doc, num_fewshot=self.num_fewshot, system_instruction=encoder.system_prompt,
                    apply_chat_template=chat is not None, fewshot_as_multiturn=chat is not None, chat_template=chat,
                    gen_prefix=self.task.doc_to_prefix(doc),
                )  # fmt: skip
                made = self.task.construct_requests(
                    doc, context, metadata=(self.name, doc_id, 1), apply_chat_template=chat is not None,
                    chat_template=chat,
                )  # fmt: skip
            except TEMPLATE_ERRORS as error:
                raise self._failed(doc_id, error) from error
            found.append(made if isinstance(made, list) else [made])
        return found

    def _choices(self, asked: Sequence[Sequence[Instance]], encoder: Encoder) -> tuple[list[Item], list[int]]:
        """Requests of one prompt are the choices of one item; of several prompts, its parts."""
        split = iter(encoder.tokens.split([request.args[:2] for requests in asked for request in requests]))
        items, needed = [], []
        for row, requests in zip(self.rows, asked, strict=True):
            pairs = [next(split) for _ in requests]
            parts: list[Item] = []
            for prompt, rest in pairs:
                if parts and parts[-1].prompt_ids == prompt:
                    parts[-1] = replace(parts[-1], choices_ids=(*parts[-1].choices_ids, rest))
                else:
                    parts.append(Item(row.item_id, "choices", prompt, (rest,)))
            if self.output_type == "multiple_choice":
                texts = tuple(map(str, self.task.doc_to_choice(requests[0].doc)))
            else:
                texts = tuple(str(request.args[1]) for request in requests)
            whole = replace(parts[0], choice_texts=texts, prompt_text=str(requests[0].args[0]))
            items.append(whole if len(parts) == 1 else replace(whole, choices_ids=(), parts=tuple(parts)))
            needed.append(max(len(prompt) + len(rest) for prompt, rest in pairs))
        return items, needed

    def _open(self, asked: Sequence[Sequence[Instance]], encoder: Encoder) -> tuple[list[Item], list[int]]:
        prompts = [str(requests[0].args[0]) for requests in asked]
        targets = [str(self.task.doc_to_target(requests[0].doc)) for requests in asked]
        lengths = [len(ids) for ids in encoder.tokens.tokenize(targets)]
        items = [
            Item(row.item_id, "open", ids, answers=(target,), prompt_text=prompt)
            for row, ids, target, prompt in zip(
                self.rows, encoder.tokens.tokenize(prompts), targets, prompts, strict=True
            )
        ]
        return items, [len(item.prompt_ids) + length for item, length in zip(items, lengths, strict=True)]

    def _texts(self, asked: Sequence[Sequence[Instance]], encoder: Encoder) -> tuple[list[Item], list[int]]:
        texts = [str(requests[0].args[0]) for requests in asked]
        items = [
            Item(row.item_id, "text", prompt, (ids,) if ids else (), text_bytes=len(text.encode()))
            for row, text, (prompt, ids) in zip(self.rows, texts, encoder.text_ids(texts), strict=True)
        ]
        # The last token is predicted and never read, so a text may be as long as the context.
        return items, [len(item.prompt_ids) + sum(map(len, item.choices_ids)) - 1 for item in items]

    def _generation(self, asked: Sequence[Sequence[Instance]]) -> tuple[tuple[str, ...], int]:
        """(stop strings, limit of new tokens) of all documents."""
        settings = [generation_settings(one[0].args[1], f"{self.place}.harness") for one in asked]
        if len(set(settings)) > 1:
            found = "other stop strings for other documents"
            raise InputProblems([Problem(self.name, f"{self.place}.harness", found, "the same for all")])
        until, max_new_tokens = settings[0]
        return tuple(dict.fromkeys(until)), max_new_tokens

    def _document(self, doc: Any, item_id: str) -> str:
        try:
            return document_of(self.task, doc)
        except TypeError as error:
            found = f"a document that cannot be kept as JSON: {error}"
            raise InputProblems(
                [Problem(self.name, f"{self.place}: document {item_id}", found, "plain data")]
            ) from error

    def _facts(self, asked: Sequence[Sequence[Instance]]) -> HarnessFacts:
        return HarnessFacts(
            task=self.name, output_type=self.output_type, version=self.task.VERSION, task_sha256=self._sha256(asked),
            num_fewshot=self.num_fewshot, metric=self.metric or None, filter=self.filter,
            lm_eval_version=metadata.version("lm-eval"),
        )  # fmt: skip

    def _sha256(self, asked: Sequence[Sequence[Instance]]) -> str:
        """lm-eval's `task_hash`: of every document, its first prompt and its target, once for each filter."""
        from lm_eval.utils import handle_non_serializable, hash_string

        parts = []
        for instances in asked:
            doc, first = instances[0].doc, instances[0].arguments[0]
            dumped = json.dumps(doc, indent=2, default=handle_non_serializable, ensure_ascii=False)
            parts.append(hash_string(dumped) + hash_string(first) + hash_string(str(self.task.doc_to_target(doc))))
        return str(hash_string("".join(parts * len(self.filters))))

    def _failed(self, doc_id: int, error: Exception) -> InputProblems:
        found = f"a document that the task fails on: {type(error).__name__}: {error}"
        place = f"{self.place}: document {doc_id}"
        return InputProblems([Problem(self.name, place, found, "a task that fits its data")])


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
