"""An object store in memory: its own clock, requests that are counted, and a kill before or after any of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from rankscope.edges.storages.object_storage import ObjectStorage
from rankscope.edges.storages.objects.object_store import Found
from rankscope.edges.study_folder import StudyFolder


class Killed(BaseException):
    """The process is no more: whatever it does while the exception passes does not reach the store."""


class MemoryBucket:
    """What every machine sees. `now`: the store's clock. `conditional`: False overwrites what exists, as some do."""

    def __init__(self, *, conditional: bool = True) -> None:
        self.objects: dict[str, tuple[bytes, float]] = {}
        self.now, self.conditional, self.puts = 1_000_000.0, conditional, 0

    def machine(self, folder: Path, *, kill_at: int | None = None, on_put: Callable[[str], None] | None = None):
        """A machine's storage of the study: dead from the change number `kill_at` on."""
        return ObjectStorage(MemoryObjects(self, kill_at, on_put), folder)

    def study(self, folder: Path, *, kill_at: int | None = None) -> StudyFolder:
        """A machine's study folder."""
        return StudyFolder(self.machine(folder, kill_at=kill_at))


class MemoryObjects:
    """One machine's way to the bucket."""

    url = "s3://bucket/study"

    def __init__(self, bucket: MemoryBucket, kill_at: int | None, on_put: Callable[[str], None] | None) -> None:
        self.bucket, self.kill_at, self.on_put = bucket, kill_at, on_put
        self.changes = self.requests = 0

    def _change(self, name: str) -> None:
        if self.kill_at is not None and self.changes >= self.kill_at:
            raise Killed
        self.changes += 1
        self._request()
        if self.on_put is not None:
            self.on_put(name)

    def _request(self) -> None:
        if self.kill_at is not None and self.changes > self.kill_at:
            raise Killed
        self.requests += 1

    def find(self, below: str = "") -> dict[str, Found]:
        self._request()
        return {
            name: Found(_token(content), len(content), at)
            for name, (content, at) in self.bucket.objects.items()
            if name.startswith(f"{below}/" if below else "")
        }

    def read(self, name: str) -> bytes | None:
        self._request()
        found = self.bucket.objects.get(name)
        return found[0] if found is not None else None

    def read_many(self, names: Sequence[str]) -> dict[str, bytes]:
        return {name: content for name in names if (content := self.read(name)) is not None}

    def fetch(self, name: str, path: Path) -> None:
        self._request()
        path.write_bytes(self.bucket.objects[name][0])

    def put(self, name: str, content: bytes) -> str:
        self._change(name)
        self.bucket.objects[name] = content, self.bucket.now
        return _token(content)

    def put_file(self, name: str, path: Path) -> str:
        return self.put(name, path.read_bytes())

    def create(self, name: str, content: bytes) -> bool:
        self._change(name)
        if self.bucket.conditional and name in self.bucket.objects:
            return False
        self.bucket.objects[name] = content, self.bucket.now
        return True

    def copy(self, name: str, new_name: str) -> str:
        return self.put(new_name, self.bucket.objects[name][0])

    def delete(self, names: Iterable[str]) -> None:
        for name in names:
            self._change(name)
            self.bucket.objects.pop(name, None)


def _token(content: bytes) -> str:
    import hashlib

    return hashlib.md5(content).hexdigest()
