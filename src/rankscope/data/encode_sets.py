"""Encodes a training set or a suite into its token file, by the rules on lengths, repeats, overlap and validation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from rankscope.data.encoder import Encoder, generated
from rankscope.data.overlap import GRAM_WORDS, NEAR_SHARE, AskedItems, HashTable, NearItems, hashes
from rankscope.data.prompts import asked_form, runs_on
from rankscope.data.row_shapes import content_text
from rankscope.data.sources import (
    Progress,
    RowReader,
    TaskItems,
    TaskRows,
    for_each_batch,
    sample_marks,
    smallest,
)
from rankscope.data.token_writers import SuiteWriter, TrainingWriter
from rankscope.records import Example, Form, Item, Row, SuiteFacts, TrainFacts
from rankscope.study.problems import InputProblems, Problem
from rankscope.study.study import SuiteSource, TrainSource, Validation


@dataclass(frozen=True)
class Encoding:
    """What a study's sources are encoded with: an encoder, the folder of the token files, what the suites ask (suites
    add to it, training rows are compared with it), who is told of the progress, and where relative paths of graders
    start."""

    encoder: Encoder
    into: Path
    asked: AskedItems = field(default_factory=AskedItems)
    progress: Progress = lambda *_: None
    base: Path = Path()


def encode_training(
    name: str, source: TrainSource, rows: RowReader, by: Encoding, *, validation: Validation, max_sequence_tokens: int
) -> TrainFacts:
    """Encode a training set into a token file. Rows that the suites ask are not trained on.

    Dropped and counted, in this order: rows that repeat another under a different id, rows that a suite asks, rows of
    more than `max_sequence_tokens` tokens or than the model's context. Of the rest the validation rows are a seeded
    sample of `fraction` (rounded, at least one, at most `max_items`). The facts count the rows that are left to train
    on. Raises InputProblems if either part would be empty, and what reading the rows raises.
    """
    with TrainingWriter(by.into) as writer:
        work = TrainingRows(source, rows.file, by, writer, max_sequence_tokens)
        if (error := for_each_batch(rows, f"train.{name}", by.progress, work.add)) is not None:
            raise error
        train, held_out = work.parts(validation)
        dropped = work.dropped(rows)
        if not len(train) or not len(held_out):
            why = ", ".join(f"{count} dropped: {reason}" for reason, count in dropped.items())
            found = f"{len(train) + len(held_out)} usable rows" + (f" ({why})" if why else "")
            raise InputProblems([Problem(rows.file, f"train.{name}", found, "at least 2, to train and to validate on")])
        counting = ["answer_index counts from 1, as all rows together show"] if rows.counted_from == 1 else []
        facts = TrainFacts(
            name=name,
            domain=source.domain,
            content_sha256="",
            row_count=len(train),
            validation_count=len(held_out),
            token_count=int(writer.token_counts[train].sum(dtype=np.int64)),
            completion_token_count=int(writer.target_counts[train].sum(dtype=np.int64)),
            dropped=dropped,
            warnings=[*work.warnings(), *counting],
            revision=rows.revision,
        )
        return writer.finish(train, held_out, facts)


class TrainingRows:
    """Takes the rows of a training set batch by batch: what is dropped is counted, what stays is encoded."""

    def __init__(self, source: TrainSource, file: str, by: Encoding, writer: TrainingWriter, longest: int) -> None:
        self.asked_counts: Counter[str] = Counter()
        self.too_long: Counter[str] = Counter()
        self.repeated_count = 0
        self._source, self._file, self._by, self._writer, self._longest = source, file, by, writer, longest
        self._near = NearItems(by.asked)
        self._plain = not by.encoder.chat and source.template is None
        self._joined_count = 0
        self._contents = HashTable()
        self._row_count = 0
        self._last: dict[int, int] = {}  # of rows that are repeated later: where they stand for the last time
        self._positions: list[np.ndarray] = []
        self._marks: list[np.ndarray] = []

    def add(self, batch: Sequence[Row]) -> None:
        """Drop, count or encode the rows of one batch."""
        positions, batch = self._without_repeats(batch)
        suites = self._by.asked.exact(batch)
        self.asked_counts.update(f"also in suite {suite}" for suite in suites if suite is not None)
        kept = [i for i, suite in enumerate(suites) if suite is None]
        allowed = [batch[i] for i in kept]
        self._near.add(allowed)
        if self._plain:
            self._joined_count += sum(map(runs_on, allowed))
        examples = self._by.encoder.training(allowed, self._source, self._file)
        fitting = [i for i, example in enumerate(examples) if self._fits(example)]
        self._writer.add([examples[i] for i in fitting])
        self._marks.append(sample_marks((examples[i].item_id for i in fitting), "validation"))
        self._positions.append(positions[kept][fitting])

    def in_order(self) -> np.ndarray:
        """The rows that stay, by their places in the writer, in their order."""
        positions = np.concatenate(self._positions)
        if self._last:
            positions = np.array([self._last.get(position, position) for position in positions.tolist()])
        return np.argsort(positions, kind="stable")

    def parts(self, validation: Validation) -> tuple[np.ndarray, np.ndarray]:
        """The rows to train on and those to validate on, by their places in the writer, in their order."""
        marks = np.concatenate(self._marks)
        count = min(max(1, round(validation.fraction * len(marks))), validation.max_items)
        held_out = np.zeros(len(marks), dtype=bool)
        held_out[smallest(marks, count)] = True
        order = self.in_order()
        return order[~held_out[order]], order[held_out[order]]

    def dropped(self, rows: RowReader) -> dict[str, int]:
        """How many rows were left out, by the reason, those that the reader left out among them."""
        dropped = {**self.asked_counts, "repeats another row": self.repeated_count + rows.repeated_count}
        dropped |= {"cannot be read": rows.bad_count, **self.too_long}
        return {reason: count for reason, count in dropped.items() if count}

    def warnings(self) -> list[str]:
        """What a reader of the results should know of the rows."""
        found = [
            f"{len(ids)} of {self._by.asked.item_count(suite)} items of suite {suite} nearly stand in training"
            f" ({GRAM_WORDS}-gram overlap of {NEAR_SHARE} or more), the first is {ids[0]}"
            for suite, ids in self._near.ids().items()
            if ids
        ]
        if self._joined_count:
            what = "no space stands between prompt and completion; they are joined exactly as given"
            found.append(f"in {self._joined_count} rows {what}")
        return found

    def _without_repeats(self, batch: Sequence[Row]) -> tuple[np.ndarray, list[Row]]:
        """Rows that say something new, with their positions: a row that stood in both parts would be validated on after
        it was trained. A row that is repeated is kept as it was first, and stands where it is for the last time."""
        positions = np.arange(self._row_count, self._row_count + len(batch))
        self._row_count += len(batch)
        before = self._contents.add(hashes(map(content_text, batch)), positions)
        again = before >= 0
        self._last.update(zip(before[again].tolist(), positions[again].tolist(), strict=True))
        self.repeated_count += int(again.sum())
        return positions[~again], [row for row, known in zip(batch, again.tolist(), strict=True) if not known]

    def _fits(self, example: Example) -> bool:
        if example.token_count > self._longest:
            self.too_long["longer than max_sequence_tokens"] += 1
        elif example.token_count > self._by.encoder.context_tokens:
            self.too_long["longer than the model's context"] += 1
        else:
            return True
        return False


def encode_suite(name: str, source: SuiteSource, rows: RowReader | TaskRows, by: Encoding) -> SuiteFacts:
    """Encode a suite into a token file.

    What does not fit into the model's context is left out whole, and counted. What must fit: of choices the prompt with
    the longest choice; of an open answer the prompt with the reference answer as it would be trained, and the end token
    (the room that is left then limits what may be generated); of a text the prefix token and the text.
    `token_count` of the facts counts prompts and choices once each.

    Raises InputProblems for a suite that nobody can score: rows of several forms, no `kind` though it is no plain
    text, or no item that fits; and what reading the rows raises.
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
        self._check_kind(made.items[0].form)
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
                expected = "only numbers as answers, or `kind: recall` to grade them as words"
            raise InputProblems([Problem(self._file, f"suites.{self._name}", " and ".join(shares), expected)])
        form = next(iter(self._forms))
        self._check_kind(form)
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

    def _check_kind(self, form: Form) -> None:
        if self._source.kind is None and form != "text":
            expected = "recall or reasoning"
            raise InputProblems([Problem(self._file, f"suites.{self._name}.kind", "nothing", expected)])
