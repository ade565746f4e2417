"""Grades the written answers of a suite by the grader that its study names; what cannot be graded is never a 0."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rankscope.evaluate.code_grading import code_grader
from rankscope.records import Item, Suite
from rankscope.study.graders import Asked, Grader, Ungraded, checked_score
from rankscope.study.graders.python_grader import PythonGrader


class NotGraded(RuntimeError):
    """An answer of a suite could not be graded; says which, and why, in one line."""

    def __init__(self, suite: str, item_id: str, why: str) -> None:
        super().__init__(" ".join(f"suite {suite}, item {item_id}: the grader {why}".split()))


def grade_answers(suite: Suite, items: Sequence[Item], texts: Sequence[str]) -> list[float]:
    """The score from 0 to 1 of each item's written text, in the items' order. Raises NotGraded at the first that cannot
    be graded."""
    grader = suite.grader
    assert grader is not None
    asked = [Asked(item.item_id, item.prompt_text, text, item.answers) for item, text in zip(items, texts, strict=True)]
    item_id = asked[0].item_id if asked else ""
    try:
        with _calling(grader, suite.grader_code) as score:
            scores = []
            for one in asked:
                item_id = one.item_id
                scores.append(checked_score(score(one)))
            return scores
    except Ungraded as error:
        raise NotGraded(suite.name, item_id, str(error)) from error


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
