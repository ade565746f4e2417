"""A hub server on loopback that keeps what is pushed: repositories, files, and the headers of each request.

It answers what huggingface_hub asks when it makes a model and commits small files to it (no LFS).
"""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class StubHub:
    """`repos` maps ORG/NAME to its files, `tokens` has what each request was authorised by."""

    token: str
    endpoint: str = ""
    repos: dict[str, dict[str, bytes]] = field(default_factory=dict)
    private: dict[str, bool] = field(default_factory=dict)
    tokens: list[str] = field(default_factory=list)
    commits: list[str] = field(default_factory=list)


@contextmanager
def stub_hub(token: str) -> Iterator[StubHub]:
    """A hub that lets in who has this token."""
    hub = StubHub(token)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _send(self, status: int, value: Any, **headers: str) -> None:
            body = json.dumps(value).encode()
            self.send_response(status)
            for name, text in {"Content-Type": "application/json", "Content-Length": str(len(body)), **headers}.items():
                self.send_header(name.replace("_", "-"), text)
            self.end_headers()
            self.wfile.write(body)

        def _body(self) -> bytes:
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))

        def _allowed(self) -> bool:
            given = self.headers.get("Authorization", "").removeprefix("Bearer ")
            hub.tokens.append(given)
            if given != hub.token:
                self._body()
                self._send(401, {"error": "Invalid credentials"}, X_Error_Message="Invalid credentials")
            return given == hub.token

        def do_GET(self) -> None:
            if not self._allowed():
                return
            name = "/".join(self.path.split("?")[0].removeprefix("/api/models/").split("/")[:2])
            if name not in hub.repos:
                self._send(404, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
            elif "/tree/" in self.path:
                self._send(
                    200, [{"type": "file", "path": p, "size": len(c), "oid": "0"} for p, c in hub.repos[name].items()]
                )
            else:
                files = [{"rfilename": path} for path in hub.repos[name]]
                self._send(200, {"id": name, "modelId": name, "sha": "0" * 40, "siblings": files, "private": True})

        def do_POST(self) -> None:
            if not self._allowed():
                return
            body = self._body()
            if self.path == "/api/repos/create":
                asked = json.loads(body)
                name = f"{asked['organization']}/{asked['name']}"
                hub.repos.setdefault(name, {".gitattributes": b""})
                hub.private[name] = bool(asked.get("private") or asked.get("visibility") == "private")
                self._send(200, {"url": f"{hub.endpoint}/{name}", "name": name, "id": name})
                return
            name = "/".join(self.path.removeprefix("/api/models/").split("/")[:2])
            if "/preupload/" in self.path:
                files = [
                    {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False}
                    for f in json.loads(body)["files"]
                ]
                self._send(200, {"files": files})
            elif "/commit/" in self.path:
                for line in map(json.loads, body.splitlines()):
                    if line["key"] == "header":
                        hub.commits.append(line["value"]["summary"])
                    if line["key"] == "file":
                        hub.repos[name][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                url = f"{hub.endpoint}/{name}/commit/{'0' * 40}"
                self._send(200, {"success": True, "commitOid": "0" * 40, "commitUrl": url, "hookOutput": ""})
            else:
                self._send(200, {})

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
