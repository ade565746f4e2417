"""The types' complaints in plain words, at the places where the user wrote what they are about."""

from __future__ import annotations

import json

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from rankscope.study.problems import Problem, show
from rankscope.study.setting_descriptions import NAME, WORDS, pattern
from rankscope.study.short_forms import unknown_key
from rankscope.study.study import Study
from rankscope.study.yaml_lines import Document, Path, holds


def to_study(document: Document) -> tuple[Study | None, list[Problem]]:
    """The typed study, or every problem with types, ranges and unknown keys. Strict: "8" is no number."""
    try:
        return Study.model_validate_json(json.dumps(document.value), strict=True), []
    except ValidationError as error:
        found: dict[Path, Problem] = {}
        for details in error.errors(include_url=False):
            path = _place(document, details)
            if path not in found:  # a union fails once for each of its branches
                found[path] = _problem(document, details, path)
        deepest = [path for path in found if not any(_is_inside(other, path) for other in found)]
        return None, [found[path] for path in deepest]


def _is_inside(inner: Path, outer: Path) -> bool:
    return len(inner) > len(outer) and inner[: len(outer)] == outer


def _place(document: Document, details: ErrorDetails) -> Path:
    """The path in the file: without the names of types that a union puts in between."""
    loc = list(details["loc"])
    if loc[:1] == ["arms"] and len(loc) > 2 and loc[2] != "[key]":
        del loc[2]  # the method, by which the arm's type was chosen
    path: Path = ()
    value = document.value
    for i, key in enumerate(loc):
        if holds(value, key):
            value = value[key]
        elif not (details["type"] == "missing" and i == len(loc) - 1):
            continue
        path = (*path, key)
    return path


def _problem(document: Document, details: ErrorDetails, path: Path) -> Problem:
    value = document.get(*path)
    if details["type"] == "extra_forbidden":
        return unknown_key(document, path)
    if details["loc"] and details["loc"][-1] == "[key]":
        return document.problem(path, f"the name {show(path[-1])}", NAME)
    key = pattern(path)
    if key in ("train.*", "suites.*") and details["type"] == "value_error":
        names = ("path", "hub", "world", "harness")[: 4 if key == "suites.*" else 3]
        given = [f"`{name}`" for name in names if value.get(name) is not None]
        *most, last = (f"`{name}`" for name in names)
        expected = f"exactly one of {', '.join(most)} and {last}"
        return document.problem(path, " and ".join(given) or "none of them", expected)
    shown = show(value)
    if key == "model":
        shown = "an empty list" if value == [] else show(value)
    return document.problem(path, shown, WORDS.get(key, WORDS[""]))
