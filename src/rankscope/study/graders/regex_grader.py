"""Grades by a pattern: what it finds in an answer is compared with the accepted answers, or that it finds something."""

from __future__ import annotations

from functools import cache
from typing import Any, ClassVar

from pydantic import Field, field_validator

from rankscope.study.graders.answer_text import exact_match
from rankscope.study.graders.grader import Asked, Grader, Ungraded, mismatch

SECONDS = 2.0
"""What one answer may take: a pattern that goes back and forth could take for ever."""


class RegexGrader(Grader):
    """By a regular expression, in the syntax of the package `regex` (that of Python's `re`, and more).

    With a group the last match's first group that took part is the answer, compared by exact match after normalisation;
    without one the score is 1 where the pattern is found. Nothing found is 0.
    """

    name: ClassVar[str] = "regex"
    title: ClassVar[str] = "a regular expression"

    regex: str = Field(
        min_length=1,
        description="a regular expression. With a group, what the last match has there is compared with the answer.",
    )

    @field_validator("regex")
    @classmethod
    def _compiles(cls, pattern: str) -> str:
        import regex

        try:
            _compiled(pattern)
        except (regex.error, OverflowError, RecursionError) as error:
            raise mismatch(f"a pattern with an error: {error}", "a regular expression") from error
        return pattern

    def score(self, asked: Asked) -> float:
        pattern = _compiled(self.regex)
        try:
            matches = list(pattern.finditer(asked.answer, timeout=SECONDS))
        except TimeoutError as error:
            raise Ungraded(f"took longer than {SECONDS:g} s over the pattern") from error
        if not matches:
            return 0.0
        if not pattern.groups:
            return 1.0
        taken = next((text for text in matches[-1].groups() if text is not None), "")
        return float(exact_match(taken, asked.references))


@cache
def _compiled(pattern: str) -> Any:
    """The pattern by `regex`, whose search takes a timeout. Raises regex.error."""
    import regex  # imported where it is used: reading a study stays quick

    return regex.compile(pattern)


GRADERS = (RegexGrader,)
