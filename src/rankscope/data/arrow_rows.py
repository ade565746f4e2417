"""Arrow data (of Parquet files and hub data sets) as Python's rows, and what is wrong with data that is damaged."""

from __future__ import annotations

import pyarrow

from rankscope.study.problems import InputProblems, Problem

ARROW_ERRORS = (pyarrow.ArrowException, OSError, ValueError, OverflowError, MemoryError, KeyError, TypeError)
"""What reading a damaged Parquet file raises: its own errors, and those of Python's values."""


def python_rows(batch: pyarrow.RecordBatch | pyarrow.Table, file: str, first: int) -> list[dict[str, object]]:
    """The rows of Arrow data as Python's, of which the first is row `first` of the file. Raises InputProblems for a
    value that Python has no type for (a time outside the years 1 to 9999, text that is no UTF-8)."""
    try:
        return list(batch.to_pylist())
    except (ValueError, OverflowError, pyarrow.ArrowException):
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            for i in range(len(column)):
                try:
                    column[i].as_py()
                except (ValueError, OverflowError, pyarrow.ArrowException) as error:
                    found = f"a value of type {column.type} that cannot be read ({first_words(error)})"
                    place = f"row {first + i}: {name}"
                    raise InputProblems([Problem(file, place, found, "a value in its range, or text")]) from error
        raise


def first_words(error: Exception) -> str:
    """The first line of what an error says, cut to 100 characters."""
    return (str(error).splitlines() or [type(error).__name__])[0][:100]
