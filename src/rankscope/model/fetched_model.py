"""Models and adapters in an object store: fetched once to each machine, into a folder named by what the store has."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import portalocker

from rankscope.study.problems import InputProblems, Problem
from rankscope.study.store_urls import cache_folder, checked_url, is_url, open_store, problem_of

READ = (".safetensors", ".json", ".jinja", ".txt", ".model", ".gguf", ".py")
"""Endings of what transformers and tokenizers may read from a model's folder; everything else is passed over."""

_TOLD = ("ETag", "etag", "generation", "md5Hash", "content_md5", "LastModified", "updated", "created", "mtime", "size")


@cache
def fetched(url: str) -> Path:
    """The local folder with the model's files, as the store had them when this process first asked.

    Processes of one machine fetch a model once, the others wait. Raises InputProblems for whatever the store refuses,
    and where there is no such folder.
    """
    url = checked_url(url)
    filesystem, root = open_store(url)
    try:
        found = filesystem.find(root, maxdepth=1, detail=True)
    except Exception as error:
        raise InputProblems([problem_of(error, url)]) from error
    files = {path.rpartition("/")[2]: info for path, info in found.items() if path.endswith(READ)}
    if not files:
        raise InputProblems([Problem(url, "model", "nothing there", "a folder with config.json and *.safetensors")])
    told = sorted((name, [str(info[key]) for key in _TOLD if info.get(key)]) for name, info in files.items())
    folder = cache_folder() / "models" / hashlib.sha256(repr((url, told)).encode()).hexdigest()[:20]
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("a+") as stream:
        portalocker.lock(stream, portalocker.LOCK_EX)
        if not folder.is_dir():
            _fetch(filesystem, url, {name: f"{root}/{name}" for name in files}, folder)
    return folder


def local_file(file: str) -> Path:
    """The file of a model as it lies on this machine; one that is named by its URL is fetched with its folder."""
    if not is_url(file):
        return Path(file)
    url, _, name = file.rpartition("/")
    return fetched(url) / name


def _fetch(filesystem: Any, url: str, files: dict[str, str], folder: Path) -> None:
    """The folder appears when all of it is there."""
    draft = folder.with_name(f"{folder.name}.{secrets.token_hex(4)}.draft")
    draft.mkdir()
    try:
        for name, path in files.items():
            filesystem.get_file(path, str(draft / name))
        os.replace(draft, folder)
    except Exception as error:
        raise InputProblems([problem_of(error, url)]) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
