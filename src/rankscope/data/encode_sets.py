"""Encodes a training set into its token file, by the rules on lengths, repeats, overlap and validation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from rankscope.data.encoder import Encoder
from rankscope.data.held_out import HeldOut
from rankscope.data.overlap import GRAM_WORDS, NEAR_SHARE, AskedItems, HashTable, NearItems, hashes
from rankscope.data.prompts import runs_on
from rankscope.data.row_shapes import content_text
from rankscope.data.sources import (
    Progress,
    RowReader,
    for_each_batch,
    sample_marks,
    smallest,
)
from rankscope.data.token_writers import TrainingWriter
from rankscope.records import Example, Row, TrainFacts
from rankscope.study.problems import InputProblems, Problem
from rankscope.study.study import TrainSource, Validation


@dataclass(frozen=True)
class Encoding:
    """What a study's sources are encoded with: an encoder, the folder of the token files, what the suites ask (suites
    add to it, training rows are compared with it), what suites hold out of training, who is told of the progress, and
    where relative paths of graders start."""

    encoder: Encoder
    into: Path
    asked: AskedItems = field(default_factory=AskedItems)
    held_out: HeldOut = field(default_factory=HeldOut)
    progress: Progress = lambda *_: None
    base: Path = Path()


def encode_training(
    name: str, source: TrainSource, rows: RowReader, by: Encoding, *, validation: Validation, max_sequence_tokens: int
) -> TrainFacts:
    """Encode a training set into a token file. Rows that the suites ask are not trained on.

    Dropped and counted, in this order: rows that repeat another under a different id, rows that a suite holds out, rows
    that a suite asks, rows of
    more than `max_sequence_tokens` tokens or than the model's context. Of the rest the validation rows are a seeded
    sample of `fraction` (rounded, at least one, at most `max_items`). The facts count the rows that are left to train
    on. Raises InputProblems if either part would be empty, and what reading the rows raises.
    """
    with TrainingWriter(by.into) as writer:
        work = TrainingRows(source, rows.file, by, writer, max_sequence_tokens, name)
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

    def __init__(
        self, source: TrainSource, file: str, by: Encoding, writer: TrainingWriter, longest: int, name: str | None
    ) -> None:
        self.asked_counts: Counter[str] = Counter()
        self.too_long: Counter[str] = Counter()
        self.repeated_count = 0
        self._name = name
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
        held = self._by.held_out.suites(self._name, batch)
        self.asked_counts.update(f"held out for suite {suite}" for suite in held if suite is not None)
        staying = [i for i, suite in enumerate(held) if suite is None]
        positions, batch = positions[staying], [batch[i] for i in staying]
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
