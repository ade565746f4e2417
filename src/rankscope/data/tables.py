"""CSV, TSV and Parquet files -> their records."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow
import pyarrow.parquet

from rankscope.config.problems import InputProblems, Problem, show
from rankscope.data.files import Record, Unreadable, check_file, read_text

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
