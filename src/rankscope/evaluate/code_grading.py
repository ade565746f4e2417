"""Grades by the user's own code: a worker process (`grader_process.py`) with limits of time and memory, ended when one
is passed. Scores come back as JSON; nothing is unpickled."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rankscope.study.graders import Asked, Ungraded
from rankscope.study.graders.python_grader import PythonGrader

LOAD_SECONDS = 120.0
"""What loading the file may take: it may import large packages."""

_SCRIPT = Path(__file__).with_name("grader_process.py")


@contextmanager
def code_grader(grader: PythonGrader, code: str) -> Iterator[Callable[[Asked], object]]:
    """What grades one answer in a worker of its own, which ends with the context; `code` is the text that runs.

    Raises Ungraded, then and for an answer, where the code raises, takes too long or ends its process.
    """
    worker = _Worker(grader)
    try:
        where = {"path": grader.code_file(), "function": grader.function}
        worker.ask({**where, "code": code, "memory_bytes": int(grader.memory_gib * 2**30)}, LOAD_SECONDS, "on loading")

        def score(asked: Asked) -> object:
            given = {
                "answer": asked.answer, "reference": asked.references[0], "references": list(asked.references),
                "prompt": asked.prompt, "item_id": asked.item_id,
            }  # fmt: skip
            reply = worker.ask(given, grader.seconds, "")
            if "score" not in reply:
                raise Ungraded(f"gave {reply.get('value')} for a score, expected a number from 0 to 1")
            return reply["score"]

        yield score
    finally:
        worker.end()


class _Worker:
    """The process, and a thread that reads its answers so that waiting for one can end."""

    def __init__(self, grader: PythonGrader) -> None:
        folder = os.path.dirname(grader.code_file())
        self._process = subprocess.Popen(
            [sys.executable, str(_SCRIPT)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            text=True, encoding="utf-8", cwd=folder if os.path.isdir(folder) else None, start_new_session=True,
        )  # fmt: skip
        self._lines: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put("")  # it ended

    def ask(self, request: dict[str, Any], seconds: float, when: str) -> dict[str, Any]:
        """The worker's answer. Raises Ungraded; after a limit was passed the worker is ended."""
        named = f"{when} " if when else ""
        try:
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            line = self._lines.get(timeout=seconds)
        except queue.Empty:
            self.end()
            raise Ungraded(f"{named}took longer than {seconds:g} s, and was ended") from None
        except OSError:
            line = ""
        if not line:
            raise Ungraded(f"{named}ended its process ({self._how()})")
        try:
            reply = json.loads(line)
        except ValueError:
            reply = {"error": "wrote over its own answers"}
        if "error" in reply:
            raise Ungraded(f"{named}raised {reply['error']}")
        return dict(reply)

    def _how(self) -> str:
        try:
            code = self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            return "it no longer answers"
        return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"

    def end(self) -> None:
        """End the worker with everything that it started."""
        if self._process.poll() is None:
            try:
                os.killpg(self._process.pid, signal.SIGKILL)
            except (OSError, AttributeError):  # gone by now, or a system without process groups
                self._process.kill()
        deadline = time.monotonic() + 5
        while self._process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        self._reader.join(timeout=5)  # what the worker started may hold its output open
        for stream in (self._process.stdin, None if self._reader.is_alive() else self._process.stdout):
            if stream is not None:
                with suppress(OSError):
                    stream.close()
