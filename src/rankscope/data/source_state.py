"""Records the files that a study's rows come from, and says later which of them are no longer what they were."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from rankscope.data.hub_data import hub_revision, is_commit
from rankscope.records import SourceState
from rankscope.study.methods.given_method import GivenEntry
from rankscope.study.problems import InputProblems
from rankscope.study.study import Source, Study, SuiteSource, is_task_file

How = Literal["changed", "gone", "new"]


@dataclass(frozen=True)
class Changed:
    """A file or data set of the training set or suite `name` that is not as it was."""

    name: str
    file: str
    how: How

    def __str__(self) -> str:
        return f"{self.name}: {self.file} {'is' if self.how in ('gone', 'new') else 'has'} {self.how}"


def source_states(study: Study, folder: Path) -> list[SourceState]:
    """The state now of every source, training sets first; relative paths start at `folder`. Files are hashed.

    Raises InputProblems for a data set of the hub whose commit cannot be known.
    """
    return [_state(place) for name, source in _sources(study) for place in _places(name, source, folder)]


def changed_sources(states: list[SourceState], study: Study, folder: Path) -> list[Changed]:
    """What of the sources in `states` is no longer as it was, or is gone, and which files of theirs are new.

    A file whose size and time are the same counts as the same; where they differ its hash decides. Sources that the
    study no longer has are passed over.
    """
    sources = dict(_sources(study))
    found: list[Changed] = []
    for name in dict.fromkeys(state.name for state in states if state.name in sources):
        own = [state for state in states if state.name == name]
        places = list(_places(name, sources[name], folder))
        for state in own:
            place = next((place for place in places if place.is_of(state)), None)
            how = _gone(state) if place is None else _change(place, state)
            if how is not None:
                found.append(Changed(name, state.file, how))
        known = [place for place in places if any(place.is_of(state) for state in own)]
        new = [
            place for place in places if place not in known and place.path is not None and os.path.isfile(place.path)
        ]
        found += [Changed(name, place.file, "new") for place in new]
    return found


@dataclass(frozen=True)
class _Place:
    """A file of a source, or what has a revision in place of a file."""

    name: str
    file: str
    path: Path | None = None
    source: Source | None = None
    revision: str | None = None

    def is_of(self, state: SourceState) -> bool:
        """Whether this is where the state was taken: a study may name the same file by its whole path later."""
        return state.file == self.file or (self.path is not None and state.path == str(self.path))


def _sources(study: Study) -> Iterator[tuple[str, Source | Path]]:
    """By place what has rows, and the folders of arms that were trained elsewhere."""
    yield from ((f"train.{name}", source) for name, source in study.train.items())
    yield from ((f"suites.{name}", source) for name, source in study.suites.items() if source.held_out is None)
    for key, entry in study.arms.items():
        if entry.replay is not None and (file := entry.replay.file) is not None:
            yield f"arms.{key}.replay", Source(path=file)
        if isinstance(entry, GivenEntry):
            yield from ((f"arms.{key}[{i}]", Path(given)) for i, given in enumerate(entry.folders))


def _places(name: str, source: Source | Path, folder: Path) -> Iterator[_Place]:
    if isinstance(source, Path):
        for path in sorted(_absolute(folder, str(source)).glob("*")):
            if path.suffix in (".json", ".safetensors"):
                yield _Place(name, str(source / path.name), path)
    elif source.path is not None:
        for file in (source.path, os.path.join(os.path.dirname(source.path), "aliases.json")):
            yield _Place(name, file, _absolute(folder, file))
    elif source.hub is not None and os.path.isdir(local := _absolute(folder, source.hub)):
        for path in sorted(path for path in local.rglob("*") if os.path.isfile(path)):
            yield _Place(name, os.path.join(source.hub, path.relative_to(local)), path)
    elif source.hub is not None:
        yield _Place(name, source.hub, source=source)
    elif isinstance(source, SuiteSource) and source.harness is not None and is_task_file(source.harness):
        task = _absolute(folder, source.harness)
        for path in _task_files(task):
            yield _Place(name, source.harness if path == task else str(path), path)
    elif isinstance(source, SuiteSource) and source.harness is not None:
        yield _Place(name, source.harness, revision=f"lm-eval {_version('lm-eval')}")
    else:
        yield _Place(name, f"world {source.world}", revision="bundled")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _absolute(folder: Path, file: str) -> Path:
    path = folder / os.path.expanduser(file)
    try:
        return Path(os.path.realpath(path))
    except ValueError:  # a path that no system allows, which reading refuses
        return path


def _task_files(path: Path) -> list[Path]:
    """A task's YAML file, those that it includes, local data files that it names, and the Python beside it."""
    found: dict[Path, None] = {}
    waiting = [path]
    while waiting:
        file = waiting.pop(0).resolve()
        if file in found:  # files may include one another
            continue
        found[file] = None
        settings = _settings(file)
        included = settings.get("include") or []
        waiting += [file.parent / one for one in ([included] if isinstance(included, str) else included)]
        data = (settings.get("dataset_kwargs") or {}).get("data_files") or []
        listed = list(data.values()) if isinstance(data, dict) else data if isinstance(data, list) else [data]
        waiting += [one for entry in listed for one in _data_files(entry)]
    return list(found | dict.fromkeys(sorted(path.parent.glob("*.py"))))


def _data_files(entry: Any) -> list[Path]:
    listed = entry if isinstance(entry, list) else [entry]
    return [Path(one) for one in listed if isinstance(one, str) and os.path.isfile(one)]


def _settings(path: Path) -> dict[str, Any]:
    if not (path.suffix in (".yaml", ".yml", "") and os.path.isfile(path)):
        return {}
    import yaml  # lm-eval's own reader, which is there where its tasks are: ours refuses their tags (`!function`)

    class Tolerant(yaml.SafeLoader):
        """Reads a tag that it does not know as nothing."""

    Tolerant.add_multi_constructor("!", lambda *_: None)
    try:
        found = yaml.load(path.read_text(encoding="utf-8"), Loader=Tolerant)
    except (yaml.YAMLError, UnicodeDecodeError):
        return {}
    return found if isinstance(found, dict) else {}


def _state(place: _Place) -> SourceState:
    state = SourceState(name=place.name, file=place.file, path=str(place.path) if place.path is not None else None)
    if place.path is None:
        return state.model_copy(update={"revision": _revision(place)})
    try:
        if not os.path.isfile(place.path):  # nothing that is read: a pipe would wait for ever
            return state
        return state.model_copy(update=file_facts(place.path))
    except OSError:
        return state


def _gone(state: SourceState) -> How | None:
    return None if state.sha256 is None and state.revision is None else "gone"


def _change(place: _Place, state: SourceState) -> How | None:
    if place.path is None:
        try:
            return None if _revision(place) == state.revision else "changed"
        except InputProblems:
            return "gone"
    try:
        if state.sha256 is None:
            place.path.stat()
            return "new"
        return None if is_same_file(place.path, state) else "changed"
    except OSError:
        return _gone(state)


def _revision(place: _Place) -> str | None:
    if place.source is None:
        return place.revision
    asked = place.source.revision or ""
    return asked if is_commit(asked) else hub_revision(place.source, place.name)


def file_facts(path: Path) -> dict[str, Any]:
    """Size in bytes, time in nanoseconds and SHA-256 of a file, as a SourceState has them. Raises OSError."""
    stat = path.stat()
    return {"size_bytes": stat.st_size, "modified_ns": stat.st_mtime_ns, "sha256": _sha256(path)}


def is_same_file(path: Path, state: SourceState) -> bool:
    """Whether a file is what it was: by size and time, and only where these differ by its hash. Raises OSError."""
    stat = path.stat()
    if (stat.st_size, stat.st_mtime_ns) == (state.size_bytes, state.modified_ns):
        return True
    return stat.st_size == state.size_bytes and _sha256(path) == state.sha256


def _sha256(path: Path) -> str:
    stat = path.stat()
    return _digest_of(path, stat.st_ino, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=1024)
def _digest_of(path: Path, *_state: int) -> str:
    """Read once while the file stays what it is: a plan asks for a model's files more than once, and they are large."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
