"""Reads a source of a study as checked rows, batch after batch, whatever kind of source it is and however large."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np

from rankscope.data.hub_data import open_hub
from rankscope.data.overlap import HashTable, hashes
from rankscope.data.row_files import (
    BATCH_ROWS,
    MAX_PROBLEMS,
    Batch,
    Records,
    Unreadable,
    open_file,
    read_aliases,
    shortened,
)
from rankscope.data.row_shapes import FIELDS, mapped, parse
from rankscope.data.world import World, make_world
from rankscope.records import Grading, HarnessFacts, Item, Row
from rankscope.study.problems import InputProblems, Problem, show
from rankscope.study.study import Source

if TYPE_CHECKING:
    from rankscope.data.encoder import Encoder

Progress = Callable[[str, int, int | None], object]
"""Told the name of a source (`train.medical`), the rows of it that are done, and how many there are where known."""


class RowReader:
    """The rows of one source. A relative path starts at `base`, the folder of the study; `name` is the source's.

    `file` is how problems name it; `revision` the commit of a hub data set or the fingerprint of a local one;
    `count` how many rows there are where that is known before they are read. `repeated_count` (rows without an id that
    said what an earlier one says; each is kept once), `bad_count` (rows that `bad_rows: drop` left out) and
    `available_count` (rows before `limit` took its sample) are known when all batches were taken.

    Raises InputProblems where the source is not there.
    """

    def __init__(self, source: Source, *, base: Path, name: str) -> None:
        self._source, self._name = source, name
        self._aliases: dict[str, tuple[str, ...]] = {}
        self.revision: str | None = None
        self.repeated_count = self.bad_count = self.available_count = 0
        if source.world is not None:
            self.file = f"world {source.world}"
            self._records = _world_records(source.world, source.world_seed, name)
        elif source.path is not None:
            path = base / os.path.expanduser(source.path)
            self.file, self._records = source.path, open_file(path, source.path)
            self._aliases = read_aliases(path.with_name("aliases.json"))
        elif source.hub is not None:
            read = open_hub(source, base, name)
            self.file, self._records, self.revision = read.file, read.records, read.revision
        else:
            raise ValueError(f"{name} has no rows of its own")
        self.count = self._records.count

    def batches(self) -> Iterator[list[Row]]:
        """The rows in their order, the next batch read in a thread while the last is used.

        An `aliases.json` beside the file (an object from a row's id to a list of texts) adds other accepted answers to
        open questions. `limit` keeps a seeded random sample in the file's order: it is the same on every machine, and
        a smaller limit keeps a part of what a larger one keeps.

        Raises InputProblems, after the last batch, naming every bad row, at most MAX_PROBLEMS of them by line; with
        `bad_rows: drop` only where half of the rows or more are bad, since then the study reads the wrong columns.
        """
        return _read_ahead(self._checked() if self._source.limit is None else self._sampled(self._source.limit))

    def _sampled(self, limit: int) -> Iterator[list[Row]]:
        """Reads the source twice: for the ids, then for the rows that are kept."""
        marks = [sample_marks([row.item_id for row in rows], "limit") for rows in self._checked()]
        kept = np.zeros(sum(map(len, marks)), dtype=bool)
        kept[smallest(np.concatenate(marks), limit)] = True
        start = 0
        for rows in self._checked():
            chosen = [row for row, keep in zip(rows, kept[start : start + len(rows)], strict=True) if keep]
            start += len(rows)
            if chosen:
                yield chosen

    def _checked(self) -> Iterator[list[Row]]:
        check = _RowCheck(self._source, self._records, self.file, self._name)
        for batch in self._records.batches():
            rows = [_with_aliases(row, self._aliases.get(row.item_id, ())) for row in check.rows(batch)]
            if rows:
                yield rows
        self.repeated_count, self.bad_count, self.available_count = check.repeated, check.bad, check.good
        check.finish()


@dataclass(frozen=True)
class TaskItems:
    """What a task of lm-eval asks: items, the tokens that each needs in the context, and how they are graded."""

    items: list[Item]
    needed: list[int]
    max_new_tokens: int
    facts: HarnessFacts
    grading: Grading | None


@runtime_checkable
class TaskRows(Protocol):
    """A loaded task of lm-eval, as `evaluate.lm_eval` gives it. `rows`: its questions, compared with training rows."""

    @property
    def file(self) -> str: ...
    @property
    def rows(self) -> Sequence[Row]: ...

    def items(self, encoder: Encoder) -> TaskItems: ...


class _RowCheck:
    """Parses batches of records one after another, and keeps account of what is wrong with them."""

    def __init__(self, source: Source, records: Records, file: str, name: str) -> None:
        self._source, self._records, self._file, self._name = source, records, file, name
        self._reasoning = getattr(source, "kind", None) == "reasoning"
        self._problems: list[Problem] = []
        self._columns: dict[str, None] = {}
        self._seen = HashTable()
        self.repeated = self.bad = self.good = 0

    def rows(self, batch: Batch) -> list[Row]:
        """The rows of the batch that can be used."""
        parsed = [self._parsed(number, value) for number, value in batch]
        ids = hashes(row.item_id for row, _, _ in parsed if isinstance(row, Row))
        # What is remembered of an id: the number of its first row, and whether that had an id of its own.
        known = [2 * number + has_id for row, number, has_id in parsed if isinstance(row, Row)]
        marks = np.array(known, dtype=np.int64)
        before = iter(self._seen.add(ids, marks).tolist())
        rows = []
        for row, _, has_id in parsed:
            if isinstance(row, Problem):
                self._add(row)
            elif (first := next(before)) < 0:
                rows.append(row)
            elif not has_id and not first % 2:
                self.repeated += 1
            else:
                found = f"{show(row.item_id)}, which {self._records.unit} {first // 2} has too"
                self._add(Problem(self._file, f"{row.place}: id", found, "an id that stands once"))
        self.good += len(rows)
        return rows

    def finish(self) -> None:
        """Raises InputProblems for what was wrong, if it is too much."""
        self._check_columns()
        total = self.good + self.bad + self.repeated
        if self.bad and not (self._source.bad_rows == "drop" and 2 * self.bad < total):
            raise InputProblems(shortened(self._problems, self.bad, self._file))
        if not self.good:
            raise InputProblems([Problem(self._file, "rows", "none", "at least one")])

    def _parsed(self, number: int, value: object) -> tuple[Row | Problem, int, bool]:
        """The row, its number, and whether it has an id of its own."""
        place = f"{self._records.unit} {number}"
        if isinstance(value, Unreadable):
            return Problem(self._file, place, value.found, value.expected), number, False
        if self._source.columns is not None and isinstance(value, Mapping) and not value.keys() <= self._columns.keys():
            self._columns |= dict.fromkeys(value)
        value = mapped(value, self._source.columns, cells=self._records.cells)
        has_id = isinstance(value, Mapping) and str(value.get("id") or "").strip() != ""
        return parse(value, file=self._file, place=place, reasoning=self._reasoning), number, has_id

    def _add(self, problem: Problem) -> None:
        self.bad += 1
        if len(self._problems) < MAX_PROBLEMS:
            self._problems.append(problem)

    def _check_columns(self) -> None:
        """Raises InputProblems for a field that nobody reads, and for a column that no row has."""
        columns, known = self._source.columns or {}, self._columns
        problems = [
            Problem(self._name, "columns", show(key), f"one of {', '.join(FIELDS)}")
            for key in columns
            if key not in FIELDS
        ]
        problems += [
            Problem(self._name, f"columns.{key}", show(value), "the name of one column (only choices may have a list)")
            for key, value in columns.items()
            if not isinstance(value, str) and key != "choices"
        ]
        for key, value in columns.items():
            for column in [value] if isinstance(value, str) else value:
                if known and column not in known and column.split(".")[0] not in known:
                    expected = f"one of the columns {', '.join(map(str, known))}"
                    problems.append(Problem(self._file, f"columns.{key}", f"no column {show(column)}", expected))
        if problems:
            raise InputProblems(problems)


def _read_ahead(batches: Iterator[list[Row]]) -> Iterator[list[Row]]:
    with ThreadPoolExecutor(1) as reading:
        waiting = reading.submit(next, batches, None)
        while (batch := waiting.result()) is not None:
            waiting = reading.submit(next, batches, None)
            yield batch


def for_each_batch(
    rows: RowReader,
    place: str,
    progress: Progress,
    encode: Callable[[list[Row]], None],
    look: Callable[[list[Row]], None] = lambda _: None,
) -> InputProblems | None:
    """Look at every batch and encode it. Returns what encoding raised first: what reading raises at the end, of bad
    rows, comes before it."""
    done, error = 0, None
    progress(place, 0, rows.count)
    for batch in rows.batches():
        look(batch)
        if error is None:
            try:
                encode(batch)
            except InputProblems as raised:
                error = raised
        done += len(batch)
        progress(place, done, rows.count)
    return error


def _with_aliases(row: Row, more: tuple[str, ...]) -> Row:
    if not (more or row.aliases) or (row.answer is None and row.messages is None):
        return row
    own = row.answer if row.messages is None else row.messages[-1].content
    return replace(row, aliases=tuple(alias for alias in dict.fromkeys(row.aliases + more) if alias != own))


def seeded_sample(ids: Sequence[str], count: int, purpose: str) -> list[int]:
    """The positions, ascending, of a random sample of `count` of the ids (all of them, if they are fewer).

    The `count` smallest hashes of (purpose, id) are taken: neither the order of the ids nor ids added later reshuffle
    the sample, and samples for different purposes are independent. Ids must differ.
    """
    return list(map(int, smallest(sample_marks(ids, purpose), count)))


def sample_marks(ids: Iterable[str], purpose: str) -> np.ndarray:
    """(n,) uint64: by what a seeded sample is drawn, the first 8 bytes of the SHA-256 of (purpose, id)."""
    digests = b"".join(hashlib.sha256(f"rankscope {purpose}\0{item_id}".encode()).digest()[:8] for item_id in ids)
    return np.frombuffer(digests, dtype=">u8").astype(np.uint64)


def smallest(marks: np.ndarray, count: int) -> np.ndarray:
    """The positions, ascending, of the `count` smallest marks."""
    return np.sort(np.argsort(marks, kind="stable")[:count])


@lru_cache(maxsize=2)
def _world(seed: int) -> World:
    return make_world(seed)


def _world_records(world: str, seed: int, name: str) -> Records:
    known = _world(seed).names()
    if world not in known:
        raise InputProblems([Problem(name, "world", show(world), f"one of {', '.join(known)}")])
    rows = _world(seed).rows(world)
    starts = range(0, len(rows), BATCH_ROWS)
    return Records("row", lambda: (list(enumerate(rows[i : i + BATCH_ROWS], i + 1)) for i in starts), len(rows))
