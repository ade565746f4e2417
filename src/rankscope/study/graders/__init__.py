"""The ways of grading written answers: each is a class in a file `*_grader.py` of this folder, found by listing it."""

from __future__ import annotations

import importlib
import operator
import pkgutil
from functools import reduce
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Discriminator, Tag, TypeAdapter, ValidationError

from rankscope.study.graders.grader import Asked, Grader, Ungraded, checked_score

__all__ = ["GRADERS", "Asked", "GradeEntry", "Grader", "Ungraded", "checked_score", "grader_of", "read_grade"]


def _find() -> dict[str, type[Grader]]:
    """Every grader, file by file in the order of their names. Raises ValueError where two have one name."""
    found: dict[str, type[Grader]] = {}
    for module in sorted(one.name for one in pkgutil.iter_modules(__path__)):
        if module.endswith("_grader"):
            for grader in importlib.import_module(f"{__name__}.{module}").GRADERS:
                if grader.name in found:
                    raise ValueError(f"two graders are called {grader.name}")
                found[grader.name] = grader
    return found


GRADERS = MappingProxyType(_find())
"""Every grader by its name."""

_BY_NAME = tuple(sorted(name for name, grader in GRADERS.items() if not grader.model_fields))
"""Those without settings, which a study asks for by their name alone."""
_WITH_SETTINGS = {name: grader for name, grader in GRADERS.items() if grader.model_fields}


def _which(entry: Any) -> str | None:
    """How an entry is told apart: by being a text, or by the key that only one grader has."""
    if isinstance(entry, Grader):
        return entry.name
    if isinstance(entry, dict):
        return next((name for name in _WITH_SETTINGS if name in entry), None)
    return "name" if isinstance(entry, str) else None


if TYPE_CHECKING:
    GradeEntry = str | Grader
else:
    GradeEntry = Annotated[
        reduce(
            operator.or_,
            (Annotated[grader, Tag(name)] for name, grader in _WITH_SETTINGS.items()),
            Annotated[Literal[_BY_NAME], Tag("name")],
        ),
        Discriminator(_which),
    ]
"""What a suite's `grade` takes: a name, or the settings of one grader."""


def grader_of(entry: GradeEntry | None) -> Grader | None:
    """The grader that an entry asks for; None where there is no entry."""
    return GRADERS[entry]() if isinstance(entry, str) else entry


def read_grade(entry: object) -> Grader | None:
    """The grader of an entry as it is written in a file; None where it is not sound."""
    try:
        return grader_of(TypeAdapter(GradeEntry).validate_python(entry, strict=True))
    except ValidationError:
        return None
