"""How files and folders are put into a store, moved and taken away; a kill between any two requests hurts nothing.

Everywhere the store comes first and this node's copy after it; a folder that is one (an adapter) exists from the
request that puts its last mark to the one that deletes it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from rankscope.edges.storages.objects.mirror import BEGUN, WHOLE, Mirror, is_mark, whole_note
from rankscope.edges.storages.objects.object_index import Known
from rankscope.edges.storages.objects.object_store import Objects


class Publisher:
    """Changes of a study in a store. `check` raises where this process may write no more."""

    def __init__(self, store: Objects, mirror: Mirror, check: Callable[[], None]) -> None:
        self._store, self._mirror, self._check = store, mirror, check

    def put(self, name: str, content: bytes) -> None:
        """Replace a file."""
        self._check()
        self._mirror.place(name, content, self._store.put(name, content))

    def create(self, name: str, content: bytes) -> bool:
        """Put a file where none is; False where somebody was first: theirs is then shown."""
        self._check()
        created = self._store.create(name, content)
        there = content if created else self._store.read(name)
        if there is not None:
            self._mirror.place(name, there, "")  # its token is found out at the next look
        return created

    def put_file(self, name: str, draft: Path) -> None:
        """Replace a file by a local one, which is moved."""
        self._check()
        token, size = self._store.put_file(name, draft), draft.stat().st_size
        with self._mirror.index.changing():
            self._move(draft, name)
            self._mirror.index.put(name, token, size)

    def put_folder(self, name: str, draft: Path) -> None:
        """Replace a folder by a local one, which is moved: no last mark, the files, the mark that lists them."""
        self._check()
        index = self._mirror.index
        before = index.below(name)
        self._store.delete([f"{name}/{WHOLE}"])
        self._store.put(f"{name}/{BEGUN}", b"")
        files = {str(path.relative_to(draft)): path for path in sorted(draft.rglob("*")) if path.is_file()}
        sizes = {file: path.stat().st_size for file, path in files.items()}
        tokens = {file: self._store.put_file(f"{name}/{file}", path) for file, path in files.items()}
        note = whole_note(tokens)
        self._check()
        mark = self._store.put(f"{name}/{WHOLE}", note.encode())
        with index.changing():
            self._move(draft, name)
            for one in before:
                index.forget(one)
            for file, token in tokens.items():
                index.put(f"{name}/{file}", token, sizes[file])
            index.put(f"{name}/{BEGUN}", "", 0)
            index.put(f"{name}/{WHOLE}", mark, len(note), note=note)
        self._store.delete([n for n in before if not is_mark(n) and n.removeprefix(f"{name}/") not in tokens])

    def remove(self, name: str) -> None:
        """Delete a file, or a folder with all that it holds."""
        index = self._mirror.index
        names = [name] if index.get(name) is not None else list(index.below(name))
        if not names:
            return
        self._check()
        self._mirror.files.remove(name)
        self._store.delete(sorted(names, key=_whole_first))
        with index.changing():
            for one in names:
                index.forget(one)

    def rename(self, name: str, new_name: str) -> None:
        """Copy inside the store, then delete: a kill in between leaves both."""
        mirror, index = self._mirror, self._mirror.index
        own = index.get(name)
        names = {name: own} if own is not None else index.below(name)
        if not names:
            return
        if index.get(new_name) is None:  # a file is replaced by the copy, a folder is not
            self.remove(new_name)
        self._check()
        copied: dict[str, Known] = {}
        for one in sorted(names, key=_whole_last):
            new = new_name + one.removeprefix(name)
            if one.endswith(f"/{WHOLE}"):
                note = _note_of(new_name, copied)
                copied[new] = Known(self._store.put(new, note.encode()), len(note), time.time(), note)
            else:
                copied[new] = Known(self._store.copy(one, new), names[one].size_bytes, time.time())
        with index.changing():
            mirror.files.remove(new_name)
            mirror.files.rename(name, new_name)
            for new, known in copied.items():
                index.saw(new, known)
        self._store.delete(sorted(names, key=_whole_first))
        with index.changing():
            for one in names:
                index.forget(one)

    def _move(self, draft: Path, name: str) -> None:
        """Show what was made, and is published, in this node's copy."""
        with self._mirror.files.local_draft(name) as place:
            os.replace(draft, place)


def _note_of(folder: str, inside: Mapping[str, Known]) -> str:
    """The mark of a whole folder of these objects."""
    return whole_note({n.removeprefix(f"{folder}/"): known.token for n, known in inside.items() if not is_mark(n)})


def _whole_first(name: str) -> tuple[bool, bool]:
    """The order in which a folder is taken apart: it is gone before any of its files is."""
    return not name.endswith(f"/{WHOLE}"), name.endswith(f"/{BEGUN}")


def _whole_last(name: str) -> tuple[bool, bool]:
    """The order in which a folder is built."""
    return name.endswith(f"/{WHOLE}"), not name.endswith(f"/{BEGUN}")
