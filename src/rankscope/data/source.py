"""A study's source -> its rows, all read and checked, and a hash of what they say."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from rankscope.config.problems import InputProblems, Problem, show
from rankscope.config.study import Source
from rankscope.data.files import Record, Unreadable, read_aliases, read_records, shortened
from rankscope.data.formats import FIELDS, SHAPES, content, parse, unbuilt_format
from rankscope.data.world import World, make_world
from rankscope.records import Row


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


def load_rows(source: Source, *, base: Path, name: str) -> Rows:
    """Read every row of a source. A relative path starts at `base`, the folder of the study; `name` is the source's.

    An `aliases.json` beside the file (an object from a row's id to a list of texts) adds other accepted answers to
    open questions. `limit` keeps a seeded random sample in the file's order: it is the same on every machine, and a
    smaller limit keeps a part of what a larger one keeps.

    Raises InputProblems naming every bad row, at most MAX_PROBLEMS of them by line.
    """
    if source.columns is not None:
        _check_columns(source.columns, name)
    aliases: dict[str, tuple[str, ...]] = {}
    if source.world is not None:
        file, records = f"world {source.world}", _world_records(source.world, source.world_seed, name)
    elif source.path is not None:
        path = base / os.path.expanduser(source.path)
        file, records = source.path, read_records(path, source.path)
        aliases = read_aliases(path.with_name("aliases.json"))
    else:
        origin = f"hub: {source.hub}" if source.hub is not None else "harness"
        raise InputProblems([Problem(name, "source", f"{origin}, which is not built yet", "path or world")])
    rows, repeated_count = _rows(records, source.columns, file)
    if not rows:
        raise InputProblems([Problem(file, "rows", "none", "at least one")])
    rows = [_with_aliases(row, aliases.get(row.item_id, ())) for row in rows]
    kept = rows
    if source.limit is not None:
        kept = [rows[i] for i in seeded_sample([row.item_id for row in rows], source.limit, "limit")]
    return Rows(tuple(kept), _content_sha256(kept, source), file, len(rows), repeated_count)


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


def _rows(records: Sequence[Record], columns: Mapping[str, str] | None, file: str) -> tuple[list[Row], int]:
    """Parsed rows in order, and how many repetitions of rows without an id were left away."""
    problems: list[Problem] = []
    rows: dict[str, Row] = {}
    unnamed: set[str] = set()
    repeated_count = 0
    for record in records:
        row, has_id = _parsed(record, columns, file)
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
    if problems:
        raise InputProblems(shortened(problems, file))
    return list(rows.values()), repeated_count


def _parsed(record: Record, columns: Mapping[str, str] | None, file: str) -> tuple[Row | Problem, bool]:
    value = record.value
    if isinstance(value, Unreadable):
        return Problem(file, record.place, value.found, "a JSON object"), False
    if isinstance(value, dict) and columns is not None:
        value = {ours: value.get(theirs) for ours, theirs in columns.items()}
    unbuilt = unbuilt_format(value)
    if unbuilt is not None:  # every row will be of this format: one line says it
        problem = Problem(file, record.place, f"rows of the format {unbuilt}, which is not built yet", SHAPES)
        raise InputProblems([problem])
    has_id = isinstance(value, dict) and str(value.get("id") or "").strip() != ""
    return parse(value, file=file, place=record.place), has_id


def _check_columns(columns: Mapping[str, str], name: str) -> None:
    problems = [
        Problem(name, "columns", show(key), f"one of {', '.join(FIELDS)}") for key in columns if key not in FIELDS
    ]
    if problems:
        raise InputProblems(problems)


def _with_aliases(row: Row, more: tuple[str, ...]) -> Row:
    if row.answer is None or not (more or row.aliases):
        return row
    return replace(row, aliases=tuple(alias for alias in dict.fromkeys(row.aliases + more) if alias != row.answer))


def _content_sha256(rows: Sequence[Row], source: Source) -> str:
    """Of the rows that are used, in order, and of what is done with them; not of the file they came from."""
    digest = hashlib.sha256()
    digest.update(json.dumps([source.choices, source.template, getattr(source, "kind", None)]).encode())
    for row in rows:
        digest.update(json.dumps([row.item_id, content(row)], sort_keys=True).encode() + b"\n")
    return digest.hexdigest()
