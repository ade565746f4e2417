"""Where the model and the data of a config are: files and folders of this machine as a study names them, or hub ids."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rankscope.study.configs.config_record import BaseModel, DataSet
from rankscope.study.problems import Problem
from rankscope.study.store_urls import is_url
from rankscope.study.study_settings import is_name

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_OF_FILES = (".json", ".jsonl", ".csv", ".tsv", ".parquet", ".pq", ".arrow", ".gz", ".zst", ".zip", ".txt", ".xlsx")


def find_local(where: str, folders: Sequence[Path]) -> Path | None:
    """The file or folder, looked for from each of these folders; None where there is none."""
    plain = Path(os.path.expanduser(where))
    return next((found for folder in folders if (found := folder / plain).exists()), None)


def from_study(path: Path, out: Path) -> str:
    """A path as the study at `out` names it: relative to its file, absolute where it was given so."""
    return str(path) if path.is_absolute() else os.path.relpath(path, out.parent)


def source_of(data: DataSet, folders: Sequence[Path], out: Path, file: str) -> dict[str, Any] | Problem:
    """The entry of a training set or suite that reads these rows, without its domain; what is wrong where there is no
    such file."""
    local = find_local(data.where, folders) if data.where else None
    if local is not None and local.is_file():
        entry: dict[str, Any] = {"path": from_study(local, out)}
    elif local is not None:
        entry = {"hub": from_study(local, out)} | _of_hub(data)
    elif _HUB_ID.fullmatch(data.where) and not data.where.lower().endswith(_OF_FILES):
        entry = {"hub": data.where} | _of_hub(data)
    else:
        here = "this folder or the config's"
        return Problem(file, data.place, f"{data.where}, no such file", f"a file seen from {here}, or --train FILE")
    kept = {"columns": data.columns, "template": data.template, "limit": data.limit}
    return entry | {key: value for key, value in kept.items() if value is not None}


def _of_hub(data: DataSet) -> dict[str, Any]:
    kept = {"config": data.config, "split": data.split or "train", "revision": data.revision}
    return {key: value for key, value in kept.items() if value is not None}


def model_entry(model: BaseModel, folders: Sequence[Path], out: Path, file: str) -> dict[str, Any] | Problem:
    """The study's `model`. A path that this machine has not is a problem, since no plan could look at it."""
    if model.id is None:
        return Problem(file, "model", "none named", "--model with a folder or a hub id")
    local = find_local(model.id, folders)
    if local is None and not is_url(model.id) and not _HUB_ID.fullmatch(model.id):
        return Problem(file, "model", f"{model.id}, no such folder", "--model with a folder or a hub id")
    entry: dict[str, Any] = {"id": from_study(local, out) if local is not None else model.id}
    if local is not None and not entry["id"].startswith((".", "/")):
        entry["id"] = f"./{entry['id']}"
    kept = {
        "revision": model.revision if local is None else None,
        "dtype": model.dtype,
        "trust_remote_code": model.trust_remote_code or None,
        "quantization": model.quantization,
        "chat": "never" if model.chat == "never" else None,
        "chat_template": model.chat_template,
        "system_prompt": model.system_prompt,
    }
    return entry | {key: value for key, value in kept.items() if value is not None}


def set_names(data: Sequence[DataSet]) -> list[str]:
    """A name for each data set, as a study has them: its own, else its file's or id's last part; all different."""
    names: list[str] = []
    for one in data:
        stem = one.name or one.where.rstrip("/").rsplit("/", 1)[-1]
        stem = next((stem.removesuffix(end) for end in _OF_FILES if stem.endswith(end)), stem)
        plain = re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-._")[:48]
        plain = plain if plain and is_name(plain) else "mine"
        count = sum(name == plain or re.fullmatch(rf"{re.escape(plain)}-\d+", name) is not None for name in names)
        names.append(plain if not count else f"{plain}-{count + 1}")
    return names
