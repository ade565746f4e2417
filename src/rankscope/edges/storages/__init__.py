"""Where a study's files lie: the protocol of a storage, and the storages found by listing this folder.

A storage is one file here with a class of its own and `SCHEMES`, the URL schemes that it answers to ("" is a plain
path), and `open_url(url) -> Storage`. Nothing else names it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from rankscope.edges import modules_of
from rankscope.study.problems import InputProblems
from rankscope.study.store_urls import unknown_scheme


class Busy(Exception):
    """Another process holds the lock that was asked for."""


class Storage(Protocol):
    """Files and folders by name, relative to the study's folder, with `/` between the parts.

    A file is whole or absent: whoever reads sees all of what somebody wrote, or nothing. Names are the caller's; a
    storage never interprets them.
    """

    url: str
    """What the user calls this place; stands in messages."""

    def check_writable(self) -> None:
        """Raises InputProblems where nothing could be written here, before any work is done."""

    def read(self, name: str) -> bytes | None:
        """The content of a file; None where there is none."""

    def write(self, name: str, content: bytes, *, durable: bool = True) -> None:
        """Put a file in place whole, replacing what was. `durable`: it survives a power cut once this returns."""

    def create(self, name: str, content: bytes) -> bool:
        """Write a file only where none is; False where somebody was first."""

    def exists(self, name: str) -> bool:
        """Whether a file or a folder stands there."""

    def list(self, folder: str) -> list[str]:
        """Names directly inside a folder, sorted, unfinished files left out; empty where there is no folder."""

    def is_empty(self) -> bool:
        """Whether nothing at all lies here, of ours or of anybody's."""

    def size_bytes(self, name: str) -> int | None:
        """Bytes of a file; None where there is none."""

    def remove(self, name: str) -> None:
        """Delete a file, or a folder with all that it holds; nothing where there is none."""

    def rename(self, name: str, new_name: str) -> None:
        """Give a file another name, replacing what has it; nothing where there is no such file."""

    def local_copy(self, name: str) -> Path | None:
        """A local file or folder with that content, for libraries that need one; only to be read. None where absent."""

    def local_draft(self, name: str) -> AbstractContextManager[Path]:
        """A local path where a file or folder is to be made; put in place whole at the end, unless an error came."""

    def lock(self, name: str, *, shared: bool = False) -> AbstractContextManager[None]:
        """Hold a named lock, given back however the process ends. Raises Busy at once where it is taken."""

    def is_locked(self, name: str) -> bool:
        """Whether somebody holds the named lock; nothing is taken, where that can be helped."""

    def refresh(self) -> None:
        """See what other machines wrote, where reads do not see it by themselves. Whoever runs jobs on other machines
        calls it when one of them has ended."""

    def remove_drafts(self) -> int:
        """Delete what killed processes left unfinished, and nothing else; how many. Call it under the study's lock."""


def open_storage(url: str | Path) -> Storage:
    """The storage that answers to the URL's scheme. Raises InputProblems for a scheme that none answers to."""
    text = str(url)
    scheme, separator, _ = text.partition("://")
    wanted = scheme if separator else ""
    known: dict[str, Callable[[str], Storage]] = {
        one: module.open_url for module in modules_of(__name__) for one in module.SCHEMES
    }
    if wanted not in known:
        expected = ["a folder", *(f"{one}://..." for one in sorted(known) if one)]
        raise InputProblems([unknown_scheme(text, "", expected)])
    return known[wanted](text)
