"""Grades answers that must be JSON, such as calls of tools and extracted fields."""

from __future__ import annotations

import json
import re
from typing import Any, ClassVar

from rankscope.study.graders.grader import Asked, Grader

_FENCED = re.compile(r"\A```[A-Za-z]*\n(.*?)\n?```\Z", re.DOTALL)
"""A block of code in Markdown that is the whole answer, as many models write JSON."""


class JsonGrader(Grader):
    """1 where the answer is valid JSON and equal at the keys of an accepted answer, else 0.

    Of two objects only the accepted one's keys count, at every depth; lists, texts and numbers are equal or not (1 and
    1.0 are, true and 1 are not). A block of code around the whole answer is no part of it.
    """

    name: ClassVar[str] = "json"
    title: ClassVar[str] = "their JSON"

    def score(self, asked: Asked) -> float:
        text = asked.answer.strip()
        fenced = _FENCED.match(text)
        found = _parsed(fenced[1] if fenced else text)
        if found is _INVALID:
            return 0.0
        return float(any(_agrees(found, _parsed(reference)) for reference in asked.references))

    def refuse_reference(self, reference: str) -> tuple[str, str] | None:
        return None if _parsed(reference) is not _INVALID else ("an answer that is no JSON", "JSON to compare with")


_INVALID = object()


def _parsed(text: str) -> Any:
    """The value of a JSON text; `_INVALID` where it is none (NaN and Infinity are none)."""
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return _INVALID


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not in JSON")


def _agrees(found: Any, wanted: Any) -> bool:
    if isinstance(wanted, dict):
        return isinstance(found, dict) and all(
            key in found and _agrees(found[key], value) for key, value in wanted.items()
        )
    if isinstance(wanted, list):
        return (
            isinstance(found, list)
            and len(found) == len(wanted)
            and all(_agrees(one, other) for one, other in zip(found, wanted, strict=True))
        )
    return isinstance(found, bool) == isinstance(wanted, bool) and bool(found == wanted)


GRADERS = (JsonGrader,)
