"""Reads a file of rows (JSONL, JSON, CSV, TSV, Parquet) piece by piece, as batches of records that are not yet checked.

No more than a piece of the file is held as Python objects, whatever its size; only a `.json` file that is one list is
read whole. What is wrong with a file is raised here; what is wrong with one of its rows is for the reader of rows.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pyarrow
import pyarrow.parquet

from rankscope.data.arrow_rows import ARROW_ERRORS, first_words, python_rows
from rankscope.data.question_rows import is_clean
from rankscope.study.problems import InputProblems, Problem, show

MAX_PROBLEMS = 20
"""So many bad rows of one file are shown; the rest are counted."""

BATCH_ROWS = 1024
"""Rows of a table that are made Python objects at a time."""

_CHUNK_BYTES = 2**20
_LONGEST_CELL_CHARACTERS = 100_000_000
_UNREAD_SUFFIXES = {".arrow": "Arrow", ".xlsx": "Excel"} | dict.fromkeys((".gz", ".zip", ".zst"), "compressed")

Batch = list[tuple[int, object]]
"""Records with their numbers in the file, of lines or of rows."""


@dataclass(frozen=True)
class Unreadable:
    """Stands where a record would: what the place holds instead."""

    found: str
    expected: str = "a JSON object"


@dataclass(frozen=True)
class Records:
    """The records of a source. `unit`: what their numbers count (`line` or `row`). `cells`: every value is text, as in
    CSV. `count` is None where it is not known before they are read. `batches` may be called more than once."""

    unit: str
    batches: Callable[[], Iterator[Batch]]
    count: int | None = None
    cells: bool = False


def open_file(path: Path, file: str) -> Records:
    """The records of a file, by its suffix; what has no known one is read as JSONL. `file` is how problems name it.

    Raises InputProblems where the file is not there or is of a kind that is not read; reading raises it for a file that
    turns out to be broken.
    """
    suffix = path.suffix.lower()
    if suffix in _UNREAD_SUFFIXES:
        check_file(path, file, "a readable file of rows")
        expected = "a file of rows (.jsonl, .json, .csv, .tsv, .parquet)"
        raise InputProblems([Problem(file, "format", f"a {_UNREAD_SUFFIXES[suffix]} file", expected)])
    if suffix in (".csv", ".tsv"):
        check_file(path, file, _CSV)
        return Records("line", lambda: _read_csv(path, file), cells=True)
    if suffix in (".parquet", ".pq"):
        return _open_parquet(path, file)
    check_file(path, file, _JSON)
    if (first := _first_line(path, file, _JSON)) is not None and first.lstrip().startswith("["):
        return Records("row", lambda: _read_list(path, file))
    return Records("line", lambda: _read_lines(path, file, first))


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


def read_aliases(path: Path) -> dict[str, tuple[str, ...]]:
    """Other accepted answers by row id; nothing where there is no such file. Raises InputProblems for a bad one."""
    if not path.is_file():
        return {}
    expected = "a JSON object from an id to a list of texts"
    table = _decoded(_read_text(path, str(path), expected))
    if not isinstance(table, dict):
        found = table.found if isinstance(table, Unreadable) else show(table)
        raise InputProblems([Problem(str(path), "file", found, expected)])
    bad = [key for key, texts in table.items() if not _are_texts(texts)]
    if bad:
        problems = [Problem(str(path), key, show(table[key]), "a list of texts") for key in bad]
        raise InputProblems(shortened(problems, len(problems), str(path)))
    return {key: tuple(stripped for text in texts if (stripped := text.strip())) for key, texts in table.items()}


def shortened(problems: Sequence[Problem], count: int, file: str) -> list[Problem]:
    """The first MAX_PROBLEMS of `count` problems, and how many more there are."""
    if count <= MAX_PROBLEMS:
        return list(problems)
    return [*problems[:MAX_PROBLEMS], Problem(file, "later rows", f"{count - MAX_PROBLEMS} more bad rows", "none")]


# ---- JSON -----------------------------------------------------------------------------------------------------------

_JSON = "a readable file of JSON"


def _read_lines(path: Path, file: str, first: str | None) -> Iterator[Batch]:
    """One record for each line that is not blank; the value of a line that is no JSON is Unreadable."""
    if first is None:
        from rankscope.data.row_shapes import SHAPES

        raise InputProblems([Problem(file, "file", "an empty file", f"JSONL, each line with {SHAPES}")])
    broken = path.suffix.lower() == ".json" and isinstance(_decoded(first), Unreadable)
    if broken and isinstance(_decoded(_read_text(path, file, _JSON)), dict):
        found, expected = "one JSON object", "a list of objects, or one object on each line"
        raise InputProblems([Problem(file, "file", found, expected)])
    for start, text in _chunks(path, file, _JSON):
        yield [(number, _decoded(line)) for number, line in enumerate(text.split("\n"), start) if line.strip()]


def _read_list(path: Path, file: str) -> Iterator[Batch]:
    value = _decoded(_read_text(path, file, _JSON))
    if isinstance(value, Unreadable):
        raise InputProblems([Problem(file, "file", value.found, "a list of JSON objects, or JSONL")])
    assert isinstance(value, list)  # it begins with a bracket
    for start in range(0, len(value), BATCH_ROWS):
        yield list(enumerate(value[start : start + BATCH_ROWS], start + 1))


def _chunks(path: Path, file: str, expected: str) -> Iterator[tuple[int, str]]:
    """Whole lines of UTF-8 (a byte order mark taken off), about a megabyte at a time, with the first line's number."""
    held: list[bytes] = []
    number, encoding = 1, "utf-8-sig"
    with path.open("rb") as stream:
        while data := stream.read(_CHUNK_BYTES):
            lines, newline, rest = data.rpartition(b"\n")
            if not newline:
                held.append(data)
                continue
            piece = b"".join([*held, lines, newline])
            held = [rest]
            yield number, _text(piece, encoding, number, file, expected)
            number, encoding = number + piece.count(b"\n"), "utf-8"
    if last := b"".join(held):
        yield number, _text(last, encoding, number, file, expected)


def _text(data: bytes, encoding: str, first_line: int, file: str, expected: str) -> str:
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        line = first_line + error.object.count(b"\n", 0, error.start)
        found = f"byte 0x{error.object[error.start]:02x}, which is no UTF-8 text"
        raise InputProblems([Problem(file, f"line {line}", found, expected)]) from error


def _read_text(path: Path, file: str, expected: str) -> str:
    """A file of UTF-8, with or without a byte order mark. Raises InputProblems for anything else."""
    check_file(path, file, expected)
    return _text(path.read_bytes(), "utf-8-sig", 1, file, expected)


def _first_line(path: Path, file: str, expected: str) -> str | None:
    """The first line that is not blank; None where there is none."""
    lines = (line for _, text in _chunks(path, file, expected) for line in text.split("\n"))
    return next((line for line in lines if line.strip()), None)


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


# ---- tables ---------------------------------------------------------------------------------------------------------

_CSV = "a readable CSV or TSV file"


def _read_csv(path: Path, file: str) -> Iterator[Batch]:
    """One record for each row below the header, every cell text, with the number of the line on which it begins.

    TSV has tabs; CSV has commas, or semicolons where its first line has no comma. A row with too few or too many cells
    is Unreadable. Raises InputProblems for a file without a usable header.
    """
    first = _first_line(path, file, _CSV)
    if first is None:
        raise InputProblems([Problem(file, "file", "an empty file", "a line of column names, then rows")])
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ";" if ";" in first and "," not in first else ","
    with path.open(encoding="utf-8-sig", newline="") as stream, _long_cells():
        rows = _numbered(path, file, stream, delimiter)
        line, header = next(rows)
        _check_header(header, file, line)
        batch: Batch = []
        for line, row in rows:
            wrong = Unreadable(f"{len(row)} cells", f"{len(header)}, one for each column")
            batch.append((line, dict(zip(header, row, strict=True)) if len(row) == len(header) else wrong))
            if len(batch) == BATCH_ROWS:
                yield batch
                batch = []
    yield batch


@contextmanager
def _long_cells() -> Iterator[None]:
    """The csv module refuses cells of more than 131,072 characters, for the whole process."""
    before = csv.field_size_limit(_LONGEST_CELL_CHARACTERS)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _numbered(path: Path, file: str, stream: IO[str], delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Rows that are not blank, each with the line it begins on."""
    line = 1
    reader = csv.reader(stream, delimiter=delimiter, strict=True)
    try:
        for row in reader:
            if row:
                yield line, row
            line = reader.line_num + 1
    except csv.Error as error:
        raise InputProblems([Problem(file, f"line {line}", f"no valid CSV ({error})", "a row of cells")]) from error
    except UnicodeDecodeError:
        for _ in _chunks(path, file, _CSV):  # raises, with the line
            pass
        raise


def _check_header(header: list[str], file: str, line: int) -> None:
    for name in header:
        if not name.strip() or header.count(name) > 1:
            found = f"the column {show(name)} twice" if name.strip() else "a column without a name"
            raise InputProblems([Problem(file, f"line {line}", found, "a line of column names that differ")])


def _open_parquet(path: Path, file: str) -> Records:
    check_file(path, file, "a readable Parquet file")
    expected = "a Parquet file"

    def failed(error: Exception) -> InputProblems:
        found = f"no valid Parquet ({first_words(error)})"
        return InputProblems([Problem(file, "file", found, expected)])

    def batches() -> Iterator[Batch]:
        number = 1
        try:
            with pyarrow.parquet.ParquetFile(path) as opened:
                for batch in opened.iter_batches(BATCH_ROWS):
                    yield list(enumerate(python_rows(batch, file, number), number))
                    number += batch.num_rows
        except ARROW_ERRORS as error:
            raise failed(error) from error

    try:
        return Records("row", batches, pyarrow.parquet.read_metadata(path).num_rows)
    except ARROW_ERRORS as error:
        raise failed(error) from error
