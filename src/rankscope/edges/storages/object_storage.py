"""A study folder in an object store: s3://, gs://, az://, worked on through this node's copy of it.

Writes go to the store first, whole, and are then shown here; reads are local. What makes that right is when this node
looks at the store again: when a study is opened, and whenever a lock is taken, unless one process of this node has the
whole study to itself, as nobody else writes then. docs/architecture.md says why.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from rankscope.edges.storages import Busy, Storage
from rankscope.edges.storages.local_disk import LocalDisk
from rankscope.edges.storages.objects.leases import LOCKS, Leases
from rankscope.edges.storages.objects.mirror import Mirror, is_mark
from rankscope.edges.storages.objects.object_store import FsspecObjects, Objects
from rankscope.edges.storages.objects.publish import Publisher
from rankscope.study.store_urls import PACKAGES, cache_folder, checked_url

SCHEMES = tuple(PACKAGES)

WHOLE_STUDY = "study"
"""The lock under which one process has everything to itself."""

_NEWS_SECONDS = 15.0
"""How often what need not be durable (a running status) is put into the store."""

_LOOK_SECONDS = 5.0

_OPENED: dict[tuple[str, str], ObjectStorage] = {}
_OPENING = threading.Lock()


def open_url(url: str) -> Storage:
    """This process's storage of a URL; what it knows of the store is looked at anew."""
    url = checked_url(url)
    folder = cache_folder() / "studies" / hashlib.sha256(f"{os.uname().nodename} {url}".encode()).hexdigest()[:20]
    with _OPENING:
        storage = _OPENED.setdefault((url, str(folder)), ObjectStorage(FsspecObjects(url), folder))
    storage.look_again()
    return storage


class ObjectStorage:
    """Names are objects below the URL; `folder` is this node's copy, shared by its processes."""

    def __init__(self, store: Objects, folder: Path) -> None:
        self.url = store.url
        self._store, self._folder = store, folder
        self._drafts = LocalDisk(folder / "drafts")
        self._stale, self._looking = True, threading.RLock()
        self._put_at: dict[str, float] = {}
        self._news: set[str] = set()
        self._taken: dict[str, tuple[float, Busy]] = {}
        self._locked: dict[str, tuple[bool, float]] = {}
        self._opened: tuple[Mirror, Leases] | None = None

    def look_again(self) -> None:
        """The next read sees what the store holds then."""
        self._stale = True

    def refresh(self) -> None:
        self._open()[0].refresh()
        self._stale = False

    def check_writable(self) -> None:
        probe = f"{LOCKS}/writable-{secrets.token_hex(8)}"
        self._store.put(probe, b"")
        self._store.delete([probe])

    # ---- reading ----

    def read(self, name: str) -> bytes | None:
        mirror = self._fresh()
        if mirror.index.get(name) is None:
            return None
        content = mirror.files.read(name)
        if content is None and mirror.bring(name) is not None:
            content = mirror.files.read(name)
        return content

    def exists(self, name: str) -> bool:
        mirror = self._fresh()
        return mirror.index.holds(name) if name else bool(mirror.index.below(""))

    def list(self, folder: str) -> list[str]:
        start = len(folder) + 1 if folder else 0
        below = self._fresh().index.below(folder)
        return sorted({name[start:].split("/")[0] for name in below if not is_mark(name)})

    def is_empty(self) -> bool:
        mirror = self._fresh()
        return not mirror.index.below("") and not mirror.unfinished

    def size_bytes(self, name: str) -> int | None:
        known = self._fresh().index.get(name)
        return known.size_bytes if known is not None else None

    def local_copy(self, name: str) -> Path | None:
        """None for the study's own folder, which is nowhere on this machine."""
        return self._fresh().bring(name) if name else None

    # ---- writing ----

    def write(self, name: str, content: bytes, *, durable: bool = True) -> None:
        mirror = self._fresh()
        if not durable and time.monotonic() - self._put_at.get(name, float("-inf")) < _NEWS_SECONDS:
            mirror.files.write(name, content, durable=False)
            self._news.add(name)
            return
        self._news.discard(name)
        self._publisher().put(name, content)
        self._put_at[name] = time.monotonic()

    def create(self, name: str, content: bytes) -> bool:
        self._fresh()
        return self._publisher().create(name, content)

    def remove(self, name: str) -> None:
        self._fresh()
        self._news.discard(name)
        self._publisher().remove(name)
        self._put_at.pop(name, None)

    def rename(self, name: str, new_name: str) -> None:
        self._fresh()
        self._publisher().rename(name, new_name)
        self._put_at.pop(name, None)

    @contextmanager
    def local_draft(self, name: str) -> Iterator[Path]:
        self._fresh()
        with self._drafts.local_draft(secrets.token_hex(8)) as draft:
            yield draft
            if draft.is_dir():
                self._publisher().put_folder(name, draft)
            elif draft.exists():
                self._publisher().put_file(name, draft)

    def remove_drafts(self) -> int:
        mirror = self._fresh()
        unfinished, mirror.unfinished = mirror.unfinished, []
        if unfinished:
            self._open()[1].check()
            self._store.delete(unfinished)
        here = mirror.files.remove_drafts() + self._drafts.remove_drafts()
        return here + len(unfinished)

    # ---- locks ----

    @contextmanager
    def lock(self, name: str, *, shared: bool = False) -> Iterator[None]:
        """Who waits asks several times a second: the store is asked every few seconds only."""
        mirror, leases = self._open()
        until, busy = self._taken.get(name, (float("-inf"), Busy()))
        if time.monotonic() < until:
            raise busy
        with ExitStack() as held:
            held.enter_context(self._on_this_node(name, shared=shared))
            try:
                held.enter_context(leases.hold(name.replace("/", "-"), shared=shared))
            except Busy as error:
                self._taken[name] = time.monotonic() + _LOOK_SECONDS, error
                raise
            if name == WHOLE_STUDY and not shared:
                mirror.refresh()
                held.enter_context(self._alone())
            elif not self._is_alone():
                mirror.refresh()
            self._stale = False
            yield

    def is_locked(self, name: str) -> bool:
        """Looked at anew every few seconds only, and the study's files with it: `status --watch` asks often."""
        said, at = self._locked.get(name, (False, float("-inf")))
        if time.monotonic() - at > _LOOK_SECONDS:
            said = self._open()[1].is_taken(name.replace("/", "-"))
            self._locked[name] = said, time.monotonic()
            self.look_again()
        return said

    @contextmanager
    def _on_this_node(self, name: str, *, shared: bool) -> Iterator[None]:
        """Processes of one node keep each other out by file locks, which end with their process."""
        here = LocalDisk(self._folder / "node")
        here.url = self.url
        with here.lock(name, shared=shared):
            yield

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Let the other processes of this node know that what it has is all there is."""
        path = self._folder / "alone.json"
        path.write_text(json.dumps({"pid": os.getpid(), "began": _began(os.getpid())}), encoding="utf-8")
        try:
            yield
        finally:
            path.unlink(missing_ok=True)

    def _is_alone(self) -> bool:
        with suppress(OSError, ValueError, LookupError):
            said = json.loads((self._folder / "alone.json").read_text(encoding="utf-8"))
            return said["began"] is not None and said["began"] == _began(said["pid"])
        return False

    # ---- what is kept ----

    def _open(self) -> tuple[Mirror, Leases]:
        with self._looking:
            if self._opened is None:
                self._folder.mkdir(parents=True, exist_ok=True)
                node = LocalDisk(self._folder)
                node.create("node-id", secrets.token_hex(8).encode())
                name = (node.read("node-id") or b"").decode()
                self._opened = Mirror(self._store, self._folder), Leases(self._store, name)
            return self._opened

    def _fresh(self) -> Mirror:
        mirror, _ = self._open()
        if self._stale:
            with self._looking:
                if self._stale and not self._is_alone():
                    mirror.refresh()
                self._stale = False
        return mirror

    def _publisher(self) -> Publisher:
        """What changes the store, after the news that came before: who goes on elsewhere finds no later fact without an
        earlier one, such as weights without the loss that they had."""
        mirror, leases = self._open()
        publisher = Publisher(self._store, mirror, leases.check)
        while self._news:
            try:
                name = self._news.pop()
            except KeyError:  # a checkpoint that is written in the background took the last
                break
            content = mirror.files.read(name)
            if content is not None:
                publisher.put(name, content)
                self._put_at[name] = time.monotonic()
        return publisher


def _began(pid: int) -> float | None:
    """When a process began; None where there is none. A number that was given to another process has another time."""
    import psutil

    with suppress(psutil.Error):
        return psutil.Process(pid).create_time()
    return None
