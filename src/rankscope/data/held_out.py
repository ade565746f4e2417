"""A share of a training set's rows as a suite: which rows it is, and that training never sees them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from rankscope.data.overlap import HashTable, group_key, hashes
from rankscope.data.row_shapes import content_text
from rankscope.data.sources import RowReader, sample_marks
from rankscope.records import Row
from rankscope.study.problems import InputProblems, Problem
from rankscope.study.study import Study, SuiteSource

_LEAST = 2
"""Items that a suite needs: one says nothing of others."""


def row_marks(rows: Iterable[Row]) -> np.ndarray:
    """(n,) uint64: by what rows are held out, smallest first. Rows of one cluster have one mark, and so have rows that
    ask the same: what is asked here is not trained on with another answer."""
    return sample_marks((group_key(row) for row in rows), "held out")


class HeldOutRows(RowReader):
    """The rows of a training set that a suite holds out: of `share` of them (rounded, at most the suite's `limit`) the
    groups of `row_marks` with the smallest marks, whole, up to the group that fills it; the same on every machine, and
    those of a smaller share are among those of a larger one. Rows that say the same count once.

    `last_mark`: rows up to this mark are held out. `all_questions`: whether every row of the set has a question.
    Reads the set once to know. Raises InputProblems where fewer than 2 rows are held out, and what reading raises.
    """

    def __init__(self, name: str, suite: SuiteSource, study: Study, base: Path) -> None:
        assert suite.held_out is not None
        train = study.train[suite.held_out].model_copy(update={"kind": suite.kind})
        super().__init__(train, base=base, name=f"train.{suite.held_out}")
        self.all_questions = True
        found = [self._marked(batch) for batch in self._different()]
        marks = np.concatenate(found) if found else np.zeros(0, dtype=np.uint64)
        wanted = min(round(suite.held_out_share * len(marks)), suite.limit or len(marks))
        ordered = np.sort(marks)
        self.last_mark = ordered[wanted - 1] if wanted else np.uint64(0)
        self.count = int(np.searchsorted(ordered, self.last_mark, side="right")) if wanted else 0
        if self.count < _LEAST:
            place, found_rows = f"suites.{name}.share", f"{self.count} of {len(marks)} rows of train.{suite.held_out}"
            expected = f"a share that holds out {_LEAST} or more"
            raise InputProblems([Problem(self.file, place, found_rows, expected)])

    def batches(self) -> Iterator[list[Row]]:
        """The rows that are held out, in their order. What cannot be read is counted by the training set."""
        for batch in self._different():
            kept = row_marks(batch) <= self.last_mark
            if kept.any():
                yield [row for row, keep in zip(batch, kept.tolist(), strict=True) if keep]
        self.bad_count = 0

    def _different(self) -> Iterator[list[Row]]:
        """The set's rows, of those that say the same the first."""
        known = HashTable()
        for batch in super().batches():
            said = hashes(map(content_text, batch))
            new = known.add(said, np.arange(len(said))) < 0
            yield [row for row, first in zip(batch, new.tolist(), strict=True) if first]

    def _marked(self, batch: Sequence[Row]) -> np.ndarray:
        self.all_questions &= all(row.question is not None for row in batch)
        return row_marks(batch)


@dataclass
class HeldOut:
    """What is held out of training: of each training set, by suite, the last mark that is."""

    last_marks: dict[str, dict[str, np.uint64]] = field(default_factory=dict)

    @classmethod
    def of(cls, suites: Mapping[str, SuiteSource], rows: Mapping[str, object]) -> HeldOut:
        """Of the suites whose rows were opened."""
        found = cls()
        for name, own in rows.items():
            train_set = suites[name].held_out
            if isinstance(own, HeldOutRows) and train_set is not None:
                found.last_marks.setdefault(train_set, {})[name] = own.last_mark
        return found

    def suites(self, train_set: str | None, rows: Sequence[Row]) -> list[str | None]:
        """For each row of a training set the suite that holds it out: of several the one that holds out most. Rows of
        no training set (None: rows to replay) are held out by none."""
        marks = self.last_marks.get(train_set) if train_set is not None else None
        if not marks:
            return [None] * len(rows)
        suite = max(marks, key=lambda name: marks[name])
        return [suite if held else None for held in (row_marks(rows) <= marks[suite]).tolist()]
