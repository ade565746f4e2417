"""Opens token files: training rows and suite items as tokens, encoded once and mapped into memory by every job.

A token file is an Arrow IPC file, named by the SHA-256 of its content. The columns of the two kinds are the schemas
below (`tokens`: prompt and completion one after another); the metadata of its schema has the version of this format,
the facts of the training set or suite, and how a suite of lm-eval is graded. Rows become Python objects when they are
asked for, and no sooner.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, overload

import numpy as np
import pyarrow as pa

from rankscope.records import Example, Grading, Item, Record, Suite, SuiteFacts, TrainFacts
from rankscope.study.graders import grader_of
from rankscope.study.problems import InputProblems, Problem

VERSION = 1
"""Of the format; a reader refuses a file of another."""

SUFFIX = ".arrow"

_TOKENS = pa.list_(pa.int32())
TRAINING_SCHEMA = pa.schema(
    [
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("tokens", _TOKENS, nullable=False),
        pa.field("prompt_tokens", pa.int32(), nullable=False),
        pa.field("loss_mask", pa.list_(pa.bool_())),  # null: loss on all that follows the prompt
        pa.field("validation", pa.bool_(), nullable=False),  # the rows of the validation part come last
    ]
)
SUITE_SCHEMA = pa.schema(
    [
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("form", pa.string(), nullable=False),
        pa.field("prompt_ids", _TOKENS, nullable=False),
        pa.field("choices_ids", pa.list_(_TOKENS), nullable=False),
        pa.field("choice_characters", _TOKENS, nullable=False),
        pa.field("answer_index", pa.int32()),
        pa.field("answers", pa.list_(pa.string()), nullable=False),
        pa.field("text_bytes", pa.int64(), nullable=False),
        pa.field("prompt_text", pa.string(), nullable=False),
        pa.field("choice_texts", pa.list_(pa.string()), nullable=False),
        pa.field("cluster", pa.string()),
        pa.field("parts", pa.list_(pa.struct([("prompt_ids", _TOKENS), ("choices_ids", pa.list_(_TOKENS))]))),
        pa.field("document", pa.string()),
    ]
)
_METADATA_KEY = b"rankscope"
_ITEMS_AT_ONCE = 256

_T = TypeVar("_T")
_Facts = TypeVar("_Facts", bound=Record)


def token_path(folder: Path, content_sha256: str) -> Path:
    """Where the token file of this content lies in a folder of token files."""
    return folder / f"{content_sha256}{SUFFIX}"


@dataclass(frozen=True)
class TrainingSet:
    """Examples to train on and, disjoint from them, to validate on: the same for every arm and seed."""

    train: Examples
    validation: Examples
    facts: TrainFacts


def open_training(path: Path, facts: TrainFacts | None = None) -> TrainingSet:
    """The training set in a token file. `facts`: those of the plan; where none are given, those in the file (which may
    be another training set's of the same content, with another name).

    Raises FileNotFoundError, and InputProblems for a file of another version of the format.
    """
    batches, metadata = _open(path)
    rows = _Rows(batches)
    held_out = sum(int(batch.column("validation").true_count) for batch in batches)
    count = len(rows) - held_out
    facts = facts or TrainFacts.model_validate({**metadata["facts"], "content_sha256": path.stem})
    return TrainingSet(Examples(rows, 0, count), Examples(rows, count, len(rows)), facts)


def open_suite(path: Path, facts: SuiteFacts | None = None) -> Suite:
    """The suite in a token file; `facts` and errors as of `open_training`."""
    batches, metadata = _open(path)
    facts = facts or SuiteFacts.model_validate({**metadata["facts"], "content_sha256": path.stem})
    grading = Grading.model_validate(metadata["grading"]) if metadata.get("grading") is not None else None
    items = Items(_Rows(batches))
    return Suite(
        facts.name, facts.domain, facts.kind, items, facts.max_new_tokens, dict(facts.left_out), grading,
        grader_of(facts.grade), metadata.get("grader_code"),
    )  # fmt: skip


def schema_with(
    schema: pa.Schema, facts: Record, grading: Grading | None = None, grader_code: str | None = None
) -> pa.Schema:
    """The schema with the metadata of a file."""
    metadata = {
        "version": VERSION,
        "facts": facts.model_dump(mode="json", exclude={"content_sha256"}),
        "grading": grading.model_dump(mode="json") if grading is not None else None,
        **({"grader_code": grader_code} if grader_code is not None else {}),
    }
    return schema.with_metadata({_METADATA_KEY: json.dumps(metadata).encode()})


def item_columns(items: Sequence[Item]) -> dict[str, list[Any]]:
    """The columns of SUITE_SCHEMA."""
    columns: dict[str, list[Any]] = {
        name: [getattr(item, name) for item in items] for name in SUITE_SCHEMA.names if name != "parts"
    }
    columns["parts"] = [
        [{"prompt_ids": part.prompt_ids, "choices_ids": part.choices_ids} for part in item.parts] for item in items
    ]
    return columns


def _open(path: Path) -> tuple[list[pa.RecordBatch], dict[str, Any]]:
    opened = pa.ipc.open_file(pa.memory_map(str(path)))
    metadata = json.loads((opened.schema.metadata or {}).get(_METADATA_KEY, b"{}"))
    if metadata.get("version") != VERSION:
        found = f"version {metadata.get('version', 'none')} of the format of token files"
        raise InputProblems([Problem(str(path), "file", found, f"version {VERSION}")])
    return [opened.get_batch(i) for i in range(opened.num_record_batches)], metadata


class _Rows:
    """Rows of record batches, numbered through."""

    def __init__(self, batches: Sequence[pa.RecordBatch]) -> None:
        self.batches = [batch for batch in batches if batch.num_rows]
        self.starts = np.concatenate([[0], np.cumsum([batch.num_rows for batch in self.batches], dtype=np.int64)])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def place(self, row: int) -> tuple[int, int]:
        """(batch, row in the batch)."""
        batch = int(np.searchsorted(self.starts, row, side="right")) - 1
        return batch, row - int(self.starts[batch])


class _Lazy(Sequence[_T]):
    """A sequence that makes its elements when they are asked for."""

    def _element(self, place: int) -> _T:
        raise NotImplementedError

    @overload
    def __getitem__(self, place: int) -> _T: ...
    @overload
    def __getitem__(self, place: slice) -> tuple[_T, ...]: ...
    def __getitem__(self, place: int | slice) -> _T | tuple[_T, ...]:
        if isinstance(place, slice):
            return tuple(self._element(i) for i in range(*place.indices(len(self))))
        if not -len(self) <= place < len(self):
            raise IndexError(place)
        return self._element(place % len(self))

    def __iter__(self) -> Iterator[_T]:
        return (self._element(i) for i in range(len(self)))


class Examples(_Lazy[Example]):
    """The examples of one part of a training set."""

    def __init__(self, rows: _Rows, start: int, stop: int) -> None:
        self._rows, self._start, self._stop = rows, start, stop
        self._columns = [_ExampleColumns(batch) for batch in rows.batches]

    def __len__(self) -> int:
        return self._stop - self._start

    @property
    def token_counts(self) -> np.ndarray:
        """(examples,) int64: tokens of each, prompt and completion, without making the examples."""
        counts = [np.diff(columns.starts) for columns in self._columns]
        return np.concatenate([np.zeros(0, dtype=np.int64), *counts])[self._start : self._stop]

    def _element(self, place: int) -> Example:
        batch, row = self._rows.place(self._start + place)
        return self._columns[batch].example(row)


class _ExampleColumns:
    """The columns of a record batch as arrays over the mapped file."""

    def __init__(self, batch: pa.RecordBatch) -> None:
        self._ids, self._masks = batch.column("item_id"), batch.column("loss_mask")
        tokens = batch.column("tokens")
        self.starts, self._tokens = tokens.offsets.to_numpy(), tokens.values.to_numpy()
        self._prompts = batch.column("prompt_tokens").to_numpy()

    def example(self, row: int) -> Example:
        ids = tuple(self._tokens[self.starts[row] : self.starts[row + 1]].tolist())
        count = int(self._prompts[row])
        mask = self._masks[row].as_py()
        return Example(self._ids[row].as_py(), ids[:count], ids[count:], None if mask is None else tuple(mask))


class Items(_Lazy[Item]):
    """The items of a suite, made some hundreds at a time; those made last are kept until others are asked for."""

    def __init__(self, rows: _Rows) -> None:
        self._rows = rows
        self._made: tuple[int, list[Item]] = (0, [])

    def __len__(self) -> int:
        return len(self._rows)

    def _element(self, place: int) -> Item:
        start, made = self._made
        if not start <= place < start + len(made):
            number, row = self._rows.place(place)
            first = row - row % _ITEMS_AT_ONCE
            records = self._rows.batches[number].slice(first, _ITEMS_AT_ONCE).to_pylist()
            start, made = self._made = place - row + first, [_item(record) for record in records]
        return made[place - start]


def _item(record: dict[str, Any]) -> Item:
    parts = tuple(
        Item(record["item_id"], record["form"], tuple(part["prompt_ids"]), tuple(map(tuple, part["choices_ids"])))
        for part in record["parts"]
    )
    return Item(
        item_id=record["item_id"],
        form=record["form"],
        prompt_ids=tuple(record["prompt_ids"]),
        choices_ids=tuple(map(tuple, record["choices_ids"])),
        choice_characters=tuple(record["choice_characters"]),
        answer_index=record["answer_index"],
        answers=tuple(record["answers"]),
        text_bytes=record["text_bytes"],
        prompt_text=record["prompt_text"],
        choice_texts=tuple(record["choice_texts"]),
        cluster=record["cluster"],
        parts=parts,
        document=record["document"],
    )
