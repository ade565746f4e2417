"""The ways of grading written answers: each is a class in a file `*_grader.py` of this folder, found by listing it."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from functools import reduce
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Discriminator, Tag, TypeAdapter, ValidationError

from rankscope.study.file_listing import offered_by_files
from rankscope.study.graders.grader import Asked, Grader, Ungraded, checked_score

__all__ = ["GRADERS", "Asked", "GradeEntry", "Grader", "Ungraded", "checked_score", "grader_of", "read_grade"]


GRADERS: Mapping[str, type[Grader]] = MappingProxyType(
    offered_by_files(__name__, __path__, ending="_grader", attribute="GRADERS", what="graders")
)
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
