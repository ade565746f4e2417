"""Servers that answer requests of S3 in one way (denied, overloaded, never), or stand before a real one."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal

_ERROR = "<?xml version='1.0'?><Error><Code>{code}</Code><Message>{code} it is</Message></Error>"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            with suppress(ConnectionError):  # who asked had no patience
                self.wfile.write(body)

    def refuse(self, status: int, code: str) -> None:
        self.answer(status, _ERROR.format(code=code).encode(), {"Content-Type": "application/xml"})

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def _serving(handler: type[_Handler]) -> Iterator[str]:
    """The endpoint of a server in threads of this process."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def answering(status: int, code: str, *, after_seconds: float = 0.0) -> Iterator[str]:
    """The endpoint of a server that gives S3's error `code` to everything."""

    class Handler(_Handler):
        def _answer(self) -> None:
            time.sleep(after_seconds)
            self.body()
            self.refuse(status, code)

        do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = _answer

    with _serving(Handler) as endpoint:
        yield endpoint


@dataclass
class Gate:
    """What stands before a server. `lets`: everything, what reads alone, or nobody, whose connections end."""

    endpoint: str = ""
    lets: Literal["all", "read", "nobody"] = "all"
    denied: int = 0


@contextmanager
def gate_before(port: int) -> Iterator[Gate]:
    """A gate before the server at this port of this machine."""
    gate = Gate()

    class Handler(_Handler):
        def _answer(self) -> None:
            body = self.body()
            if gate.lets == "nobody":
                self.close_connection = True
                return
            if gate.lets == "read" and self.command not in ("GET", "HEAD"):
                gate.denied += 1
                self.refuse(403, "AccessDenied")
                return
            onward = http.client.HTTPConnection("127.0.0.1", port)
            onward.request(self.command, self.path, body, dict(self.headers.items()))
            got = onward.getresponse()
            hop = ("connection", "transfer-encoding", "server", "date")
            headers = {name.title(): value for name, value in got.getheaders() if name.lower() not in hop}
            self.answer(got.status, got.read(), headers)
            onward.close()

        do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = _answer

    with _serving(Handler) as gate.endpoint:
        yield gate
