"""What a grader is: the settings that a suite's `grade` has, and the score from 0 to 1 that it gives one answer.

A grader is a class in a file `NAME_grader.py` of this folder, whose `GRADERS` lists it; nothing else names it. One that
needs no settings is asked for by its name (`grade: f1`), any other by a mapping whose first key is its name and a field
of the class (`grade: {regex: "..."}`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic_core import PydanticCustomError

from rankscope.study.methods.method_types import Frozen


@dataclass(frozen=True)
class Asked:
    """An answer to be graded: what the model was asked, what it wrote, and the accepted answers, the first one first.

    `prompt` is the whole text before the answer, as the model had it.
    """

    item_id: str
    prompt: str
    answer: str
    references: tuple[str, ...]


class Ungraded(Exception):
    """An answer that could not be graded: why, in words that follow the name of suite and item."""


class Grader(Frozen):
    """The settings of one way of grading.

    `title` ends the sentence "answers are graded by ...". `version` is raised where the same answer gets another score
    than before, so that it is graded anew. `one_line`: an answer ends at its first line break unless an accepted answer
    has one; otherwise it ends where the model ends it. `driver`: who calls `score`: this process, a worker process with
    limits (code of the user's), or an endpoint that is asked.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    version: ClassVar[int] = 1
    one_line: ClassVar[bool] = False
    driver: ClassVar[Literal["call", "worker", "endpoint"]] = "call"

    @property
    def extra_requests(self) -> int:
        """Requests to an endpoint beside one for each answer."""
        return 0

    @property
    def most_requests(self) -> int | None:
        """The most requests of a study to an endpoint; None for no budget."""
        return None

    def score(self, asked: Asked) -> float:
        """From 0 to 1. Raises Ungraded."""
        raise NotImplementedError

    def refuse_reference(self, reference: str) -> tuple[str, str] | None:
        """(what was found, what was expected) of an accepted answer that nothing can be graded by."""
        return None

    def deciding(self) -> dict[str, Any]:
        """The settings that decide scores: what a suite's content hash is made of, beside name and version."""
        return self.model_dump(mode="json")

    def fingerprint(self) -> dict[str, Any]:
        """All that decides scores, but for a file's content."""
        return {"grader": self.name, "version": self.version, **self.deciding()}

    def at(self, folder: Path) -> Grader:
        """The same with paths that no longer are relative to the study file's `folder`."""
        return self

    def code_file(self) -> str | None:
        """The file with the user's own code that it runs, relative to the study file; None where there is none."""
        return None

    def problem(self, folder: Path) -> tuple[str, str] | None:
        """(what was found, what was expected) where a file that it needs is not there or not what it must be."""
        return None


def mismatch(found: str, expected: str) -> PydanticCustomError:
    """What the validator of a setting raises to say itself what it found and what it expected."""
    return PydanticCustomError("mismatch", "found {found}, expected {expected}", {"found": found, "expected": expected})


def checked_score(value: object) -> float:
    """A score as a number from 0 to 1. Raises Ungraded for anything else, with what it was."""
    if not isinstance(value, Real):
        raise Ungraded(f"gave {_shown(value)} for a score, expected a number from 0 to 1")
    number = float(value)
    if math.isnan(number) or not 0 <= number <= 1:
        raise Ungraded(f"gave {'NaN' if math.isnan(number) else f'{number:g}'} for a score, expected 0 to 1")
    return number


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
