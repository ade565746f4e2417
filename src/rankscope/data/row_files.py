"""A file of JSON -> its records; what is wrong with a file is said here, what is wrong with a row in formats.py."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow
import pyarrow.parquet

from rankscope.data.row_shapes import SHAPES, is_clean
from rankscope.study.problems import InputProblems, Problem, show

MAX_PROBLEMS = 20
"""So many bad rows of one file are shown; the rest are counted."""


@dataclass(frozen=True)
class Unreadable:
    """Stands where a record would: what the place holds instead."""

    found: str
    expected: str = "a JSON object"


@dataclass(frozen=True)
class Record:
    """What stands in one place of a source, not yet checked. `cells`: every value is text, as in CSV."""

    place: str
    value: object
    cells: bool = False


def read_json(path: Path, file: str) -> list[Record]:
    """JSONL: one record for each line that is not blank; the value of a line that is no JSON is Unreadable. JSON: one
    record for each element of the list that the file is. Raises InputProblems for a file that is neither."""
    text = read_text(path, file, "a readable file of JSON")
    if not text.strip():
        raise InputProblems([Problem(file, "file", "an empty file", f"JSONL, each line with {SHAPES}")])
    if text.lstrip()[0] == "[":
        return _elements(text, file)
    lines = [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
    if path.suffix.lower() == ".json" and len(lines) > 1 and isinstance(_decoded(text), dict):
        found, expected = "one JSON object", "a list of objects, or one object on each line"
        raise InputProblems([Problem(file, "file", found, expected)])
    return [Record(f"line {number}", _decoded(line)) for number, line in lines]


def read_aliases(path: Path) -> dict[str, tuple[str, ...]]:
    """Other accepted answers by row id; nothing where there is no such file. Raises InputProblems for a bad one."""
    if not path.is_file():
        return {}
    expected = "a JSON object from an id to a list of texts"
    table = _decoded(read_text(path, str(path), expected))
    if not isinstance(table, dict):
        found = table.found if isinstance(table, Unreadable) else show(table)
        raise InputProblems([Problem(str(path), "file", found, expected)])
    bad = [key for key, texts in table.items() if not _are_texts(texts)]
    if bad:
        problems = [Problem(str(path), key, show(table[key]), "a list of texts") for key in bad]
        raise InputProblems(shortened(problems, str(path)))
    return {key: tuple(stripped for text in texts if (stripped := text.strip())) for key, texts in table.items()}


def shortened(problems: list[Problem], file: str) -> list[Problem]:
    """The first MAX_PROBLEMS, and how many more there are."""
    more = len(problems) - MAX_PROBLEMS
    if more <= 0:
        return problems
    return [*problems[:MAX_PROBLEMS], Problem(file, "later rows", f"{more} more bad rows", "none")]


def check_file(path: Path, file: str, expected: str) -> None:
    """Raises InputProblems where no regular file that may be read is."""
    try:
        if path.is_dir():
            raise InputProblems([Problem(file, "file", "a folder", expected)])
        if path.exists() and not path.is_file():
            raise InputProblems([Problem(file, "file", "something that is no regular file", expected)])
        with path.open("rb"):
            pass
    except FileNotFoundError as error:
        raise InputProblems([Problem(file, "file", f"nothing at {path}", expected)]) from error
    except OSError as error:
        raise InputProblems([Problem(file, "file", error.strerror or str(error), expected)]) from error
    except ValueError as error:
        raise InputProblems([Problem(file, "file", "a path that no system allows", expected)]) from error


def read_text(path: Path, file: str, expected: str) -> str:
    """A file of UTF-8, with or without a byte order mark. Raises InputProblems for anything else."""
    check_file(path, file, expected)
    data = path.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        found = f"byte 0x{data[error.start]:02x}, which is no UTF-8 text"
        raise InputProblems([Problem(file, f"line {line}", found, expected)]) from error


def _elements(text: str, file: str) -> list[Record]:
    value = _decoded(text)
    if isinstance(value, Unreadable):
        raise InputProblems([Problem(file, "file", value.found, "a list of JSON objects, or JSONL")])
    assert isinstance(value, list)  # it begins with a bracket
    return [Record(f"row {number}", element) for number, element in enumerate(value, start=1)]


def _decoded(line: str) -> object:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        at = f"line {error.lineno}, character {error.colno}" if error.lineno > 1 else f"character {error.colno}"
        return Unreadable(f"no valid JSON ({error.msg} at {at})")
    except RecursionError:
        return Unreadable("JSON that is nested too deep")
    except ValueError:  # Python refuses to convert integers of thousands of digits
        return Unreadable("JSON with a number that is too long")


def _are_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) and is_clean(text) for text in value)


_LONGEST_CELL_CHARACTERS = 100_000_000


def read_csv(path: Path, file: str) -> list[Record]:
    """One record for each row below the header, every cell text. The place is the line on which the row begins.

    TSV has tabs; CSV has commas, or semicolons where its first line has no comma. A row with too few or too many cells
    is Unreadable. Raises InputProblems for a file without a usable header.
    """
    text = read_text(path, file, "a readable CSV or TSV file")
    if not text.strip():
        raise InputProblems([Problem(file, "file", "an empty file", "a line of column names, then rows")])
    first = text.lstrip().split("\n", 1)[0]
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ";" if ";" in first and "," not in first else ","
    records: list[Record] = []
    with _long_cells():
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        rows = _numbered(reader, file)
        line, header = next(rows)
        _check_header(header, file, line)
        for line, row in rows:
            if len(row) == len(header):
                records.append(Record(f"line {line}", dict(zip(header, row, strict=True)), cells=True))
            else:
                expected = f"{len(header)}, one for each column"
                records.append(Record(f"line {line}", Unreadable(f"{len(row)} cells", expected)))
    return records


def read_parquet(path: Path, file: str) -> list[Record]:
    """One record for each row, counted from 1. Raises InputProblems for a file that is no Parquet."""
    check_file(path, file, "a readable Parquet file")
    try:
        rows = pyarrow.parquet.read_table(path).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        found = f"no valid Parquet ({str(error).splitlines()[0]})"
        raise InputProblems([Problem(file, "file", found, "a Parquet file")]) from error
    return [Record(f"row {number}", row) for number, row in enumerate(rows, start=1)]


@contextmanager
def _long_cells() -> Iterator[None]:
    """The csv module refuses cells of more than 131,072 characters, for the whole process."""
    before = csv.field_size_limit(_LONGEST_CELL_CHARACTERS)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _numbered(reader: Iterator[list[str]], file: str) -> Iterator[tuple[int, list[str]]]:
    """Rows that are not blank, each with the line it begins on."""
    line = 1
    try:
        for row in reader:
            if row:
                yield line, row
            line = int(reader.line_num) + 1  # type: ignore[attr-defined]
    except csv.Error as error:
        raise InputProblems([Problem(file, f"line {line}", f"no valid CSV ({error})", "a row of cells")]) from error


def _check_header(header: list[str], file: str, line: int) -> None:
    for name in header:
        if not name.strip() or header.count(name) > 1:
            found = f"the column {show(name)} twice" if name.strip() else "a column without a name"
            raise InputProblems([Problem(file, f"line {line}", found, "a line of column names that differ")])
