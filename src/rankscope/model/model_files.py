"""The files of a base model's folder: their hashes when a study is planned, and whether they are still the same."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from rankscope.records import SourceState
from rankscope.study.problems import InputProblems, Problem

_READ = (".safetensors", ".json", ".jinja", ".txt", ".model", ".gguf", ".py")
"""Endings of what transformers and tokenizers may read from a model's folder; everything else is passed over."""

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json", "chat_template.jinja")


def model_states(name: str, path: str) -> list[SourceState]:
    """The state now of every file that decides what the model in a folder does; none for a hub id, whose commit does.

    `name` is the model's in the study.
    """
    folder = Path(path)
    files = sorted(file for file in folder.iterdir() if _is_read(file)) if folder.is_dir() else []
    return [_state(name, file) for file in files]


def content_sha256(path: str, commit: str | None, states: Sequence[SourceState]) -> str:
    """Hash of what decides a model's outputs: configuration, weights, tokenizer; for a hub model of its commit."""
    digest = hashlib.sha256()
    if not Path(path).is_dir():
        digest.update(f"{path}@{commit}".encode())
        return digest.hexdigest()
    for state in states:
        file = Path(state.file).name
        if (file.endswith(".safetensors") or file in ("config.json", *_TOKENIZER_FILES)) and state.sha256 is not None:
            digest.update(file.encode())
            digest.update(bytes.fromhex(state.sha256))
    return digest.hexdigest()


def changed_model_files(states: Sequence[SourceState]) -> list[tuple[SourceState, str]]:
    """(state, what is found now) of every file that is not as it was. A file of the same size and time is the same."""
    found = []
    for state in states:
        file = Path(state.file)
        if not file.is_file():
            found.append((state, "no such file any more"))
            continue
        stat = file.stat()
        if (stat.st_size, stat.st_mtime_ns) == (state.size_bytes, state.modified_ns):
            continue
        if stat.st_size != state.size_bytes or _sha256(file) != state.sha256:
            found.append((state, "another content"))
    return found


def check_model_files(states: Sequence[SourceState]) -> None:
    """Raises InputProblems where a model is no longer the one that was planned with."""
    changed = changed_model_files(states)
    if changed:
        expected = "the model as it was when the study was planned: put it back, or give another --out"
        raise InputProblems([Problem(state.file, f"model {state.name}", how, expected) for state, how in changed])


def _is_read(file: Path) -> bool:
    return file.is_file() and file.suffix in _READ and not file.name.startswith(("adapter_", "."))


def _state(name: str, file: Path) -> SourceState:
    stat = file.stat()
    return SourceState(
        name=name, file=str(file), size_bytes=stat.st_size, modified_ns=stat.st_mtime_ns, sha256=_sha256(file)
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
