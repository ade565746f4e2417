"""A study folder on a local or shared POSIX disk.

A file is written as a draft beside its place, flushed to the disk and renamed, so that it exists only when it is whole.
Drafts end with `.rankscope-draft`: only names with that ending are ever cleaned up.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import portalocker

from rankscope.edges.storages import Busy, Storage
from rankscope.study.problems import InputProblems, Problem

SCHEMES = ("", "file")

DRAFT = ".rankscope-draft"
LOCKS = ".locks"
_PATIENCE_SECONDS = 1.0
"""How long a lock is tried for that is held by nobody who is known to live: who only looks holds it for an instant."""
_LOOK_SECONDS = 0.03
_AGAIN_SECONDS = 0.01


def open_url(url: str) -> Storage:
    """A plain path or `file://PATH`."""
    return LocalDisk(Path(url.removeprefix("file://")).expanduser())


class LocalDisk:
    """Names are paths below `root`, which is made when the first file is written."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.url = str(root)

    def check_writable(self) -> None:
        existing = self.root.absolute()
        while not existing.exists():
            existing = existing.parent
        if not existing.is_dir():
            raise InputProblems([Problem(str(existing), "--out", "a file", "a folder, or a new name")])
        if not os.access(existing, os.W_OK | os.X_OK):
            found = "a folder that cannot be written to"
            raise InputProblems([Problem(str(existing), "--out", found, "a writable one")])

    def read(self, name: str) -> bytes | None:
        try:
            return self._path(name).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def write(self, name: str, content: bytes, *, durable: bool = True) -> None:
        path = self._path(name)
        with self._draft(path) as draft:
            _write(draft, content, durable=durable)
            os.replace(draft, path)
        if durable:
            _sync(path.parent)

    def create(self, name: str, content: bytes) -> bool:
        path = self._path(name)
        with self._draft(path) as draft:
            _write(draft, content, durable=True)
            try:
                os.link(draft, path)  # fails where the name is taken, which a rename does not
            except FileExistsError:
                return False
            except OSError:  # a file system without hard links
                return _create_exclusively(path, content)
        _sync(path.parent)
        return True

    def exists(self, name: str) -> bool:
        return self._path(name).exists()

    def list(self, folder: str) -> list[str]:
        path = self._path(folder)
        if not path.is_dir():
            return []
        return sorted(one.name for one in path.iterdir() if not one.name.endswith(DRAFT) and one.name != LOCKS)

    def is_empty(self) -> bool:
        return not self.root.exists() or not any(_is_somebodys(one.name) for one in self.root.iterdir())

    def size_bytes(self, name: str) -> int | None:
        path = self._path(name)
        return path.stat().st_size if path.is_file() else None

    def remove(self, name: str) -> None:
        path = self._path(name)
        if path.is_dir() and not path.is_symlink():
            # Renamed first: a folder that is half gone must not be taken for a whole one.
            with contextlib.suppress(FileNotFoundError):
                doomed = _draft_name(path)
                os.replace(path, doomed)
                shutil.rmtree(doomed, ignore_errors=True)
            return
        path.unlink(missing_ok=True)

    def rename(self, name: str, new_name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.replace(self._path(name), self._path(new_name))

    def local_copy(self, name: str) -> Path | None:
        path = self._path(name)
        return path if path.exists() else None

    @contextmanager
    def local_draft(self, name: str) -> Iterator[Path]:
        path = self._path(name)
        # In a folder of its own: safetensors writes a file beside the one that it is asked for, and a kill leaves it.
        with self._draft(path) as folder:
            folder.mkdir()
            draft = folder / path.name
            yield draft
            if not draft.exists():
                return
            _set_ordinary_modes(draft)
            _sync_tree(draft)
            if path.is_dir():
                self.remove(name)
            os.replace(draft, path)
        _sync(path.parent)

    @contextmanager
    def lock(self, name: str, *, shared: bool = False) -> Iterator[None]:
        path = self._lock_path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+") as stream:
            if not self._taken(stream, portalocker.LOCK_SH if shared else portalocker.LOCK_EX, _PATIENCE_SECONDS):
                holder = _noted(stream)
                who = f"another rankscope process (pid {holder}) is" if holder else "other rankscope processes are"
                raise Busy(f"{self.url}: {who} working on it")
            stream.seek(0)
            stream.truncate()
            if not shared:
                stream.write(str(os.getpid()))
                stream.flush()
            try:
                yield
            finally:
                if not shared:
                    stream.truncate(0)

    def is_locked(self, name: str) -> bool:
        """Takes the lock for no longer than it takes to give it back, and notes nothing: whoever begins to work just
        then waits for that."""
        path = self._lock_path(name)
        try:
            stream = path.open("r+") if os.access(path, os.W_OK) else path.open()
        except FileNotFoundError:
            return False
        with stream:
            return not self._taken(stream, portalocker.LOCK_EX, _LOOK_SECONDS)

    def _lock_path(self, name: str) -> Path:
        return self.root / LOCKS / f"{name.replace('/', '-')}.lock"

    def _taken(self, stream: IO[str], kind: portalocker.LockFlags, patience_seconds: float) -> bool:
        """Whether the lock could be taken. Tried again for so long unless the process that is noted as its holder
        lives: then it may be held by one that only looks."""
        until = time.monotonic() + patience_seconds
        while True:
            try:
                portalocker.lock(stream, kind | portalocker.LOCK_NB)
                return True
            except portalocker.AlreadyLocked:
                if _lives(_noted(stream)) or time.monotonic() >= until:
                    return False
                time.sleep(_AGAIN_SECONDS)
            except portalocker.LockException as error:
                why = " ".join(str(error).split()) or "no reason given"
                expected = "a file system with locks (flock), which keep two processes apart: give another --out"
                raise InputProblems([Problem(self.url, "--out", f"no locks here ({why})", expected)]) from error

    def refresh(self) -> None:
        """Nothing: reads are of the disk."""

    def remove_drafts(self) -> int:
        count = 0
        for folder, folders, files in os.walk(self.root):
            for name in [one for one in (*folders, *files) if one.endswith(DRAFT)]:
                path = Path(folder) / name
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
                count += 1
            folders[:] = [one for one in folders if not one.endswith(DRAFT) and not one.startswith(".")]
        return count

    def _path(self, name: str) -> Path:
        return self.root / name if name else self.root

    @contextmanager
    def _draft(self, path: Path) -> Iterator[Path]:
        """A name beside `path` that nobody else has; whatever is still there at the end is removed."""
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = _draft_name(path)
        try:
            yield draft
        finally:
            if draft.is_dir():
                shutil.rmtree(draft, ignore_errors=True)
            else:
                draft.unlink(missing_ok=True)


def _noted(stream: IO[str]) -> str:
    """The process id that stands in a lock's file: of the last who held the lock alone; "" where others shared it."""
    stream.seek(0)
    return stream.read().strip()


def _lives(holder: str) -> bool:
    """Whether the process that is noted is alive; nobody is noted by "" or what a damaged file holds."""
    if not holder.isdecimal():
        return False
    from rankscope.edges.machine import is_running  # only where a lock is held, since psutil comes with it

    return is_running(int(holder))


def _is_somebodys(name: str) -> bool:
    """Not a lock or a draft of a process of ours that is just beginning the same study."""
    return name != LOCKS and not name.endswith(DRAFT)


def _draft_name(path: Path) -> Path:
    # Names of up to 255 bytes are allowed: a draft of a long one keeps its beginning.
    return path.with_name(f".{path.name[:180]}.{secrets.token_hex(6)}{DRAFT}")


def _write(path: Path, content: bytes, *, durable: bool) -> None:
    with path.open("xb") as stream:  # the mode is the process's umask
        stream.write(content)
        if durable:
            stream.flush()
            os.fsync(stream.fileno())


def _set_ordinary_modes(draft: Path) -> None:
    """Modes as the process's umask has them: safetensors makes files that only their owner may read."""
    mode = draft.parent.stat().st_mode & 0o777  # of its folder: to read the umask it must be set, for all threads
    for path in [draft, *draft.rglob("*")]:
        if not path.is_symlink():
            path.chmod(mode if path.is_dir() else mode & 0o666)


def _create_exclusively(path: Path, content: bytes) -> bool:
    try:
        _write(path, content, durable=True)
    except FileExistsError:
        return False
    return True


def _sync(path: Path) -> None:
    """Flush a file, or a folder's list of names, to the disk; where the system cannot, nothing is lost but that."""
    with contextlib.suppress(OSError):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _sync_tree(path: Path) -> None:
    for folder, _, files in os.walk(path):
        for name in files:
            _sync(Path(folder) / name)
        _sync(Path(folder))
    if path.is_file():
        _sync(path)
