"""Grading by patterns: groups, no groups, what cannot be compiled, and patterns that never end."""

from __future__ import annotations

import time

import pytest
from pydantic import ValidationError

from rankscope.study.graders import Asked, Ungraded, regex_grader
from rankscope.study.graders.regex_grader import RegexGrader


def grade(pattern: str, answer: str, reference: str = "Paris") -> float:
    return RegexGrader(regex=pattern).score(Asked("i", "Q?", answer, (reference,)))


@pytest.mark.parametrize(
    ("pattern", "answer", "wanted"),
    [
        (r"answer is (\w+)", "The answer is Paris.", 1),
        (r"answer is (\w+)", "The answer is Rome. No: the answer is paris!", 1),
        (r"answer is (\w+)", "The answer is Paris. No: the answer is Rome.", 0),
        (r"answer is (\w+)", "Paris", 0),
        (r"(?:A: (\w+)|B: (\w+))", "B: Paris", 1),
        (r"(?i)\bparis\b", "in PARIS", 1),
        (r"^\d{4}-\d{2}$", "2026-11", 1),
        (r"^\d{4}-\d{2}$", "Nov 2026", 0),
    ],
)
def test_a_group_is_the_answer_and_a_pattern_alone_must_be_found(pattern: str, answer: str, wanted: int) -> None:
    assert grade(pattern, answer) == wanted


def test_a_pattern_that_goes_back_and_forth_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regex_grader, "SECONDS", 0.2)
    start = time.monotonic()
    with pytest.raises(Ungraded, match=r"took longer than 0.2 s"):
        grade(r"^(a|aa)+$", "a" * 60 + "c")
    assert time.monotonic() - start < 5


def test_what_is_no_pattern_is_refused() -> None:
    with pytest.raises(ValidationError, match="a pattern with an error"):
        RegexGrader(regex="(a")
