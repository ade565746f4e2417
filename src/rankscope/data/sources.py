"""A study's source -> its rows, all read and checked, and a hash of what they say."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from rankscope.data.hub_data import read_hub
from rankscope.data.row_files import Record, Unreadable, read_aliases, read_csv, read_json, read_parquet, shortened
from rankscope.data.row_shapes import FIELDS, content, parse
from rankscope.data.world import World, make_world
from rankscope.records import Row
from rankscope.study.problems import InputProblems, Problem, show
from rankscope.study.study import Source

Columns = Mapping[str, str | tuple[str, ...]]

_LISTS = ("choices", "aliases", "messages", "conversations", "answer")
"""Fields whose cell may hold a JSON list where a table has only text."""


def check_columns(columns: Columns, records: Sequence[Record], file: str, name: str) -> None:
    """Raise InputProblems for a field that nobody reads, and for a column that no row has."""
    problems = [
        Problem(name, "columns", show(key), f"one of {', '.join(FIELDS)}") for key in columns if key not in FIELDS
    ]
    problems += [
        Problem(name, f"columns.{key}", show(value), "the name of one column (only choices may have a list)")
        for key, value in columns.items()
        if not isinstance(value, str) and key != "choices"
    ]
    rows = [record.value for record in records if isinstance(record.value, Mapping)]
    known = dict.fromkeys(str(column) for row in rows for column in row)
    for key, value in columns.items():
        for column in [value] if isinstance(value, str) else value:
            if rows and column not in known and column.split(".")[0] not in known:
                expected = f"one of the columns {', '.join(known)}"
                problems.append(Problem(file, f"columns.{key}", f"no column {show(column)}", expected))
    if problems:
        raise InputProblems(problems)


def mapped(record: Record, columns: Columns | None) -> object:
    """The record with our fields' names; only the fields that the map names, where there is one."""
    value = record.value
    if not isinstance(value, Mapping):
        return value
    if columns is not None:
        value = {
            field: _value(value, column) if isinstance(column, str) else [_value(value, part) for part in column]
            for field, column in columns.items()
        }
    return {field: _from_cell(field, cell) for field, cell in value.items()} if record.cells else value


def _value(row: Mapping[str, object], column: str) -> object:
    """The column's value; `answers.text` is the part `text` of the column `answers` where no column has that name."""
    if column in row or "." not in column:
        return row.get(column)
    value: object = row
    for part in column.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _from_cell(field: str, cell: object) -> object:
    """Text of a table as what it stands for: a whole number for answer_index, a list in JSON for lists."""
    if not isinstance(cell, str):
        return [_from_cell("", part) for part in cell] if isinstance(cell, list) else cell
    if field == "answer_index" and cell.strip().isascii() and cell.strip().isdecimal() and len(cell) < 20:
        return int(cell)
    if field in _LISTS and cell.lstrip().startswith("["):
        try:
            parsed = json.loads(cell)
        except (ValueError, RecursionError):
            return cell
        return parsed if isinstance(parsed, list) else cell
    return cell


_UNREAD_SUFFIXES = {".arrow": "Arrow", ".xlsx": "Excel"} | dict.fromkeys((".gz", ".zip", ".zst"), "compressed")


@dataclass(frozen=True)
class Rows:
    """The rows of one source. `file` is how problems name it; `content_sha256` does not depend on where it lies."""

    rows: tuple[Row, ...]
    content_sha256: str
    file: str
    available_count: int
    """Rows before `limit` took its sample."""
    repeated_count: int = 0
    """Rows without an id that said what an earlier one says; each was kept once."""
    bad_count: int = 0
    """Rows that could not be read and that `bad_rows: drop` left out."""
    revision: str | None = None
    """Commit of a hub data set, or the fingerprint of a local one."""


def load_rows(source: Source, *, base: Path, name: str) -> Rows:
    """Read every row of a source. A relative path starts at `base`, the folder of the study; `name` is the source's.

    An `aliases.json` beside the file (an object from a row's id to a list of texts) adds other accepted answers to
    open questions. `limit` keeps a seeded random sample in the file's order: it is the same on every machine, and a
    smaller limit keeps a part of what a larger one keeps.

    Raises InputProblems naming every bad row, at most MAX_PROBLEMS of them by line; with `bad_rows: drop` only where
    half of the rows or more are bad, since then the study reads the wrong columns.
    """
    aliases: dict[str, tuple[str, ...]] = {}
    revision = None
    if source.world is not None:
        file, records = f"world {source.world}", _world_records(source.world, source.world_seed, name)
    elif source.path is not None:
        path = base / os.path.expanduser(source.path)
        file, records = source.path, read_file(path, source.path)
        aliases = read_aliases(path.with_name("aliases.json"))
    elif source.hub is not None:
        read = read_hub(source, base, name)
        file, records, revision = read.file, read.records, read.revision
    else:
        raise ValueError(f"{name} has no rows of its own")
    if source.columns is not None:
        check_columns(source.columns, records, file, name)
    reasoning = getattr(source, "kind", None) == "reasoning"
    rows, problems, repeated_count = _rows(records, source.columns, file, reasoning)
    if problems and not (source.bad_rows == "drop" and 2 * len(problems) < len(records)):
        raise InputProblems(shortened(problems, file))
    if not rows:
        raise InputProblems([Problem(file, "rows", "none", "at least one")])
    rows = [_with_aliases(row, aliases.get(row.item_id, ())) for row in rows]
    kept = rows
    if source.limit is not None:
        kept = [rows[i] for i in seeded_sample([row.item_id for row in rows], source.limit, "limit")]
    digest = _content_sha256(kept, source, revision)
    return Rows(tuple(kept), digest, file, len(rows), repeated_count, len(problems), revision)


def read_file(path: Path, file: str) -> list[Record]:
    """The records of a file, by its suffix; what has no known one is read as JSONL."""
    suffix = path.suffix.lower()
    if suffix in (".csv", ".tsv"):
        return read_csv(path, file)
    if suffix in (".parquet", ".pq"):
        return read_parquet(path, file)
    if suffix in _UNREAD_SUFFIXES:
        expected = "a file of rows (.jsonl, .json, .csv, .tsv, .parquet)"
        raise InputProblems([Problem(file, "format", f"a {_UNREAD_SUFFIXES[suffix]} file", expected)])
    return read_json(path, file)


def seeded_sample(ids: Sequence[str], count: int, purpose: str) -> list[int]:
    """The positions, ascending, of a random sample of `count` of the ids (all of them, if they are fewer).

    The `count` smallest hashes of (purpose, id) are taken: neither the order of the ids nor ids added later reshuffle
    the sample, and samples for different purposes are independent. Ids must differ.
    """
    marks = [hashlib.sha256(f"rankscope {purpose}\0{item_id}".encode()).digest() for item_id in ids]
    return sorted(sorted(range(len(ids)), key=marks.__getitem__)[:count])


@lru_cache(maxsize=2)
def _world(seed: int) -> World:
    return make_world(seed)


def _world_records(world: str, seed: int, name: str) -> list[Record]:
    known = _world(seed).names()
    if world not in known:
        raise InputProblems([Problem(name, "world", show(world), f"one of {', '.join(known)}")])
    rows = _world(seed).rows(world)
    return [Record(f"row {i}", row) for i, row in enumerate(rows, start=1)]


def _rows(
    records: Sequence[Record], columns: Columns | None, file: str, reasoning: bool
) -> tuple[list[Row], list[Problem], int]:
    """Parsed rows in order, what is wrong with the others, and how often rows without an id repeated one."""
    problems: list[Problem] = []
    rows: dict[str, Row] = {}
    unnamed: set[str] = set()
    repeated_count = 0
    for record in records:
        row, has_id = _parsed(record, columns, file, reasoning)
        if isinstance(row, Problem):
            problems.append(row)
        elif row.item_id not in rows:
            rows[row.item_id] = row
            if not has_id:
                unnamed.add(row.item_id)
        elif not has_id and row.item_id in unnamed:
            repeated_count += 1
        else:
            found = f"{show(row.item_id)}, which {rows[row.item_id].place} has too"
            problems.append(Problem(file, f"{row.place}: id", found, "an id that stands once"))
    return list(rows.values()), problems, repeated_count


def _parsed(record: Record, columns: Columns | None, file: str, reasoning: bool) -> tuple[Row | Problem, bool]:
    if isinstance(record.value, Unreadable):
        return Problem(file, record.place, record.value.found, record.value.expected), False
    value = mapped(record, columns)
    has_id = isinstance(value, Mapping) and str(value.get("id") or "").strip() != ""
    return parse(value, file=file, place=record.place, reasoning=reasoning), has_id


def _with_aliases(row: Row, more: tuple[str, ...]) -> Row:
    if (row.answer is None and row.messages is None) or not (more or row.aliases):
        return row
    own = row.answer if row.messages is None else row.messages[-1].content
    return replace(row, aliases=tuple(alias for alias in dict.fromkeys(row.aliases + more) if alias != own))


def _content_sha256(rows: Sequence[Row], source: Source, revision: str | None) -> str:
    """Of the rows that are used, in order, and of what is done with them; not of the file they came from. Of a hub
    data set its commit too."""
    digest = hashlib.sha256()
    use = [source.choices, source.template, getattr(source, "kind", None)]
    digest.update(json.dumps(use if revision is None else [*use, revision]).encode())
    for row in rows:
        digest.update(json.dumps([row.item_id, content(row)], sort_keys=True).encode() + b"\n")
    return digest.hexdigest()
