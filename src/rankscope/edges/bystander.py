"""A storage that may be read and into which nothing is written: for processes of a gang beside the first.

They run the same code as the first one, which writes for all.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from rankscope.edges.storages import Storage


class Bystander:
    """What is written is dropped; drafts are made in a temporary folder, for libraries that must write somewhere."""

    def __init__(self, real: Storage) -> None:
        self._real = real
        self.url = real.url

    def check_writable(self) -> None:
        """Nothing is written."""

    def read(self, name: str) -> bytes | None:
        """As the real one."""
        return self._real.read(name)

    def write(self, name: str, content: bytes, *, durable: bool = True) -> None:
        """Dropped."""

    def create(self, name: str, content: bytes) -> bool:
        """Dropped; says what the real one would."""
        return not self._real.exists(name)

    def exists(self, name: str) -> bool:
        """As the real one."""
        return self._real.exists(name)

    def list(self, folder: str) -> list[str]:
        """As the real one."""
        return self._real.list(folder)

    def is_empty(self) -> bool:
        """As the real one."""
        return self._real.is_empty()

    def size_bytes(self, name: str) -> int | None:
        """As the real one."""
        return self._real.size_bytes(name)

    def remove(self, name: str) -> None:
        """Not done."""

    def rename(self, name: str, new_name: str) -> None:
        """Not done."""

    def local_copy(self, name: str) -> Path | None:
        """As the real one."""
        return self._real.local_copy(name)

    @contextmanager
    def local_draft(self, name: str) -> Iterator[Path]:
        """A path in a temporary folder, which is gone afterwards."""
        with TemporaryDirectory(prefix="rankscope-bystander-") as folder:
            yield Path(folder) / "draft"

    def lock(self, name: str, *, shared: bool = False) -> AbstractContextManager[None]:
        """The first process's parent holds what must be held."""
        return self._unlocked()

    def is_locked(self, name: str) -> bool:
        """As the real one."""
        return self._real.is_locked(name)

    def refresh(self) -> None:
        """As the real one."""
        self._real.refresh()

    def remove_drafts(self) -> int:
        """Not done."""
        return 0

    @contextmanager
    def _unlocked(self) -> Iterator[None]:
        yield
