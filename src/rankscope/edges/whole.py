"""Whole files: each is written beside its place and renamed, so that it exists only when it is whole."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from rankscope.records import Record

_R = TypeVar("_R", bound=Record)


def write_whole(path: Path, fill: Callable[[Path], object]) -> None:
    """`fill` writes the file that then stands at `path`, replacing what was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        fill(temporary)
        temporary.chmod(0o644)
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()


def write_record(path: Path, record: Record) -> None:
    write_whole(path, lambda temporary: temporary.write_text(record.model_dump_json(indent=1), encoding="utf-8"))


def read_record(path: Path, kind: type[_R]) -> _R | None:
    """None where there is no file."""
    return kind.model_validate_json(path.read_text(encoding="utf-8")) if path.is_file() else None


def remove_leftovers(folder: Path) -> int:
    """Delete what a killed process left half-written; the number removed. Call it under the study's lock."""
    count = 0
    for path in folder.rglob(".*"):
        if path.name == ".locks" or ".locks" in path.parts or not path.exists():
            continue
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        count += 1
    return count
