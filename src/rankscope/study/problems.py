"""What is wrong with an input: one line for each problem, the exception that carries them, and the places they name."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

Place = tuple[str | int, ...]
"""Where a value stands: keys and list positions from the top."""

_SHOWN_CHARACTERS = 60
_SHOWN_DEPTH = 4


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with an input: where it stands, what was found, what was expected."""

    file: str
    place: str
    found: str
    expected: str

    def __str__(self) -> str:
        where = f"{self.file}: {self.place}" if self.place else self.file
        return _one_line(f"{where}: found {self.found}, expected {self.expected}")


class InputProblems(Exception):
    """The input is wrong. Holds every problem found; the command line prints a line for each and exits with 2."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = list(problems)


def show(value: object, depth: int = 0) -> str:
    """A value as it may stand in a message: as in YAML, short, on one line. `depth`: of lists around it."""
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
    if isinstance(value, list | tuple):
        if not value:
            return "an empty list"
        inner = (show(part, depth + 1) for part in value[:20]) if depth < _SHOWN_DEPTH else ("...",)
        return f"[{_short(', '.join(inner))}]"
    return _short(str(value))


def nearest(text: str, known: Sequence[str]) -> str | None:
    """The nearest of the known words; None where none is near."""
    return next(iter(get_close_matches(text, known, n=1)), None)


def did_you_mean(text: str, known: Sequence[str]) -> str:
    """`; did you mean ...?` with the nearest of the known words; empty where none is near."""
    near = nearest(text, known)
    return "" if near is None else f"; did you mean `{near}`?"


def _one_line(text: str) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _short(text: str) -> str:
    text = _one_line(text[:1000])
    return text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 3] + "..."


@dataclass
class Document:
    """One parsed YAML file: its values, where they stand, and what was wrong with its form.

    `value` holds mappings with text as keys, lists, texts, numbers, booleans and None.
    """

    file: str
    value: Any = None
    lines: dict[Place, int] = field(default_factory=dict)
    """The line of every key and list item."""
    overridden: set[Place] = field(default_factory=set)
    """What `--set` put there, which has no line."""
    refused: set[Place] = field(default_factory=set)
    """Values that cannot be used at all and were reported: what else is wrong inside them needs no line."""
    problems: list[Problem] = field(default_factory=list)

    def problem(self, place: Place, found: str, expected: str) -> Problem:
        """A problem with the value at `place`, named by file, line and dotted path."""
        for end in range(len(place), -1, -1):
            if place[:end] in self.overridden:
                return Problem("--set", dotted(place), found, expected)
        line = next((self.lines[place[:end]] for end in range(len(place), 0, -1) if place[:end] in self.lines), None)
        name = dotted(place)
        return Problem(self.file, f"line {line}, {name}" if line and name else name, found, expected)

    def refuse(self, place: Place, found: str, expected: str) -> Problem:
        """A problem with a value that is then of no more use."""
        self.refused.add(place)
        return self.problem(place, found, expected)

    def get(self, *place: str | int) -> Any:
        """The value at `place`, None where there is none."""
        value = self.value
        for key in place:
            if not holds(value, key):
                return None
            value = value[key]
        return value


def holds(value: Any, key: str | int) -> bool:
    """Whether a parsed value is a mapping with this key or a list with this position."""
    if isinstance(value, dict):
        return key in value
    return isinstance(value, list) and isinstance(key, int) and key < len(value)


def dotted(place: Place) -> str:
    """`("arms", "lora", "ranks", 1)` as `arms.lora.ranks[1]`."""
    text = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in place)
    return " ".join(text.removeprefix(".").split())
