"""The server behind `rankscope view`: one page and its events, for this machine alone, and nothing that writes.

Who can reach a port of this machine is not yet allowed to read a study: other users of it, and any web page that is
open in the browser. So the path begins with a secret, the Host header must name this machine (a page cannot get in by
DNS that changes its answer), requests that come from another site are refused, no header lets another origin read an
answer, and the page may load nothing from anywhere.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import secrets
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from rankscope import report
from rankscope.results.live_study import LiveStudy, find_studies
from rankscope.study.problems import InputProblems, Problem

_PAGE = Path(report.__file__).parent / "live_page.html"
_EVERY_SECONDS = 1.0
_ALIVE_SECONDS = 15.0
_STREAMS = 16
"""Open at once, of all tabs."""

Handler = Callable[[Request], Awaitable[Response]]


def open_socket(port: int) -> socket.socket:
    """A socket of the loopback address; port 0 takes a free one. Raises InputProblems where it is taken."""
    opened = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        opened.bind(("127.0.0.1", port))
    except OSError as error:
        opened.close()
        found = f"{port}, {(error.strerror or str(error)).lower()}"
        raise InputProblems([Problem("view", "--port", found, "a port that is free, or no --port")]) from error
    return opened


class LiveServer:
    """The application, and the URL that opens it."""

    def __init__(self, url: str, port: int, token: str | None = None) -> None:
        self._url, self._hosts = url, {f"127.0.0.1:{port}", f"localhost:{port}"}
        self._token = token or secrets.token_urlsafe(32)
        self._streams = 0
        self.address = f"http://127.0.0.1:{port}/{self._token}/"
        routes = [("", self._page), ("studies", self._studies), ("events", self._events)]
        self.app = Starlette(
            routes=[Route(f"/{{token}}/{path}", self._guarded(answer), methods=["GET"]) for path, answer in routes]
        )

    def _guarded(self, answer: Handler) -> Handler:
        async def guarded(request: Request) -> Response:
            if request.headers.get("host") not in self._hosts:
                return PlainTextResponse("this server is for this machine alone", 400)
            if not hmac.compare_digest(request.path_params["token"].encode(), self._token.encode()):
                return PlainTextResponse("not found", 404)
            if request.headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
                return PlainTextResponse("not for other sites", 403)
            response = await answer(request)
            response.headers.update(
                {
                    "Cache-Control": "no-store", "Referrer-Policy": "no-referrer", "X-Frame-Options": "DENY",
                    "X-Content-Type-Options": "nosniff", "Cross-Origin-Resource-Policy": "same-origin",
                    "Cross-Origin-Opener-Policy": "same-origin",
                }
            )  # fmt: skip
            return response

        return guarded

    async def _page(self, request: Request) -> Response:
        nonce = secrets.token_urlsafe(16)
        response = HTMLResponse(_PAGE.read_text(encoding="utf-8").replace("{{nonce}}", nonce))
        response.headers["Content-Security-Policy"] = (
            f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; "
            "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )
        return response

    async def _studies(self, request: Request) -> Response:
        found = await asyncio.to_thread(find_studies, self._url)
        return JSONResponse([{"key": one.key, "name": one.name} for one in found])

    async def _events(self, request: Request) -> Response:
        """`data: {...}` whenever something has changed, of the study with this key; it must be one that is listed."""
        found = {one.key: one.folder for one in await asyncio.to_thread(find_studies, self._url)}
        folder = found.get(request.query_params.get("study", ""))
        if folder is None:
            return PlainTextResponse("no such study", 404)
        if self._streams >= _STREAMS:
            return PlainTextResponse("too many pages are open", 429)
        return StreamingResponse(self._changes(LiveStudy(folder)), media_type="text/event-stream")

    async def _changes(self, study: LiveStudy) -> AsyncIterator[str]:
        self._streams += 1
        before, silent = "", 0.0
        try:
            while True:
                now = await asyncio.to_thread(_as_json, study)
                if now != before:
                    before, silent = now, 0.0
                    yield f"data: {now}\n\n"
                elif silent >= _ALIVE_SECONDS:
                    silent = 0.0
                    yield ": still here\n\n"
                await asyncio.sleep(_EVERY_SECONDS)
                silent += _EVERY_SECONDS
        finally:
            self._streams -= 1


def _as_json(study: LiveStudy) -> str:
    try:
        state: dict[str, Any] = study.state()
    except (InputProblems, OSError) as error:
        state = {"problem": str(error)}
    return json.dumps(_finite(state))


def _finite(value: Any) -> Any:
    """JSON has no NaN: what is none of a number is null."""
    if isinstance(value, float):
        return value if abs(value) < float("inf") else None
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    return [_finite(one) for one in value] if isinstance(value, list | tuple) else value
