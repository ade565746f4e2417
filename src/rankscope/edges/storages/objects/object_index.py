"""What a node knows of the objects of a study: name, token, size, and when this node put it; one SQLite file."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Known:
    """An object as this node last saw it. `put_at`: seconds since 1970 of this node's own put, 0 where it read it.

    `note`: the content of a folder's mark.
    """

    token: str
    size_bytes: int
    put_at: float = 0.0
    note: str | None = None


class ObjectIndex:
    """Shared by all processes of a node. It is a cache: a damaged file is begun anew, and the store is asked again."""

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, threading.RLock()
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._connection = self._connect()
        except sqlite3.DatabaseError:
            path.unlink(missing_ok=True)
            self._connection = self._connect()

    def _connect(self) -> sqlite3.Connection:
        made = sqlite3.connect(self._path, timeout=120, isolation_level=None, check_same_thread=False)
        made.execute("PRAGMA synchronous=OFF")
        columns = "name TEXT PRIMARY KEY, token TEXT, size INTEGER, put_at REAL, note TEXT"
        made.execute(f"CREATE TABLE IF NOT EXISTS objects ({columns})")
        return made

    @contextlib.contextmanager
    def changing(self) -> Iterator[None]:
        """Nobody else on this node changes the index, or a file that it is about, meanwhile."""
        with self._lock:
            if self._connection.in_transaction:  # this thread is inside already
                yield
                return
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")

    def get(self, name: str) -> Known | None:
        """What is known of an object; None where it is not there."""
        with self._lock:
            row = self._connection.execute(f"{_SELECT} WHERE name = ?", (name,)).fetchone()
        return Known(*row[1:]) if row is not None else None

    def below(self, folder: str) -> dict[str, Known]:
        """Every object inside a folder, at any depth; "" is all."""
        with self._lock:
            if folder:
                where = f"{_SELECT} WHERE name >= ? AND name < ?"
                rows = self._connection.execute(where, (f"{folder}/", f"{folder}0")).fetchall()  # 0 comes after /
            else:
                rows = self._connection.execute(_SELECT).fetchall()
        return {row[0]: Known(*row[1:]) for row in rows}

    def holds(self, name: str) -> bool:
        """Whether there is such an object, or one inside such a folder."""
        with self._lock:
            where = "SELECT 1 FROM objects WHERE name = ? OR (name >= ? AND name < ?) LIMIT 1"
            return self._connection.execute(where, (name, f"{name}/", f"{name}0")).fetchone() is not None

    def put(self, name: str, token: str, size_bytes: int, *, note: str | None = None) -> None:
        """An object that this node has just put."""
        self.saw(name, Known(token, size_bytes, time.time(), note))

    def saw(self, name: str, known: Known) -> None:
        """An object as it was read."""
        with self._lock:
            row = (name, known.token, known.size_bytes, known.put_at, known.note)
            self._connection.execute("INSERT OR REPLACE INTO objects VALUES (?, ?, ?, ?, ?)", row)

    def forget(self, name: str) -> None:
        """An object that is gone."""
        with self._lock:
            self._connection.execute("DELETE FROM objects WHERE name = ?", (name,))


_SELECT = "SELECT name, token, size, put_at, note FROM objects"
