"""Opens a data set of the Hugging Face hub as batches of records, and says in one line what the hub refuses and what to
do about it, of data sets and of models."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pyarrow
from huggingface_hub import errors

from rankscope.data.arrow_rows import python_rows
from rankscope.data.row_files import BATCH_ROWS, Batch, Records
from rankscope.study.problems import InputProblems, Problem
from rankscope.study.study import Source

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

What = Literal["model", "data set"]

HUB_ERRORS: tuple[type[Exception], ...] = (OSError, ValueError, KeyError, ImportError, errors.HTTPError)  # type: ignore[attr-defined]
"""What loading from the hub or a folder raises for what is not there, may not be read, or cannot be built. (The hub's
own refusals are HTTPError or OSError; a package that is needed and missing is ImportError.)"""

_NETWORK_MODULES = {"httpx", "httpx2", "httpcore", "requests", "urllib3"}
_PARQUET = "`revision: refs/convert/parquet`, where the hub keeps such sets as Parquet"
_COMMIT = re.compile(r"[0-9a-f]{40}")


def is_commit(revision: str) -> bool:
    """Whether a revision names one content for ever, as a branch or a tag does not."""
    return _COMMIT.fullmatch(revision) is not None


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
    revision = str(builder.hash) if is_commit(str(builder.hash)) else rows._fingerprint
    asked = source.revision or ""
    if is_commit(asked) and is_commit(revision) and asked != revision:
        found = f"only the commit {revision} in the cache, and no connection to the hub"
        raise InputProblems([Problem(source.hub, f"{name}.revision", found, f"the commit {asked}")])
    plain = rows.with_format("arrow")

    def batches() -> Iterator[Batch]:
        for start in range(0, len(plain), BATCH_ROWS):
            rows = python_rows(plain[start : start + BATCH_ROWS], _shown(source), start + 1)
            yield list(enumerate(rows, start + 1))

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


# ---- what the hub refuses -------------------------------------------------------------------------------------------


def hub_problem(
    error: BaseException, *, what: What, hub_id: str, place: str, revision: str | None = None, token: str = "HF_TOKEN"
) -> InputProblems:
    """The problem behind an error of huggingface_hub, transformers or datasets, found in its chain of causes.

    `token` names the environment variable that the token is taken from. What is none of the known refusals is said in
    the error's own first line.
    """
    chain = list(_chain(error))
    words = (
        _access(chain, what, hub_id, revision, token) or _network(chain, what) or _contents(chain, what) or _own(error)
    )
    return InputProblems([Problem(hub_id, place, *words)])


def token_of(variable: str | None, hub_id: str) -> str | None:
    """The token in an environment variable that the study names. Raises InputProblems where it is not set."""
    if variable is None:
        return None
    token = os.environ.get(variable)
    if not token:
        found = f"{variable}, which is not set in the environment"
        raise InputProblems([Problem(hub_id, "token_env", found, "the name of a variable that holds a hub token")])
    return token


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and what led to it, the error first."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        current = waiting.pop(0)
        if current is not None and id(current) not in seen:
            seen.add(id(current))
            yield current
            waiting += [current.__cause__, current.__context__]


def _access(
    chain: list[BaseException], what: What, hub_id: str, revision: str | None, token: str
) -> tuple[str, str] | None:
    """Gated, unknown or private, of no such revision, or a name that no repository can have."""
    text = " ".join(map(str, chain)).lower()
    page = f"https://huggingface.co/{'datasets/' if what == 'data set' else ''}{hub_id}"
    wanted = f"its terms accepted on {page}, and in {token} a token of that account"
    if _any(chain, errors.GatedRepoError) or "gated dataset" in text or "gated repo" in text:
        return f"a gated {what} that this account may not read", wanted
    if _any(chain, errors.RevisionNotFoundError) or "is not a valid git identifier" in text:
        return f"no revision {revision}", f"a branch, tag or commit of {page}"
    if _any(chain, errors.HFValidationError):
        return "a name that no repository has", "a hub id such as organisation/name, or a folder that exists"
    if _any(chain, errors.RepositoryNotFoundError) or "doesn't exist on the hub" in text:
        expected = f"a hub id; for a private one a token in {token}"
        return f"no such {what} on the hub, or a private one", expected
    status = next((e.response.status_code for e in chain if isinstance(e, errors.HfHubHTTPError)), None)
    if status in (401, 403):
        return f"a {what} that this account may not read (HTTP {status})", wanted
    if status is not None and status >= 429:
        return f"a hub that refuses for now (HTTP {status})", "another try later: what is there is kept"
    return None


def _network(chain: list[BaseException], what: What) -> tuple[str, str] | None:
    offline = (ConnectionError, TimeoutError, errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled)
    lost = _any(chain, *offline) or any(type(e).__module__.split(".")[0] in _NETWORK_MODULES for e in chain)
    if not lost:
        return None
    return f"no connection to the hub, and no copy of the {what} in the cache", "a network, or a folder or file instead"


def _contents(chain: list[BaseException], what: What) -> tuple[str, str] | None:
    """What is there, but not as it was asked for: code to run, a configuration or split that does not exist."""
    text = "\n".join(map(str, chain))
    if "trust_remote_code" in text:
        found = "a model that needs code of its own from the hub"
        return found, "`trust_remote_code: true`, once you have read and trust that code; or another model"
    if "does not recognize this architecture" in text:
        kind = re.search(r"model type `([^`]+)`", text)
        found = f"the architecture {kind[1]}" if kind else "an architecture"
        return f"{found}, which this version of transformers does not know", "another model, or a newer transformers"
    if what == "model":
        return None
    if "scripts are no longer supported" in text:
        return "a set that is a loading script, which is not run", _PARQUET
    names = re.search(r"(?:available configs|Available|Should be one of|Available splits):? ?(\[[^\]]*\])", text)
    listed = re.findall(r"'([^']*)'", names[1]) if names else []
    if "Config name is missing" in text:
        return "a set of several configurations", f"`config:` with one of {', '.join(listed)}"
    if "BuilderConfig" in text and listed:
        return "no such configuration", f"`config:` with one of {', '.join(listed)}"
    if ("nknown split" in text or "Bad split" in text) and listed:
        return "no such split", f"`split:` with one of {', '.join(listed)}"
    if any(type(e).__name__ in ("DataFilesNotFoundError", "EmptyDatasetError") for e in chain):
        return "no file of rows in it", f"a set of Parquet, JSON or CSV files; {_PARQUET}"
    return None


def _own(error: BaseException) -> tuple[str, str]:
    lines = str(error).strip().splitlines()
    first = lines[0] if lines else type(error).__name__
    return first[:300], "a folder, or a hub id that can be read"


def _any(chain: list[BaseException], *kinds: type[BaseException]) -> bool:
    return any(isinstance(error, kinds) for error in chain)
