"""Writes token files: rows go into temporary files as they are encoded, and in their final order into an Arrow file,
named by the hash of its content, whole or absent."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

from rankscope.data.token_files import SUFFIX, SUITE_SCHEMA, TRAINING_SCHEMA, item_columns, schema_with, token_path
from rankscope.records import Example, Grading, Item, SuiteFacts, TrainFacts
from rankscope.study.graders import grader_of
from rankscope.study.selection_order import Unit, in_order, unit_of

_ROWS_AT_ONCE = 2048


class TrainingWriter:
    """Takes examples in the order they are encoded in; `finish` writes those that stay, in the order that is asked for.

    The tokens lie in a temporary file in `folder`; in memory stay the ids and 12 bytes for each row.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._tokens = _NumberRows(folder, np.int32)
        self._masks = _NumberRows(folder, np.uint8)
        self._ids: list[pa.Array] = []
        self._prompts: list[np.ndarray] = []
        self._targets: list[np.ndarray] = []

    def __enter__(self) -> TrainingWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._tokens.close()
        self._masks.close()

    def add(self, examples: Sequence[Example]) -> None:
        self._tokens.add([(*example.prompt_ids, *example.completion_ids) for example in examples])
        self._masks.add([example.loss_mask or () for example in examples])
        self._ids.append(pa.array([example.item_id for example in examples], pa.string()))
        self._prompts.append(np.array([len(example.prompt_ids) for example in examples], dtype=np.int32))
        self._targets.append(np.array([example.target_count for example in examples], dtype=np.int32))

    @property
    def token_counts(self) -> np.ndarray:
        """(rows,): tokens of each row, prompt and completion."""
        return self._tokens.lengths

    @property
    def target_counts(self) -> np.ndarray:
        """(rows,): tokens with loss of each row."""
        return np.concatenate([np.zeros(0, dtype=np.int32), *self._targets])

    def finish(self, train: np.ndarray, validation: np.ndarray, facts: TrainFacts) -> TrainFacts:
        """Write the rows at the positions `train`, then those at `validation`; the facts with the content's hash."""
        rows = np.concatenate([train, validation])
        ids = pa.chunked_array([pa.array([], pa.string()), *self._ids]).combine_chunks()
        prompts = np.concatenate([np.zeros(0, dtype=np.int32), *self._prompts])

        def batches() -> Iterator[pa.RecordBatch]:
            for start in range(0, len(rows), _ROWS_AT_ONCE):
                part = rows[start : start + _ROWS_AT_ONCE]
                held_out = np.arange(start, start + len(part)) >= len(train)
                masks, mask_lengths = self._masks.read(part)
                columns = [
                    ids.take(pa.array(part)),
                    _lists(*self._tokens.read(part), pa.int32()),
                    pa.array(prompts[part]),
                    _lists(masks.astype(bool), mask_lengths, pa.bool_(), none=mask_lengths == 0),
                    pa.array(held_out),
                ]
                yield pa.RecordBatch.from_arrays(columns, schema=TRAINING_SCHEMA)

        sha256 = _write(self._folder, schema_with(TRAINING_SCHEMA, facts), batches(), ContentHash("training"))
        return facts.model_copy(update={"content_sha256": sha256})


class SuiteWriter:
    """Takes items in their order."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stream = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  (closed with the writer)
        self._writer = pa.ipc.new_stream(self._stream, SUITE_SCHEMA)
        self.item_count = 0
        self._units: Counter[Unit] = Counter()

    def __enter__(self) -> SuiteWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    def add(self, items: Sequence[Item]) -> None:
        self._writer.write_batch(pa.RecordBatch.from_pydict(item_columns(items), schema=SUITE_SCHEMA))
        self.item_count += len(items)
        self._units.update(unit_of(item.item_id, item.cluster) for item in items)

    def finish(self, facts: SuiteFacts, grading: Grading | None, code: str | None = None) -> SuiteFacts:
        """The facts with the sizes of clusters and the content's hash: of the items, how they are answered and how they
        are graded. `code`: the text of the user's own grader."""
        if len(self._units) < self.item_count:
            facts = facts.model_copy(update={"cluster_sizes": [self._units[unit] for unit in in_order(self._units)]})
        if code is not None:
            facts = facts.model_copy(update={"grader_code_sha256": code_sha256(code)})
        self._writer.close()
        self._stream.seek(0)
        rules: list[Any] = [
            facts.max_new_tokens,
            facts.harness.model_dump(mode="json") if facts.harness is not None else None,
            grading.model_dump(mode="json", exclude={"task": {"paths"}}) if grading is not None else None,
        ]
        if (grader := grader_of(facts.grade)) is not None:
            rules += [grader.fingerprint(), facts.grader_code_sha256]
        content = ContentHash(f"suite {json.dumps(rules, sort_keys=True)}")
        stored = pa.ipc.open_stream(self._stream)
        sha256 = _write(self._folder, schema_with(SUITE_SCHEMA, facts, grading, code), stored, content)
        return facts.model_copy(update={"content_sha256": sha256})


def code_sha256(code: str) -> str:
    """The hash of a grader's text, as the facts of a suite have it."""
    return hashlib.sha256(code.encode()).hexdigest()


class ContentHash:
    """SHA-256 of the values of record batches, column by column: the same however the rows are cut into batches."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._columns: dict[str, Any] = {}

    def update(self, batch: pa.RecordBatch) -> None:
        """Add the rows of one batch."""
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            self._add(name, column)

    def hexdigest(self) -> str:
        """The hash of all batches so far, 64 hex digits."""
        whole = hashlib.sha256(self._kind.encode())
        for path, digest in sorted(self._columns.items()):
            whole.update(f"\0{path}\0{digest.hexdigest()}".encode())
        return whole.hexdigest()

    def _add(self, path: str, values: pa.Array) -> None:
        if not pa.types.is_struct(values.type):
            self._bytes(f"{path} null", np.asarray(values.is_null().to_numpy(zero_copy_only=False), dtype=np.uint8))
        if pa.types.is_list(values.type):
            self._bytes(f"{path} length", _int32(values.value_lengths().fill_null(0)))
            self._add(f"{path} item", values.flatten())
        elif pa.types.is_struct(values.type):
            for field, column in zip(values.type, values.flatten(), strict=True):
                self._add(f"{path} {field.name}", column)
        elif pa.types.is_string(values.type):
            texts = values.fill_null("").cast(pa.binary())
            self._bytes(f"{path} length", _int32(pa.compute.binary_length(texts)))
            self._bytes(path, b"".join(texts.to_pylist()))
        else:
            numbers = values.cast(pa.uint8()) if pa.types.is_boolean(values.type) else values
            self._bytes(path, np.ascontiguousarray(numbers.fill_null(0).to_numpy(zero_copy_only=False)))

    def _bytes(self, path: str, data: Any) -> None:
        self._columns.setdefault(path, hashlib.sha256()).update(data)


class _NumberRows:
    """Rows of numbers in a temporary file: written in one order, read in any."""

    def __init__(self, folder: Path, dtype: type) -> None:
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  (closed with the writer)
        self._dtype = np.dtype(dtype)
        self._lengths: list[np.ndarray] = []

    def add(self, rows: Sequence[Sequence[int]]) -> None:
        lengths = np.fromiter(map(len, rows), dtype=np.int32, count=len(rows))
        self._lengths.append(lengths)
        values = np.fromiter(chain.from_iterable(rows), dtype=self._dtype, count=int(lengths.sum()))
        self._file.write(values.tobytes())

    def close(self) -> None:
        self._file.close()

    @property
    def lengths(self) -> np.ndarray:
        return np.concatenate([np.zeros(0, dtype=np.int32), *self._lengths])

    @cached_property
    def _index(self) -> tuple[np.ndarray, np.ndarray]:
        """When all was written: each row's length, and the bytes before each row and before the end."""
        self._file.flush()
        lengths = self.lengths
        return lengths, np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]) * self._dtype.itemsize

    def read(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(the rows' numbers one after another, the length of each)."""
        lengths, starts = self._index
        parts = [
            os.pread(self._file.fileno(), int(starts[run[-1] + 1] - starts[run[0]]), int(starts[run[0]]))
            for run in np.split(rows, np.flatnonzero(np.diff(rows) != 1) + 1)
            if len(run)
        ]
        return np.frombuffer(b"".join(parts), dtype=self._dtype), lengths[rows]


def _write(folder: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch], content: ContentHash) -> str:
    """Write an Arrow file beside its place and rename it to the hash of its content, which is returned."""
    handle, name = tempfile.mkstemp(prefix=".", suffix=SUFFIX, dir=folder)
    os.close(handle)
    try:
        with pa.OSFile(name, "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
            for batch in batches:
                content.update(batch)
                writer.write_batch(batch)
        sha256 = content.hexdigest()
        Path(name).chmod(0o644)
        os.replace(name, token_path(folder, sha256))
    finally:
        Path(name).unlink(missing_ok=True)
    return sha256


def _lists(values: np.ndarray, lengths: np.ndarray, kind: pa.DataType, none: np.ndarray | None = None) -> pa.Array:
    """A column of lists; null where `none` says so."""
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return pa.ListArray.from_arrays(offsets, pa.array(values, kind), mask=None if none is None else pa.array(none))


def _int32(values: pa.Array) -> np.ndarray:
    return np.ascontiguousarray(values.to_numpy(zero_copy_only=False), dtype=np.int32)
