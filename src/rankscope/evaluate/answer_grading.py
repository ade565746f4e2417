"""Grades the written answers of a suite by the grader that its study names; what cannot be graded is never a 0."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from rankscope.evaluate.code_grading import code_grader
from rankscope.evaluate.judge_client import GradingStopped
from rankscope.evaluate.judge_grading import Desk, JudgedItem, judged
from rankscope.records import Item, Suite
from rankscope.study.graders import Asked, Grader, Ungraded, checked_score
from rankscope.study.graders.judge_grader import JudgeGrader
from rankscope.study.graders.python_grader import PythonGrader


class NotGraded(RuntimeError):
    """An answer of a suite could not be graded; says which, and why, in one line."""

    def __init__(self, suite: str, item_id: str, why: str) -> None:
        self._about = (suite, item_id, why)
        super().__init__(" ".join(f"suite {suite}, item {item_id}: the grader {why}".split()))

    def __reduce__(self) -> tuple[type[NotGraded], tuple[str, str, str]]:
        """To be told from one process of a gang to the others."""
        return NotGraded, self._about


@contextmanager
def noting(failures: list[NotGraded]) -> Iterator[None]:
    """Go on after a suite that could not be graded, or was stopped while it was, with the failure in the list."""
    try:
        yield
    except NotGraded as error:
        failures.append(error)
    except GradingStopped:
        pass


@dataclass(frozen=True)
class Grades:
    """The scores from 0 to 1 of a suite's answers, in order; by place those that a judge gave when asked again."""

    scores: list[float]
    again: dict[int, float] = field(default_factory=dict)


def grade_answers(suite: Suite, items: Sequence[Item], texts: Sequence[str], desk: Desk | None = None) -> Grades:
    """The grades of each item's written text. `desk`: where a judge's replies are kept, without which none is asked.

    Raises NotGraded at the first that cannot be graded, and GradingStopped.
    """
    grader = suite.grader
    assert grader is not None
    asked = [Asked(item.item_id, item.prompt_text, text, item.answers) for item, text in zip(items, texts, strict=True)]
    if isinstance(grader, JudgeGrader):
        return _by_judge(suite.name, grader, asked, desk)
    item_id = asked[0].item_id if asked else ""
    try:
        with _calling(grader, suite.grader_code) as score:
            scores = []
            for one in asked:
                item_id = one.item_id
                scores.append(checked_score(score(one)))
            return Grades(scores)
    except Ungraded as error:
        raise NotGraded(suite.name, item_id, str(error)) from error


def _by_judge(suite: str, grader: JudgeGrader, asked: Sequence[Asked], desk: Desk | None) -> Grades:
    """Of the base a seeded sample of the answers is graded once more: how far a judge differs from itself."""
    if desk is None:
        raise NotGraded(suite, asked[0].item_id, "has no study folder to keep a judge's replies in")
    places: Sequence[int] = range(len(asked))
    try:
        scores = judged(suite, grader, asked, desk)
        if not desk.twice:
            return Grades(scores)
        places = _sample([one.item_id for one in asked], grader.judge.asked_twice)
        again = judged(suite, grader, [asked[place] for place in places], desk, 1)
        return Grades(scores, dict(zip(places, again, strict=True)))
    except JudgedItem as error:
        raise NotGraded(suite, asked[places[error.place]].item_id, str(error)) from error


def _sample(item_ids: Sequence[str], count: int) -> list[int]:
    """Places of a seeded sample, the same for the same items."""
    by_hash = sorted(range(len(item_ids)), key=lambda place: hashlib.sha256(item_ids[place].encode()).digest())
    return sorted(by_hash[:count])


@contextmanager
def _calling(grader: Grader, code: str | None) -> Iterator[Callable[[Asked], object]]:
    """What grades one answer: a call in this process, or of a worker for code of the user's own."""
    if isinstance(grader, PythonGrader):
        with code_grader(grader, code or "") as score:
            yield score
        return

    def call(asked: Asked) -> float:
        try:
            return grader.score(asked)
        except Ungraded:
            raise
        except Exception as error:  # a fault of one grader is told with the item that it met
            raise Ungraded(f"raised {type(error).__name__}: {error}") from error

    yield call
