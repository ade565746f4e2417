"""A node's copy of a study that lies in an object store: records are mirrored, large files fetched when asked for.

What the copy shows is in the store as well: a file is put there first and placed here after. Folders that are made as
one (an adapter) have two marks in the store, `.rankscope-begun`, put first, and `.rankscope-whole`, put last, which
lists the tokens of its files; without the second, or with other files than it lists, nobody sees the folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import portalocker

from rankscope.edges.storages.local_disk import LocalDisk
from rankscope.edges.storages.objects.leases import LOCKS
from rankscope.edges.storages.objects.object_index import Known, ObjectIndex
from rankscope.edges.storages.objects.object_store import Found, Objects

logger = logging.getLogger(__name__)

BEGUN, WHOLE = ".rankscope-begun", ".rankscope-whole"
MARKS = (BEGUN, WHOLE)

_MIRRORED_BYTES = 4 * 2**20
_LARGE = (".safetensors", ".arrow")
"""Of any size they are fetched only when somebody reads them."""

_AT_ONCE = 64


class Mirror:
    """Files below `folder/files`, and what is known of their objects in `folder/index.sqlite`.

    Processes of one node share it. It may be deleted whenever none of them runs.
    """

    def __init__(self, store: Objects, folder: Path) -> None:
        self._store, self._folder = store, folder
        self.files = LocalDisk(folder / "files")
        self.index = ObjectIndex(folder / "index.sqlite")
        self.unfinished: list[str] = []
        """Objects of folders that nobody finished, as the last refresh saw them."""

    def refresh(self) -> None:
        """See what the store holds now: one listing, and the records that changed."""
        with self._alone("refresh"):
            began = time.time()
            found = {n: f for n, f in self._store.find().items() if n and not n.startswith(f"{LOCKS}/")}
            known = self.index.below("")
            notes = self._notes(found, known)
            hidden = _hidden(found, notes)
            self.unfinished = sorted(hidden)
            shown = {name: one for name, one in found.items() if name not in hidden}
            changed = [n for n, one in shown.items() if n not in known or known[n].token != one.token]
            small = [n for n in changed if is_mirrored(n, shown[n].size_bytes) and not is_mark(n)]
            for start in range(0, len(small), _AT_ONCE):
                some = small[start : start + _AT_ONCE]
                contents = self._store.read_many(some)
                self._see({n: shown[n] for n in some if n in contents}, contents, notes, began)
            self._see({n: shown[n] for n in changed if n not in set(small)}, {}, notes, began)
            self._forget([n for n in known if n not in shown], began)

    def bring(self, name: str) -> Path | None:
        """A local file or folder with all that the store has of it; None where it has nothing."""
        if not self.index.holds(name):  # what a killed process left here is not the store's
            return None
        own = self.index.get(name)
        names = [name] if own is not None else [n for n in self.index.below(name) if not is_mark(n)]
        for one in names:
            if not self.files.exists(one):
                self._fetch(one)
        return self.files.local_copy(name)

    def place(self, name: str, content: bytes, token: str) -> None:
        """Show a file that this node has put."""
        with self.index.changing():
            self.files.write(name, content, durable=False)
            self.index.put(name, token, len(content))

    @contextlib.contextmanager
    def _alone(self, name: str) -> Iterator[None]:
        """One process of the node at a time; the others wait."""
        path = self._folder / "locks" / f"{name}.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+") as stream:
            portalocker.lock(stream, portalocker.LOCK_EX)
            yield

    def _notes(self, found: Mapping[str, Found], known: Mapping[str, Known]) -> dict[str, str]:
        """The content of every folder's mark, by its name; read where it is new."""
        marks = [name for name in found if name.endswith(f"/{WHOLE}")]
        notes = {n: k.note for n in marks if (k := known.get(n)) and k.token == found[n].token and k.note is not None}
        for start in range(0, len(marks), _AT_ONCE):
            new = [name for name in marks[start : start + _AT_ONCE] if name not in notes]
            notes |= {name: content.decode() for name, content in self._store.read_many(new).items()}
        return notes

    def _see(
        self, shown: Mapping[str, Found], contents: Mapping[str, bytes], notes: Mapping[str, str], began: float
    ) -> None:
        with self.index.changing():
            for name, one in shown.items():
                before = self.index.get(name)
                if before is not None and before.put_at >= began:
                    continue  # put by this node since the listing was begun
                if name in contents:
                    self.files.write(name, contents[name], durable=False)
                else:
                    self.files.remove(name)
                self.index.saw(name, Known(one.token, one.size_bytes, 0.0, notes.get(name)))

    def _forget(self, gone: list[str], began: float) -> None:
        with self.index.changing():
            for name in gone:
                known = self.index.get(name)
                if known is not None and known.put_at < began:
                    self.files.remove(name)
                    self.index.forget(name)

    def _fetch(self, name: str) -> None:
        with self._alone(f"fetch-{hashlib.sha256(name.encode()).hexdigest()[:16]}"):
            if not self.files.exists(name):
                with self.files.local_draft(name) as draft:
                    self._store.fetch(name, draft)


def whole_note(tokens: Mapping[str, str]) -> str:
    """What `.rankscope-whole` says: the files of the folder by name, with their tokens."""
    return json.dumps({"files": dict(sorted(tokens.items()))})


def is_mark(name: str) -> bool:
    """Whether an object is one of the marks of a folder."""
    return name.rpartition("/")[2] in MARKS


def is_mirrored(name: str, size_bytes: int) -> bool:
    """Whether every node that looks at the study has a copy of such an object."""
    return size_bytes <= _MIRRORED_BYTES and not name.endswith(_LARGE)


def _hidden(found: Mapping[str, Found], notes: Mapping[str, str]) -> set[str]:
    """The objects of folders that were begun and are not whole."""
    hidden: set[str] = set()
    folders: dict[str, list[str]] = {n.removesuffix(f"/{BEGUN}"): [] for n in found if n.endswith(f"/{BEGUN}")}
    for name in found:
        parts = name.split("/")
        for end in range(1, len(parts)):
            folders.get("/".join(parts[:end]), []).append(name)
    for folder, inside in folders.items():
        listed = _listed(notes.get(f"{folder}/{WHOLE}"))
        lacking = listed is None or any(
            (one := found.get(f"{folder}/{file}")) is None or one.token != token for file, token in listed.items()
        )
        if lacking:
            hidden.update(inside)
        else:
            wanted = {f"{folder}/{file}" for file in [*(listed or {}), *MARKS]}
            hidden.update(name for name in inside if name not in wanted)
    return hidden


def _listed(note: str | None) -> dict[str, str] | None:
    try:
        files = json.loads(note)["files"] if note is not None else None
    except (ValueError, LookupError, TypeError):
        return None
    return files if isinstance(files, dict) else None
