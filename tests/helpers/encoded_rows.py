"""Rows read whole, and training sets and suites of a few rows as token files, opened."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rankscope.data.encode_sets import Encoding, encode_training
from rankscope.data.encode_suite import encode_suite
from rankscope.data.encoder import Encoder
from rankscope.data.overlap import AskedItems
from rankscope.data.sources import RowReader
from rankscope.data.token_files import TrainingSet, open_suite, open_training, token_path
from rankscope.records import Row, Suite, SuiteFacts
from rankscope.study.study import Source, SuiteSource, TrainSource, Validation


class ReadRows:
    """All rows of a source, and what its reader counted."""

    def __init__(self, reader: RowReader) -> None:
        self.rows = tuple(row for batch in reader.batches() for row in batch)
        self.file, self.revision, self.available_count = reader.file, reader.revision, reader.available_count
        self.repeated_count, self.bad_count = reader.repeated_count, reader.bad_count


def load_rows(source: Source, *, base: Path, name: str) -> ReadRows:
    return ReadRows(RowReader(source, base=base, name=name))


class GivenRows:
    """What a reader of these rows would be, in batches of `size`."""

    def __init__(self, rows: Sequence[Row], *, size: int = 7, bad_count: int = 0, revision: str | None = None) -> None:
        self._rows, self._size = rows, size
        self.file, self.count, self.revision = "rows.jsonl", len(rows), revision
        self.repeated_count, self.bad_count = 0, bad_count
        self.counted_from: int | None = None

    def batches(self) -> Iterator[list[Row]]:
        return (list(self._rows[i : i + self._size]) for i in range(0, len(self._rows), self._size))


def asked_by(suites: dict[str, Sequence[Row]]) -> AskedItems:
    asked = AskedItems()
    for suite, rows in suites.items():
        asked.add(suite, rows)
    return asked


def encoded_training(
    source: TrainSource, rows: Any, encoder: Encoder, suites: dict[str, Sequence[Row]] | None = None, **more: Any
) -> TrainingSet:
    settings = {"validation": Validation(), "max_sequence_tokens": 200} | more
    with TemporaryDirectory() as folder:
        by = Encoding(encoder, Path(folder), asked_by(suites or {}))
        facts = encode_training("set", source, rows, by, **settings)
        return open_training(token_path(by.into, facts.content_sha256), facts)


def encoded_suite(source: SuiteSource, rows: Any, encoder: Encoder, name: str = "suite") -> tuple[Suite, SuiteFacts]:
    with TemporaryDirectory() as folder:
        facts = encode_suite(name, source, rows, Encoding(encoder, Path(folder)))
        return open_suite(token_path(Path(folder), facts.content_sha256), facts), facts
