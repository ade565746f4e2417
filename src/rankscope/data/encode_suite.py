"""Encodes a suite into its token file: what is asked, what cannot be scored, how answers are graded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rankscope.data.encode_sets import Encoding
from rankscope.data.encoder import generated
from rankscope.data.prompts import asked_form
from rankscope.data.sources import RowReader, TaskItems, TaskRows, for_each_batch
from rankscope.data.token_writers import SuiteWriter
from rankscope.records import Form, Item, Row, SuiteFacts
from rankscope.study.problems import InputProblems, Problem
from rankscope.study.study import SuiteSource


def encode_suite(name: str, source: SuiteSource, rows: RowReader | TaskRows, by: Encoding) -> SuiteFacts:
    """Encode a suite into a token file.

    What does not fit into the model's context is left out whole, and counted. What must fit: of choices the prompt with
    the longest choice; of an open answer the prompt with the reference answer as it would be trained, and the end token
    (the room that is left then limits what may be generated); of a text the prefix token and the text.
    `token_count` of the facts counts prompts and choices once each.

    Raises InputProblems for a suite that nobody can score: rows of several forms, or no item that fits; and what
    reading the rows raises.
    """
    with SuiteWriter(by.into) as writer:
        work = _SuiteItems(name, source, rows.file, by, writer)
        task, form = work.encode_task(rows) if isinstance(rows, TaskRows) else (None, work.encode_rows(rows))
        if not writer.item_count:
            why = ", ".join(f"{count} items: {reason}" for reason, count in work.left_out.items())
            found = f"no item that can be scored ({why})"
            raise InputProblems([Problem(rows.file, f"suites.{name}", found, "at least one")])
        facts = SuiteFacts(
            name=name,
            domain=source.domain,
            kind=source.kind,
            form=form,
            content_sha256="",
            item_count=writer.item_count,
            token_count=work.token_count,
            max_new_tokens=task.max_new_tokens if task is not None else source.max_new_tokens,
            left_out=dict(work.left_out),
            revision=getattr(rows, "revision", None),
            harness=task.facts if task is not None else None,
            metric="loss" if source.judged_by_loss else "score",
            grade=source.grade,
            held_out=source.held_out,
        )
        code = None
        if source.grader is not None and (file := source.grader.code_file()) is not None:
            code = (by.base / Path(file).expanduser()).read_text(encoding="utf-8")
        return writer.finish(facts, task.grading if task is not None else None, code)


class _SuiteItems:
    """Takes a suite's rows or its task; items that cannot be scored are counted, by the reason."""

    def __init__(self, name: str, source: SuiteSource, file: str, by: Encoding, writer: SuiteWriter) -> None:
        self.left_out: Counter[str] = Counter()
        self.token_count = 0
        self._name, self._source, self._file, self._by, self._writer = name, source, file, by, writer
        self._first: dict[Form, Row] = {}
        self._forms: Counter[Form] = Counter()

    def encode_task(self, task: TaskRows) -> tuple[TaskItems, Form]:
        place, count = f"suites.{self._name}", len(task.rows)
        self._by.progress(place, 0, count)
        self._by.asked.add(self._name, task.rows)
        made = task.items(self._by.encoder)
        self._add(made.items, made.needed)
        self._by.progress(place, count, count)
        return made, made.items[0].form

    def encode_rows(self, rows: RowReader) -> Form:
        """The one form that all rows have."""
        error = for_each_batch(rows, f"suites.{self._name}", self._by.progress, self._encode, self._look)
        if len(self._forms) > 1:
            shares = (
                f"{count} of form {form} ({self._first[form].place})" for form, count in self._forms.most_common()
            )
            expected = "one form in all rows"
            if set(self._forms) == {"open", "number"}:
                expected = "only numbers as answers, or no `kind: reasoning`, to grade them as words"
            raise InputProblems([Problem(self._file, f"suites.{self._name}", " and ".join(shares), expected)])
        form = next(iter(self._forms))
        if error is not None:
            raise error
        if rows.bad_count:
            self.left_out["cannot be read"] = rows.bad_count
        return form

    def _look(self, batch: Sequence[Row]) -> None:
        self._by.asked.add(self._name, batch)
        for row in batch:
            form = asked_form(row, self._source)
            self._first.setdefault(form, row)
            self._forms[form] += 1

    def _encode(self, batch: Sequence[Row]) -> None:
        encoder = self._by.encoder
        items = encoder.items(batch, self._source, self._file)
        self._check_references(batch, items)
        needed = [len(item.prompt_ids) + max(map(len, item.choices_ids), default=0) for item in items]
        if any(map(generated, self._forms)):
            needed = [example.token_count for example in encoder.training(batch, self._source, self._file)]
        self._add(items, needed)

    def _check_references(self, batch: Sequence[Row], items: Sequence[Item]) -> None:
        """Raise InputProblems for a row that the suite's grader cannot grade answers to."""
        grader = self._source.grader
        if grader is None:
            return
        for row, item in zip(batch, items, strict=True):
            wrong = [refused for answer in item.answers if (refused := grader.refuse_reference(answer)) is not None]
            if item.form == "text":
                wrong = [("plain text, to which nothing is answered", "`metric: loss`, or rows with an answer")]
            if wrong:
                raise InputProblems([Problem(self._file, f"{row.place}, for suites.{self._name}", *wrong[0])])

    def _add(self, items: Sequence[Item], needed: Sequence[int]) -> None:
        fitting = [item for item, count in zip(items, needed, strict=True) if self._fits(item, count)]
        self._writer.add(fitting)
        parts = (part for item in fitting for part in item.parts or (item,))
        self.token_count += sum(len(part.prompt_ids) + sum(map(len, part.choices_ids)) for part in parts)

    def _fits(self, item: Item, needed: int) -> bool:
        context = self._by.encoder.context_tokens
        parts = item.parts or (item,)
        if not generated(item.form) and not all(part.choices_ids and all(part.choices_ids) for part in parts):
            self.left_out["has no token to score"] += 1
        elif needed > context:
            self.left_out[f"longer than the context of {context} tokens"] += 1
        else:
            return True
        return False
