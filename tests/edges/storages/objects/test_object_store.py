"""Objects through fsspec: whole reads and writes, and what is said and tried again when a store does not answer."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from rankscope.edges.storages.objects import object_store
from rankscope.edges.storages.objects.object_store import FsspecObjects
from rankscope.study.problems import InputProblems

URL = "s3://lab/study"


class Faulty(MemoryFileSystem):
    """A store that raises what `faults` has before it answers; `asked` counts the requests."""

    cachable = False

    def __init__(self) -> None:
        super().__init__()
        self.store, self.pseudo_dirs = {}, [""]
        self.faults: list[Exception] = []
        self.asked = 0

    def _fault(self) -> None:
        self.asked += 1
        if self.faults:
            raise self.faults.pop(0)

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **options: Any) -> None:
        self._fault()
        super().pipe_file(path, value, mode=mode)

    def cat_file(self, path: str, *arguments: Any, **options: Any) -> bytes:
        self._fault()
        return super().cat_file(path, *arguments, **options)

    def info(self, path: str, **options: Any) -> dict[str, Any]:
        return self._tagged(path, super().info(path, **options))

    def find(self, path: str, *arguments: Any, **options: Any) -> dict[str, Any]:
        return {one: self._tagged(one, info) for one, info in super().find(path, *arguments, **options).items()}

    def _tagged(self, path: str, info: dict[str, Any]) -> dict[str, Any]:
        """With a token of the content, as a store has one."""
        content = self.store[path].getvalue() if path in self.store else b""
        return {**info, "ETag": hashlib.md5(content).hexdigest()}


class Clock:
    """Time that passes by sleeping alone."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    monkeypatch.setattr(object_store, "time", clock := Clock())
    return clock


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> Faulty:
    filesystem = Faulty()
    monkeypatch.setattr(object_store, "open_store", lambda url: (filesystem, "/lab/study"))
    return filesystem


def test_objects_are_read_as_they_were_put(store: Faulty, tmp_path: Path) -> None:
    objects = FsspecObjects(URL)
    assert objects.find() == {}
    token = objects.put("runs/x/status.json", b"{}")
    assert objects.read("runs/x/status.json") == b"{}"
    assert objects.read("runs/x") is None
    assert objects.create("marker", b"1")
    assert not objects.create("marker", b"2")
    objects.copy("marker", "moved é+ %20")
    (tmp_path / "large").write_bytes(bytes(17 * 2**20))
    objects.put_file("large", tmp_path / "large")
    objects.fetch("large", tmp_path / "fetched")
    assert (tmp_path / "fetched").read_bytes() == (tmp_path / "large").read_bytes()
    found = objects.find()
    assert {name: one.size_bytes for name, one in found.items()} == {
        "runs/x/status.json": 2, "marker": 1, "moved é+ %20": 1, "large": 17 * 2**20,
    }  # fmt: skip
    assert found["runs/x/status.json"].token == token
    assert list(objects.find("runs")) == ["runs/x/status.json"]
    assert objects.read_many(["marker", "none", "moved é+ %20"]) == {"marker": b"1", "moved é+ %20": b"1"}
    objects.delete(["marker", "none", "large"])
    assert sorted(objects.find()) == ["moved é+ %20", "runs/x/status.json"]


def said(request: Callable[[], object]) -> str:
    with pytest.raises(InputProblems) as refused:
        request()
    assert len(refused.value.problems) == 1
    return str(refused.value.problems[0])


def test_a_store_that_never_answered_is_asked_once(store: Faulty, clock: Clock) -> None:
    store.faults = [ConnectionRefusedError()]
    assert "found no answer (ConnectionRefusedError)" in said(lambda: FsspecObjects(URL).put("a", b""))
    assert (store.asked, clock.now) == (1, 0.0)


def test_a_lost_connection_is_waited_for(store: Faulty, clock: Clock) -> None:
    objects = FsspecObjects(URL)
    objects.put("a", b"1")
    store.faults = [ConnectionResetError(), OSError("Please reduce your request rate."), TimeoutError()]
    objects.put("a", b"2")
    assert objects.read("a") == b"2"
    assert clock.now == 1 + 2 + 4


def test_nobody_is_waited_for_for_ever(store: Faulty, clock: Clock) -> None:
    objects = FsspecObjects(URL)
    objects.put("a", b"1")
    store.faults = [ConnectionResetError() for _ in range(1000)]
    line = said(lambda: objects.read("a"))
    assert line.startswith("s3://lab/study: lab: found no answer (ConnectionResetError), expected a store that can be")
    waited = clock.now
    assert 120 <= waited <= 120 + 15
    said(lambda: objects.put("error.txt", b""))
    assert clock.now == waited, "whoever ends for want of an answer waited again"
    store.faults = []
    objects.put("a", b"2")
    store.faults = [ConnectionResetError()]
    assert objects.read("a") == b"2", "it answers again, and is waited for again"


def test_a_refusal_is_told_at_once(store: Faulty, clock: Clock) -> None:
    objects = FsspecObjects(URL)
    objects.put("a", b"1")
    store.faults = [PermissionError("Access Denied")]
    assert "found access denied, expected permission to list" in said(lambda: objects.put("a", b"2"))
    assert clock.now == 0.0


def test_who_puts_and_finds_nothing_has_no_bucket(store: Faulty, tmp_path: Path) -> None:
    """Google's store names neither the bucket nor that it lacks one."""
    (tmp_path / "file").write_bytes(b"1")
    objects = FsspecObjects(URL)
    requests: list[Callable[[], object]] = [
        lambda: objects.put("a", b"1"),
        lambda: objects.create("a", b"1"),
        lambda: objects.put_file("a", tmp_path / "file"),
    ]
    for request in requests:
        store.faults = [FileNotFoundError("http://somewhere/b/lab/o")]
        assert "found no such bucket, expected one that exists: create it first" in said(request)
