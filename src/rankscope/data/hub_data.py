"""Opens a data set of the Hugging Face hub: its records in batches of Arrow, and the commit that they were read at."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow

from rankscope.data.hub_errors import HUB_ERRORS, hub_problem
from rankscope.data.row_files import BATCH_ROWS, Batch, Records
from rankscope.study.problems import InputProblems, Problem
from rankscope.study.study import Source

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class HubSet:
    """`revision`: the commit, or for a folder the fingerprint that datasets gives its content."""

    records: Records
    revision: str
    file: str


def open_hub(source: Source, base: Path, name: str) -> HubSet:
    """Every row of one split. A folder (relative to `base`) with data files is read as a set on the hub is.

    A token is taken from the environment (HF_TOKEN) or the login of huggingface_hub. Nothing of a set is run: sets that
    are loading scripts are refused. Raises InputProblems, one line for each way in which the hub refuses.
    """
    assert source.hub is not None
    folder = base / Path(source.hub).expanduser()
    with _refusals(source, name):
        builder = _builder(source, str(folder.resolve()) if folder.is_dir() else source.hub)
        builder.download_and_prepare()
        loaded = builder.as_dataset(split=source.split)
    rows = _one_split(loaded, source, name)
    revision = str(builder.hash) if _COMMIT.fullmatch(str(builder.hash)) else rows._fingerprint
    asked = source.revision or ""
    if _COMMIT.fullmatch(asked) and _COMMIT.fullmatch(revision) and asked != revision:
        found = f"only the commit {revision} in the cache, and no connection to the hub"
        raise InputProblems([Problem(source.hub, f"{name}.revision", found, f"the commit {asked}")])
    plain = rows.with_format("arrow")

    def batches() -> Iterator[Batch]:
        for start in range(0, len(plain), BATCH_ROWS):
            yield list(enumerate(plain[start : start + BATCH_ROWS].to_pylist(), start + 1))

    return HubSet(Records("row", batches, len(plain)), revision, _shown(source))


def hub_revision(source: Source, name: str) -> str:
    """The commit that a data set of the hub has now, or has in the cache where there is no connection. Raises
    InputProblems."""
    with _refusals(source, name):
        return str(_builder(source, str(source.hub)).hash)


def _builder(source: Source, path: str) -> Any:
    from datasets import load_dataset_builder

    return load_dataset_builder(path, source.config, revision=source.revision)


@contextmanager
def _refusals(source: Source, name: str) -> Iterator[None]:
    """What the hub and the library refuse, as InputProblems; nor does the library show bars for downloads and files."""
    from datasets import exceptions
    from datasets.utils import logging as chatter

    shown = chatter.is_progress_bar_enabled()
    chatter.disable_progress_bar()
    try:
        yield
    except (*HUB_ERRORS, exceptions.DatasetsError, pyarrow.ArrowException, RuntimeError, TypeError) as error:
        hub_id = str(source.hub)
        raise hub_problem(error, what="data set", hub_id=hub_id, place=name, revision=source.revision) from error
    finally:
        if shown:
            chatter.enable_progress_bar()


def _one_split(loaded: Dataset | DatasetDict, source: Source, name: str) -> Dataset:
    """The rows; of a set with one split, that one needs no naming."""
    if not isinstance(loaded, dict):
        return loaded
    if len(loaded) == 1:
        return next(iter(loaded.values()))
    found = f"a set of {len(loaded)} splits"
    raise InputProblems([Problem(str(source.hub), name, found, f"`split:` with one of {', '.join(map(str, loaded))}")])


def _shown(source: Source) -> str:
    parts = [part for part in (source.hub, source.config, source.split) if part is not None]
    return os.path.join(*parts)
