"""A study's column map: which field is read from which column of a source."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from rankscope.config.problems import InputProblems, Problem, show
from rankscope.data.files import Record
from rankscope.data.formats import FIELDS

Columns = Mapping[str, str | list[str]]

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
        if isinstance(value, list) and key != "choices"
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
