"""Servers that answer every request of S3 in one way: denied, overloaded, never."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_ERROR = "<?xml version='1.0'?><Error><Code>{code}</Code><Message>{code} it is</Message></Error>"


@contextmanager
def answering(status: int, code: str, *, after_seconds: float = 0.0) -> Iterator[str]:
    """The endpoint of a server that gives S3's error `code` to everything."""

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            time.sleep(after_seconds)
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            body = _ERROR.format(code=code).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/xml")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                with suppress(BrokenPipeError):  # who asked had no patience
                    self.wfile.write(body)

        do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = _answer

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
