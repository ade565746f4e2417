"""A judge of OpenAI's form on this machine: it counts what it is asked, and fails as it is told to."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = tuple[int, dict[str, str], str]
"""Status, headers, body."""


def said(text: str) -> Reply:
    """A sound reply with this text."""
    return 200, {}, json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]})


@dataclass
class Judge:
    """`answer(request, number)` replies to the request of this number, from 0."""

    url: str
    answer: Callable[[dict[str, Any], int], Reply]
    requests: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)


@contextmanager
def judge_server(answer: Callable[[dict[str, Any], int], Reply] | None = None) -> Iterator[Judge]:
    """Serves until the context ends. Without `answer` every reply is `Score: 5`."""
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                number = len(judge.requests)
                judge.requests.append(request)
                judge.headers.append(dict(self.headers))
                judge.paths.append(self.path)
            status, headers, body = judge.answer(request, number)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, format: str, *args: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    judge = Judge(f"http://127.0.0.1:{server.server_port}/v1", answer or (lambda *_: said("Score: 5")))
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield judge
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
