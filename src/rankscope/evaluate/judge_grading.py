"""Grades answers by a judge: each different request is sent once for a study, kept by its content, within a budget."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

from rankscope.evaluate.judge_client import GradingStopped, JudgeClient
from rankscope.study.graders import Asked, Ungraded
from rankscope.study.graders.judge_grader import JudgeGrader

NONSENSE_TRIES = 3
"""How often a request is sent that is answered without a score, before its item cannot be graded."""


class JudgeReplies(Protocol):
    """Where replies are kept and requests are counted; a study folder is one."""

    def read_judged(self, key: str) -> str | None:
        """The reply to the request of this key; None where it was not sent yet."""

    def write_judged(self, key: str, reply: str) -> None:
        """Keep a reply."""

    def take_judge_request(self, suite: str, most: int) -> bool:
        """Count one more request of a suite; False where there were `most` already."""


@dataclass(frozen=True)
class Desk:
    """What grading may use beside the answers. `twice`: they are the base's, of which some are graded again."""

    replies: JudgeReplies
    should_stop: Callable[[], bool] = lambda: False
    twice: bool = False


class JudgedItem(Exception):
    """Which of the answers could not be graded, by its place, and why."""

    def __init__(self, place: int, why: Ungraded) -> None:
        super().__init__(str(why))
        self.place = place


def judged(suite: str, grader: JudgeGrader, asked: Sequence[Asked], desk: Desk, time: int = 0) -> list[float]:
    """The score from 0 to 1 of each answer, in their order. `time`: 1 asks once more what was asked at time 0.

    Raises JudgedItem for the first answer that cannot be graded, and GradingStopped.
    """
    requests = [grader.request(one) for one in asked]
    keys = [request_key(request, time) for request in requests]
    first_of = {key: place for place, key in reversed([*enumerate(keys)])}
    work = _Work(suite, grader, desk)
    with ThreadPoolExecutor(grader.judge.together) as pool:
        waiting = {key: pool.submit(work.score, key, requests[place]) for key, place in first_of.items()}
    failed: list[tuple[int, Ungraded]] = []
    for key, place in first_of.items():
        error = waiting[key].exception()
        if isinstance(error, Ungraded):
            failed.append((place, error))
        elif error is not None and not isinstance(error, _Given):
            raise error
    if failed:
        raise JudgedItem(*min(failed, key=lambda one: one[0]))
    return [waiting[key].result() for key in keys]


def request_key(request: Mapping[str, Any], time: int = 0) -> str:
    """The SHA-256 of a request's content, and of how often it was sent before on purpose."""
    return hashlib.sha256(json.dumps([request, time], sort_keys=True).encode()).hexdigest()


class _Given(Exception):
    """Another answer could not be graded: nothing more is asked."""


class _Work:
    """What the threads share: the endpoint, and whether one of them failed."""

    def __init__(self, suite: str, grader: JudgeGrader, desk: Desk) -> None:
        self._suite, self._grader, self._desk = suite, grader, desk
        self._client = JudgeClient(grader.judge, desk.should_stop)
        self._failed = threading.Event()

    def score(self, key: str, request: Mapping[str, Any]) -> float:
        """What the kept reply says, or a new one."""
        known = self._desk.replies.read_judged(key)
        if known is not None:
            return self._grader.score_in(known)
        try:
            return self._ask(key, request)
        except GradingStopped:
            if self._desk.should_stop():
                raise
            raise _Given from None
        except Ungraded:
            self._failed.set()
            raise

    def _ask(self, key: str, request: Mapping[str, Any]) -> float:
        """Replies without a score are not kept, and asked for again."""
        most = self._grader.judge.max_requests
        for number in range(NONSENSE_TRIES):
            if self._failed.is_set() or self._desk.should_stop():  # what was counted is sent
                raise GradingStopped
            if most is not None and not self._desk.replies.take_judge_request(self._suite, most):
                raise Ungraded(f"is out of budget: {most} requests were made (`max_requests`)")
            reply = self._client.ask(request)
            try:
                score = self._grader.score_in(reply)
            except Ungraded:
                if number == NONSENSE_TRIES - 1:
                    raise
                continue
            self._desk.replies.write_judged(key, reply)
            return score
        raise AssertionError("the last try returns or raises")
