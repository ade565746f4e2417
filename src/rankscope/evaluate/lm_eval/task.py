"""A task of lm-eval: its documents, its prompts, and its own filters and metrics to grade with."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rankscope.data.prompts import TEMPLATE_ERRORS
from rankscope.records import Graded, Row
from rankscope.study.problems import InputProblems, Problem, show
from rankscope.study.study import SuiteSource

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance
    from lm_eval.api.task import Task

SCORES = {
    "multiple_choice": ("acc", "acc_norm", "acc_bytes", "acc_mutual_info", "exact_match"),
    "loglikelihood": ("acc",),
}
"""Metrics that are 1 or 0 for each item, by output type; generated text may have any that is from 0 to 1."""


class HarnessTask:
    """A loaded task. `metric` and `filter` name the value that is an item's score, as lm-eval's results do."""

    def __init__(self, task: Task, source: SuiteSource, place: str) -> None:
        self.task, self.place = task, place
        self.name = str(task.task_name)
        self.output_type = str(task.OUTPUT_TYPE)
        self.version = task.VERSION
        self.num_fewshot = int(task.config.num_fewshot or 0)
        self.filters: list[str] = [str(ensemble.name) for ensemble in task._filters]
        self.metric, self.filter = self._scored_by(source.metric)
        self.docs = dict(enumerate(task.eval_docs))

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

    @property
    def needs_greedy(self) -> bool:
        """Whether grading asks if a continuation is what greedy decoding would write."""
        return self.output_type == "loglikelihood" or self.metric == "exact_match" or self.task.config.process_results

    def requests(self, chat: Any, system_prompt: str | None) -> list[list[Instance]]:
        """What lm-eval would ask, by document. `chat` writes a conversation as text, or is None for plain prompts.

        Raises InputProblems for a document that the task's own templates fail on.
        """
        asked = []
        for doc_id, doc in self.docs.items():
            try:
                context = self.task.fewshot_context(
                    doc, num_fewshot=self.num_fewshot, system_instruction=system_prompt,
                    apply_chat_template=chat is not None, fewshot_as_multiturn=chat is not None, chat_template=chat,
                    gen_prefix=self.task.doc_to_prefix(doc),
                )  # fmt: skip
                made = self.task.construct_requests(
                    doc, context, metadata=(self.name, doc_id, 1), apply_chat_template=chat is not None,
                    chat_template=chat,
                )  # fmt: skip
            except TEMPLATE_ERRORS as error:
                raise self.failed(doc_id, error) from error
            asked.append(made if isinstance(made, list) else [made])
        return asked

    def row(self, doc_id: int) -> Row:
        """The document as a row, to be compared with training rows: its question without few-shot examples."""
        doc, place = self.docs[doc_id], f"document {doc_id}"
        target = self.task.doc_to_target(doc)
        if self.output_type == "loglikelihood_rolling":
            return Row(str(doc_id), place, text=str(target))
        asked = self.task.doc_to_text(doc)
        choices = self.task.doc_to_choice(doc) if self.task.config.doc_to_choice else None
        answers = target if isinstance(target, list) else [target]
        if choices is not None:
            answers = [choices[one] if isinstance(one, int) and one < len(choices) else one for one in answers]
        question = str(asked).strip().removeprefix("Question:").removesuffix("Answer:").strip()
        return Row(
            str(doc_id), place, question=question, answer=str(answers[0] if answers else "").strip(),
            aliases=tuple(str(one).strip() for one in answers[1:]),
        )  # fmt: skip

    def texts(self, requests: Sequence[Instance]) -> tuple[str, ...]:
        """What the choices of a document are called: the task's choices, else what is scored."""
        if self.output_type == "multiple_choice":
            return tuple(map(str, self.task.doc_to_choice(requests[0].doc)))
        return tuple(str(request.args[1]) for request in requests)

    def grade(self, asked: Sequence[Sequence[Instance]], responses: Sequence[Sequence[Any]]) -> list[Graded]:
        """Each document's score from the model's response to each of its requests, by lm-eval's filters and metrics.

        Raises ValueError where the metric has no value from 0 to 1 for a single document.
        """
        for instances, found in zip(asked, responses, strict=True):
            for instance, response in zip(instances, found, strict=True):
                instance.resps, instance.filtered_resps = [response], {}
        self.task._instances = [instance for instances in asked for instance in instances]
        self.task.apply_filters()
        graded = []
        for instances in asked:
            held = [instance.filtered_resps[self.filter] for instance in instances]
            values = self.task.process_results(instances[0].doc, held)
            graded.append(self._graded(instances[0].doc, held, values))
        return graded

    def _graded(self, doc: Any, held: Sequence[Any], values: dict[str, Any]) -> Graded:
        score = values.get(self.metric)
        if not isinstance(score, int | float | np.number) or not 0 <= score <= 1:
            raise ValueError(f"{self.name}: {self.metric} of one document is {score!r}, not a number from 0 to 1")
        target = self.task.doc_to_target(doc)
        choices = list(self.task.doc_to_choice(doc)) if self.task.config.doc_to_choice else None
        if self.output_type == "multiple_choice" and choices is not None:
            predicted = choices[int(np.argmax([value for value, _ in held[: len(choices)]]))]
            target = choices[target] if isinstance(target, int) and target < len(choices) else target
        else:
            predicted = held[0] if isinstance(held[0], str) else None
        normalized = values.get("acc_norm")
        return Graded(float(score), None if normalized is None else float(normalized), predicted, str(target))

    def sha256(self, asked: Sequence[Sequence[Instance]]) -> str:
        """lm-eval's `task_hash`: of every document, its first prompt and its target, once for each filter."""
        from lm_eval.utils import handle_non_serializable, hash_string

        parts = []
        for instances in asked:
            doc, first = instances[0].doc, instances[0].arguments[0]
            dumped = json.dumps(doc, indent=2, default=handle_non_serializable, ensure_ascii=False)
            parts.append(hash_string(dumped) + hash_string(first) + hash_string(str(self.task.doc_to_target(doc))))
        return str(hash_string("".join(parts * len(self.filters))))

    def failed(self, doc_id: int, error: Exception) -> InputProblems:
        found = f"a document that the task fails on: {type(error).__name__}: {error}"
        return InputProblems(
            [Problem(self.name, f"{self.place}: document {doc_id}", found, "a task that fits its data")]
        )
