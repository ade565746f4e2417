"""How many answers are scored so far, told to whoever listens: a suite of thousands takes minutes on a CPU.

An answer is a choice or a text whose log-likelihood was taken, or one that was written to its end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

from rankscope.records import Item

_LISTENER: ContextVar[Callable[[int], None] | None] = ContextVar("answers_scored", default=None)


@contextmanager
def counting_answers(listener: Callable[[int], None]) -> Iterator[None]:
    """Inside, `listener` is called with the number of answers that each batch has added."""
    token = _LISTENER.set(listener)
    try:
        yield
    finally:
        _LISTENER.reset(token)


def count_answers(added: int) -> None:
    """Say that so many more are scored."""
    listener = _LISTENER.get()
    if listener is not None and added:
        listener(added)


def answers_asked(items: Sequence[Item]) -> int:
    """How many answers these items ask of a model."""
    parts = [part for item in items for part in (item.parts or (item,))]
    return sum(len(part.choices_ids) or 1 for part in parts)


class AnswerProgress:
    """Adds up answers, and tells a listener what they are of, how many are done, and how many there are."""

    def __init__(self, listener: Callable[[str, int, int], None] | None, total: int) -> None:
        self.what = ""
        self._listener, self._done, self._total = listener, 0, total

    def add(self, answers: int) -> None:
        self._done = min(self._done + answers, self._total)
        if self._listener is not None:
            self._listener(self.what, self._done, self._total)
