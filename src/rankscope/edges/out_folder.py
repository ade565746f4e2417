"""A folder that is made for others (an exported adapter): on a disk, in an object store, or as a model of the hub."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rankscope.edges.storages import open_storage
from rankscope.edges.storages.objects.object_store import FsspecObjects
from rankscope.study.problems import InputProblems, Problem
from rankscope.study.store_urls import HUB, checked_url, is_url, problem_of


def check_out(out: str | Path) -> None:
    """Raises InputProblems where something stands there already, or nothing could be put there."""
    text = str(out)
    if not is_url(text):
        path = Path(out)
        taken = path.exists() and any(path.iterdir() if path.is_dir() else [path])
    elif text.startswith(f"{HUB}://"):
        taken = _hub_files(text) > 0
    else:
        objects = FsspecObjects(checked_url(text))
        taken = bool(objects.find())
        if not taken:
            objects.put("README.md", b"")  # may it be written at all? It is replaced by the model card
            objects.delete(["README.md"])
    if taken:
        raise InputProblems([Problem(text, "--out", "something there already", "a new or empty folder")])


@contextmanager
def out_folder(out: str | Path) -> Iterator[Path]:
    """A local path where the folder is to be made; it stands at `out` when the context ends without an error."""
    text = str(out)
    if not is_url(text):
        path = Path(out).resolve()  # of a link the folder that it leads to, on whatever disk that is
        with open_storage(path.parent).local_draft(path.name) as draft:
            yield draft
            check_out(path)  # what was put there while this was made is not replaced
        return
    with TemporaryDirectory(prefix="rankscope-out-") as temporary:
        draft = Path(temporary) / "made"
        yield draft
        if text.startswith(f"{HUB}://"):
            _push(text, draft)
            return
        objects = FsspecObjects(checked_url(text))
        # The card last: who finds it finds the rest.
        files = sorted(path for path in draft.rglob("*") if path.is_file())
        files.sort(key=lambda path: path.name == "README.md")
        for file in files:
            objects.put_file(str(file.relative_to(draft)), file)


def _repository(url: str) -> str:
    """ORG/NAME of hf://ORG/NAME."""
    name = url.removeprefix(f"{HUB}://").strip("/")
    if name.count("/") != 1 or ":" in name or "@" in name:
        shown = f"{HUB}://{name.rpartition('@')[2]}"  # what stands before @ may be a token
        raise InputProblems([Problem(shown, "--out", "no model of the hub", "hf://ORG/NAME")])
    return name


def _hub_files(url: str) -> int:
    """How many files the model has; 0 where there is no such model yet."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError

    with _told(url), contextlib.suppress(RepositoryNotFoundError):
        files = HfApi().list_repo_files(_repository(url))
        return len([name for name in files if name != ".gitattributes"])
    return 0


def _push(url: str, folder: Path) -> None:
    """One commit with the whole folder; a model that is not there yet is made, private."""
    from huggingface_hub import HfApi

    with _told(url):
        api: Any = HfApi()
        api.create_repo(_repository(url), private=True, exist_ok=True)
        api.upload_folder(repo_id=_repository(url), folder_path=str(folder), commit_message="Exported by rankscope")


@contextmanager
def _told(url: str) -> Iterator[None]:
    """What the hub refuses, in a line."""
    from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

    try:
        yield
    except (InputProblems, RepositoryNotFoundError):
        raise
    except (HfHubHTTPError, OSError) as error:
        response = getattr(error, "response", None)
        if response is not None and response.status_code in (401, 403):
            expected = "a token that may write there: `hf auth login`, or HF_TOKEN"
            raise InputProblems([Problem(url, "", "access denied", expected)]) from error
        raise InputProblems([problem_of(error, url)]) from error
