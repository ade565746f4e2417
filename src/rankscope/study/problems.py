"""What is wrong with an input, in one line each, and the exception that carries all of it to the command line."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

_SHOWN_CHARACTERS = 60


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with an input: where it stands, what was found, what was expected."""

    file: str
    place: str
    found: str
    expected: str

    def __str__(self) -> str:
        where = f"{self.file}: {self.place}" if self.place else self.file
        return " ".join(f"{where}: found {self.found}, expected {self.expected}".split())


class InputProblems(Exception):
    """The input is wrong. Holds every problem found; the command line prints a line for each and exits with 2."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = list(problems)


def show(value: object) -> str:
    """A value as it may stand in a message: as in YAML, short, on one line."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        if math.isnan(value):
            return "NaN"
        return f"{'-' if value < 0 else ''}infinity" if math.isinf(value) else f"{value:g}"
    if isinstance(value, int):
        return str(value) if abs(value) < 10**20 else "a number of more than 20 digits"
    if isinstance(value, str):
        return f'"{_short(value)}"'
    if isinstance(value, dict):
        return f"a mapping with {_short(', '.join(map(str, value)))}" if value else "an empty mapping"
    if isinstance(value, list):
        return f"[{_short(', '.join(map(show, value[:20])))}]" if value else "an empty list"
    return _short(str(value))


def _short(text: str) -> str:
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 3] + "..."
