"""Objects below one URL of a bucket, through fsspec: whole reads and writes, conditional creation, listing.

fsspec and the store's own package are imported when the first request is made.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

from rankscope.study.problems import InputProblems
from rankscope.study.store_urls import FIRST_TRIES, TRIES, is_passing, open_store, problem_of, timeout_seconds

_ONE_REQUEST_BYTES = 16 * 2**20
"""Larger files are read from the disk and sent in parts."""

_TOKENS = ("ETag", "etag", "generation", "md5Hash", "content_md5", "created", "mtime")

_R = TypeVar("_R")


@dataclass(frozen=True)
class Found:
    """An object as a listing shows it. `token` changes with its content; `modified_at` is by the store's clock."""

    token: str
    size_bytes: int
    modified_at: float


class Objects(Protocol):
    """What a study needs of a store. Names are relative to the study's URL. Reads see every write that returned."""

    url: str

    def find(self, below: str = "") -> dict[str, Found]:
        """All objects, or those below a folder."""

    def read(self, name: str) -> bytes | None:
        """The content of an object; None where there is none."""

    def read_many(self, names: Sequence[str]) -> dict[str, bytes]:
        """The contents of several, side by side; those that are gone by now are left out."""

    def fetch(self, name: str, path: Path) -> None:
        """Write an object into a local file."""

    def put(self, name: str, content: bytes) -> str:
        """Replace an object whole; its new token."""

    def put_file(self, name: str, path: Path) -> str:
        """As `put`, of a local file."""

    def create(self, name: str, content: bytes) -> bool:
        """Put an object where none is; False where there was one."""

    def copy(self, name: str, new_name: str) -> str:
        """Copy an object inside the store; the copy's token."""

    def delete(self, names: Iterable[str]) -> None:
        """Delete objects, in this order; nothing where there are none."""


class FsspecObjects:
    """Objects of any store that fsspec opens.

    A request that gets no answer is made again for four times the time-out (two minutes), but the first of all fails at
    once, so that a wrong address is told before any work, and so does the next one after such a wait. Raises
    InputProblems for whatever the store refuses.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._reached = False

    @cached_property
    def _opened(self) -> tuple[Any, str]:
        return open_store(self.url)

    def find(self, below: str = "") -> dict[str, Found]:
        def listed(filesystem: Any) -> dict[str, Any]:
            filesystem.invalidate_cache()
            found: dict[str, Any] = filesystem.find(self._path(below), detail=True)
            return found

        try:
            found = self._ask(listed)
        except FileNotFoundError as error:
            if "bucket" in str(error).lower() or "container" in str(error).lower():
                raise InputProblems([problem_of(error, self.url)]) from error
            return {}
        start = f"{self._opened[1]}/"
        return {
            path.lstrip("/").removeprefix(start.lstrip("/")): _found(info)
            for path, info in found.items()
            if path.lstrip("/").startswith(start.lstrip("/"))
        }

    def read(self, name: str) -> bytes | None:
        try:
            content: bytes = self._ask(lambda filesystem: filesystem.cat_file(self._path(name)))
        except FileNotFoundError:
            return None
        return content

    def read_many(self, names: Sequence[str]) -> dict[str, bytes]:
        if not names:
            return {}
        paths = {self._path(name): name for name in names}
        found: dict[str, Any] = self._ask(lambda fs: fs.cat(list(paths), on_error="return"))
        whole: dict[str, bytes] = {}
        for path, content in found.items():
            name = paths.get(path) or paths.get(path.lstrip("/")) or next(n for p, n in paths.items() if p in path)
            again = self.read(name) if isinstance(content, Exception) else content
            if again is not None:
                whole[name] = again
        return whole

    def fetch(self, name: str, path: Path) -> None:
        self._ask(lambda filesystem: filesystem.get_file(self._path(name), str(path)))

    def put(self, name: str, content: bytes) -> str:
        return self._token(name, self._put(lambda filesystem: filesystem.pipe_file(self._path(name), content)))

    def put_file(self, name: str, path: Path) -> str:
        if path.stat().st_size <= _ONE_REQUEST_BYTES:
            return self.put(name, path.read_bytes())
        return self._token(name, self._put(lambda filesystem: filesystem.put_file(str(path), self._path(name))))

    def create(self, name: str, content: bytes) -> bool:
        try:
            self._put(lambda filesystem: filesystem.pipe_file(self._path(name), content, mode="create"))
        except FileExistsError:
            return False
        return True

    def copy(self, name: str, new_name: str) -> str:
        self._ask(lambda filesystem: filesystem.cp_file(self._path(name), self._path(new_name)))
        return self._token(new_name, None)

    def delete(self, names: Iterable[str]) -> None:
        for path in map(self._path, names):
            with contextlib.suppress(FileNotFoundError):
                self._ask(partial(_remove, path))

    def _path(self, name: str) -> str:
        root = self._opened[1]
        return f"{root}/{name}" if name else root

    def _token(self, name: str, answer: Any) -> str:
        """What the put said, or a look at the object where it said nothing."""
        if isinstance(answer, dict) and answer.get("ETag"):
            return str(answer["ETag"])
        return _found(self._ask(lambda filesystem: filesystem.info(self._path(name)))).token

    def _put(self, request: Callable[[Any], _R]) -> _R:
        """As `_ask`: who puts and finds nothing has no bucket, whatever the store calls it."""
        try:
            return self._ask(request)
        except FileNotFoundError as error:
            raise InputProblems([problem_of(error, self.url)]) from error

    def _ask(self, request: Callable[[Any], _R]) -> _R:
        """The answer. FileNotFoundError and FileExistsError are answers too, unless the bucket is not there."""
        filesystem, _ = self._opened
        until, wait_seconds = time.monotonic() + 4 * timeout_seconds(), 1.0
        while True:
            try:
                answer = request(filesystem)
            except (FileNotFoundError, FileExistsError) as error:
                if "bucket does not exist" in str(error):
                    raise InputProblems([problem_of(error, self.url)]) from error
                self._count_on(filesystem, True)
                raise
            except Exception as error:
                passing = is_passing(error)
                if not (self._reached and passing and time.monotonic() < until):
                    self._count_on(
                        filesystem, self._reached and not passing
                    )  # what comes after does not wait as long again
                    raise InputProblems([problem_of(error, self.url)]) from error
                time.sleep(wait_seconds)
                wait_seconds = min(2 * wait_seconds, 15.0)
            else:
                self._count_on(filesystem, True)
                return answer

    def _count_on(self, filesystem: Any, reached: bool) -> None:
        """Whether the store has answered, and is worth waiting for; the library's own tries (s3fs has them) by that."""
        if reached != self._reached and hasattr(filesystem, "retries"):
            filesystem.retries = TRIES if reached else FIRST_TRIES
        self._reached = reached


def _remove(path: str, filesystem: Any) -> None:
    filesystem.rm_file(path)


def _found(info: dict[str, Any]) -> Found:
    changed = info.get("LastModified") or info.get("last_modified") or info.get("updated") or info.get("mtime")
    token = next((str(info[key]) for key in _TOKENS if info.get(key)), "")
    return Found(token, int(info.get("size") or 0), _seconds(changed or info.get("created")))


def _seconds(moment: Any) -> float:
    """Seconds since 1970 of what a listing says of time."""
    if isinstance(moment, str):
        moment = datetime.fromisoformat(moment)
    if isinstance(moment, datetime):
        return (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp()
    return float(moment or 0.0)
