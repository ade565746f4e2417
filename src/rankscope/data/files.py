"""A JSONL file -> its records; what is wrong with a file is said here, what is wrong with a row in formats.py."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from rankscope.config.problems import InputProblems, Problem, show
from rankscope.data.formats import SHAPES, is_clean

MAX_PROBLEMS = 20
"""So many bad rows of one file are shown; the rest are counted."""

_UNBUILT_SUFFIXES = {".csv": "CSV", ".tsv": "TSV", ".parquet": "Parquet", ".arrow": "Arrow"}


@dataclass(frozen=True)
class Unreadable:
    """Stands where a record would: what the line holds instead of JSON."""

    found: str


@dataclass(frozen=True)
class Record:
    """What stands in one place of a source, not yet checked."""

    place: str
    value: object


def read_records(path: Path, file: str) -> list[Record]:
    """One record for each line that is not blank; the value of a line that is no JSON is Unreadable."""
    if path.suffix.lower() in _UNBUILT_SUFFIXES:
        found = f"a {_UNBUILT_SUFFIXES[path.suffix.lower()]} file, which is not built yet"
        raise InputProblems([Problem(file, "format", found, "JSONL: one JSON object on each line")])
    text = _read_text(path, file)
    if not text.strip():
        raise InputProblems([Problem(file, "file", "an empty file", f"JSONL, each line with {SHAPES}")])
    if text.lstrip()[0] == "[":
        raise InputProblems([Problem(file, "line 1", "a JSON list", "JSONL: one JSON object on each line, no list")])
    lines = ((number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip())
    return [Record(f"line {number}", _decoded(line)) for number, line in lines]


def read_aliases(path: Path) -> dict[str, tuple[str, ...]]:
    """Other accepted answers by row id; nothing where there is no such file. Raises InputProblems for a bad one."""
    if not path.is_file():
        return {}
    expected = "a JSON object from an id to a list of texts"
    table = _decoded(_read_text(path, str(path)))
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


def _decoded(line: str) -> object:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        return Unreadable(f"no valid JSON ({error.msg} at character {error.colno})")
    except RecursionError:
        return Unreadable("JSON that is nested too deep")
    except ValueError:  # Python refuses to convert integers of thousands of digits
        return Unreadable("JSON with a number that is too long")


def _read_text(path: Path, file: str) -> str:
    expected = "a readable JSONL file"
    try:
        if path.is_dir():
            raise InputProblems([Problem(file, "file", "a folder", "a JSONL file")])
        if path.exists() and not path.is_file():
            raise InputProblems([Problem(file, "file", "something that is no regular file", expected)])
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise InputProblems([Problem(file, "file", f"nothing at {path}", expected)]) from error
    except OSError as error:
        raise InputProblems([Problem(file, "file", error.strerror or str(error), expected)]) from error
    except ValueError as error:
        raise InputProblems([Problem(file, "file", "a path that no system allows", expected)]) from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        found = f"byte 0x{data[error.start]:02x}, which is no UTF-8 text"
        raise InputProblems([Problem(file, f"line {line}", found, expected)]) from error


def _are_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) and is_clean(text) for text in value)
