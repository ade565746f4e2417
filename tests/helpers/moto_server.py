"""An S3 server on this machine (moto's), in a process of its own, and what reaches it: an environment for commands."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

KEY, SECRET = "AKIATESTKEYOFRANKSCO", "a-secret-that-must-stand-nowhere"
"""What the server is asked with; tests grep for both."""


@dataclass(frozen=True)
class Moto:
    """`environment`: what a command needs to reach it beside this process's own."""

    port: int
    environment: Mapping[str, str]
    process: subprocess.Popen[bytes]

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def command(self, cache: Path, *words: object, **extra: str) -> subprocess.Popen[str]:
        """`rankscope WORDS` on a machine whose copies lie in `cache`."""
        environment = {**os.environ, **self.environment, "RANKSCOPE_CACHE": str(cache), **extra}
        line = [sys.executable, "-m", "rankscope", *map(str, words)]
        return subprocess.Popen(
            line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
        )

    def bucket(self, name: str) -> Any:
        """A bucket, made where it is not there yet, as fsspec sees S3."""
        import s3fs

        keys = {"key": KEY, "secret": SECRET, "endpoint_url": self.endpoint, "use_listings_cache": False}
        filesystem = s3fs.S3FileSystem(**keys, client_kwargs={"region_name": "us-east-1"}, skip_instance_cache=True)
        filesystem.call_s3("create_bucket", Bucket=name)
        return filesystem


@contextmanager
def moto_server() -> Iterator[Moto]:
    """The server while the context lasts."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    line = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    environment = {
        "AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
    }  # fmt: skip
    try:
        wait_for(f"http://127.0.0.1:{port}/moto-api/")
        yield Moto(port, environment, process)
    finally:
        process.kill()
        process.wait()


def wait_for_port(host: str, port: int, seconds: float = 120.0) -> None:
    """Until somebody listens there."""
    until = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection((host, port), timeout=5).close()
            return
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.1)


def wait_for(url: str, seconds: float = 60.0) -> None:
    """Until somebody answers there."""
    until = time.monotonic() + seconds
    while True:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.1)
