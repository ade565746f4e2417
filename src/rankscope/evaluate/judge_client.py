"""Asks an endpoint of OpenAI's form: at its pace, again where it is busy or fails, and never with the key in a message.

The API key is read from the environment when it is needed; no record, message or log has it.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.message import Message
from email.utils import parsedate_to_datetime
from typing import IO, Any
from urllib.parse import urlsplit

from rankscope.study.graders import Ungraded
from rankscope.study.graders.judge_grader import JudgeSettings

FIRST_WAIT_SECONDS = 1.0
"""Before the second try; it doubles for each further one."""
LONGEST_WAIT_SECONDS = 120.0
"""Of one wait, where the endpoint does not ask for a longer one."""
LONGEST_RETRY_AFTER_SECONDS = 900.0
"""An endpoint that asks for more is given up: a budget of an hour or a day is spent."""

_AGAIN = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 520, 522, 524, 529})
_MOST_BYTES = 1 << 22
_SLICE_SECONDS = 0.1
_LOCAL = ("localhost", "127.0.0.1", "::1")


class GradingStopped(Exception):
    """A signal came while a judge was asked; what it replied so far is kept."""


class JudgeClient:
    """One endpoint as one process asks it, from several threads."""

    def __init__(self, judge: JudgeSettings, should_stop: Callable[[], bool]) -> None:
        self._judge, self._should_stop = judge, should_stop
        self._lock = threading.Lock()
        self._next = 0.0  # when the next request may be sent, by time.monotonic()
        self._key = os.environ.get(judge.api_key_env) if judge.api_key_env is not None else None
        handlers: list[urllib.request.BaseHandler] = [_NoRedirects()]
        if urlsplit(judge.url).hostname in _LOCAL:
            handlers.append(urllib.request.ProxyHandler({}))
        self._opener = urllib.request.build_opener(*handlers)

    def ask(self, request: Mapping[str, Any]) -> str:
        """The text that the model replies. Raises Ungraded where there is none after all tries, and GradingStopped."""
        if self._judge.api_key_env is not None and not self._key:
            raise Ungraded(f"needs the environment variable {self._judge.api_key_env}, which is not set")
        why = ""
        for number in range(self._judge.retries + 1):
            self._wait_for_turn()
            status, why, headers, body = self._send(request)
            if status == 200:
                return _content(body)
            if status is not None and status not in _AGAIN:
                hint = f" (is the key in {self._judge.api_key_env} right?)" if status in (401, 403) else ""
                raise Ungraded(f"was refused by {self._host}: {why}{hint}")
            if number < self._judge.retries:
                self._pause(number, headers)
        raise Ungraded(f"got no answer from {self._host} after {self._judge.retries + 1} tries: {why}")

    @property
    def _host(self) -> str:
        return urlsplit(self._judge.url).netloc

    def _send(self, request: Mapping[str, Any]) -> tuple[int | None, str, Message, bytes]:
        """(status, what it means, headers in whatever case they came, body); no status where nothing answered. A body
        that says what is wrong is not repeated: endpoints write keys into it."""
        headers = {"Content-Type": "application/json", "User-Agent": "rankscope"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        sent = urllib.request.Request(
            f"{self._judge.url}/chat/completions", json.dumps(request).encode(), headers, method="POST"
        )
        try:
            with self._opener.open(sent, timeout=self._judge.seconds) as answer:
                return answer.status, "", answer.headers, answer.read(_MOST_BYTES)
        except urllib.error.HTTPError as error:
            with error:
                known = http.client.responses.get(error.code, "")
                return error.code, f"status {error.code} {known}".strip(), error.headers or Message(), b""
        except urllib.error.URLError as error:
            return None, _plain(error.reason), Message(), b""
        except (OSError, http.client.HTTPException, ValueError) as error:
            return None, _plain(error), Message(), b""

    def _wait_for_turn(self) -> None:
        """Until the pace, and what the endpoint asked for, allow one more request."""
        per_minute = self._judge.requests_per_minute
        with self._lock:
            at = max(self._next, time.monotonic())
            if per_minute is not None:
                self._next = at + 60.0 / per_minute
        self._sleep_until(at)

    def _pause(self, number: int, headers: Message) -> None:
        """Wait after a failed try, as long as the endpoint says and at least as long as tries of this number do; no
        thread asks before. Raises Ungraded where the endpoint says too long."""
        own = min(FIRST_WAIT_SECONDS * 2**number, LONGEST_WAIT_SECONDS) * random.uniform(0.75, 1.25)
        told = retry_after_seconds(headers.get("Retry-After"))
        if told is not None and told > LONGEST_RETRY_AFTER_SECONDS:
            raise Ungraded(f"is asked by {self._host} to wait for {told:.0f} s: run it again then")
        until = time.monotonic() + max(own, told or 0.0)
        if told is not None:
            with self._lock:
                self._next = max(self._next, until)
        self._sleep_until(until)

    def _sleep_until(self, at: float) -> None:
        while True:
            if self._should_stop():
                raise GradingStopped
            left = at - time.monotonic()
            if left <= 0:
                return
            time.sleep(min(left, _SLICE_SECONDS))


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect is an answer like any other: following it would hand the key to whoever it names."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> None:
        """None: the status stays what it is."""


def retry_after_seconds(text: str | None) -> float | None:
    """What `Retry-After` asks for: seconds, or the time until a date; None for nothing that can be read."""
    if text is None:
        return None
    try:
        return max(0.0, float(text))
    except ValueError:
        pass
    try:
        date = parsedate_to_datetime(text)
    except ValueError:
        return None
    date = date if date.tzinfo is not None else date.replace(tzinfo=UTC)
    return max(0.0, (date - datetime.now(UTC)).total_seconds())


def _content(body: bytes) -> str:
    """The text of the first choice. Raises Ungraded for a reply of another form."""
    try:
        content = json.loads(body)["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError, RecursionError):
        content = None
    if not isinstance(content, str):
        raise Ungraded("got a reply that is not of OpenAI's form")
    return content


def _plain(error: object) -> str:
    """What went wrong with a connection, in a few words."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return type(error).__name__ if isinstance(error, Exception) else str(error)
