"""The command to type next, told from what lies in a folder: studies, study files, configs, rows, adapters.

What was begun comes before what could be begun, and of several the one that was touched last. Files are looked at only
as far as it takes to tell what they are, and what cannot be read is no reason to say anything about it.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rankscope.edges.study_folder import StudyFolder
from rankscope.study.configs import config_tools
from rankscope.study.configs.config_file import LEAST_MARKS, is_data_file, is_defaults, load_config
from rankscope.study.problems import InputProblems

_MOST_ENTRIES = 500
"""Of a folder with more, the first are looked at."""
_NAME = "\0"
"""Where the name stands among a command's words."""
_MOST_CONFIG_BYTES = 1_000_000
_STUDY_KEYS = {"model", "train", "suites", "arms"}
_NO_ROWS = {
    "package.json",
    "package-lock.json",
    "tsconfig.json",
    "adapter_config.json",
    "config.json",
    "tokenizer.json",
}
_NO_CONFIGS = {"mkdocs.yml", "docker-compose.yml", "docker-compose.yaml"}


@dataclass(frozen=True)
class NextCommand:
    """`command`: to be typed as it stands, in that folder; `why`: what was found there."""

    command: str
    why: str

    def as_json(self) -> dict[str, Any]:
        """`next` of `doctor --json`."""
        return asdict(self)


def next_command(folder: Path) -> NextCommand:
    """What to type next in `folder`; with nothing of use in it, the smaller demo."""
    entries = _entries(folder)
    for rule in (_of_a_study, _of_a_study_file, _of_a_config, _of_rows, _of_an_adapter):
        for path in entries:
            found = rule(path, path.name)
            if found is not None:
                return found
    return NextCommand("rankscope demo --quick", "nothing of yours is here yet: see it at work, in under a minute")


def _entries(folder: Path) -> list[Path]:
    """What lies in the folder, what was touched last first; hidden names are left out."""

    def touched(path: Path) -> float:
        try:
            return path.stat().st_mtime
        except OSError:
            return 0.0

    try:
        names = [path for _, path in zip(range(_MOST_ENTRIES), _shown(folder), strict=False)]
    except OSError:
        return []
    return sorted(names, key=lambda path: (-touched(path), path.name))


def _shown(folder: Path) -> Iterator[Path]:
    return (path for path in folder.iterdir() if not path.name.startswith("."))


def _typed(command: str, name: str, *options: str) -> str:
    """A command line about one thing of the folder; a name that begins with a dash is given as a path."""
    shown = f"./{name}" if name.startswith("-") else name
    return shlex.join(["rankscope", command, *(shown if word == _NAME else word for word in options or (_NAME,))])


# ---- what was begun --------------------------------------------------------------------------------------------------


def _of_a_study(path: Path, name: str) -> NextCommand | None:
    if not path.is_dir() or not (folder := _quietly(lambda: StudyFolder.open(path))):
        return None
    plan = _quietly(lambda: folder.read_plan() if folder.read_marker() is not None else None)
    if plan is None:
        return None
    if _quietly(folder.is_worked_on):
        return NextCommand(_typed("status", name, _NAME, "--watch"), f"the study {name} is running")
    states = [_quietly(partial(folder.read_status, run.run_id)) for run in plan.runs if run.fits]
    done = sum(status is not None and status.state == "done" for status in states)
    verdicts = _quietly(folder.read_verdicts)
    if verdicts is None:
        return NextCommand(_typed("run", name), f"the study {name} has {done} of {len(states)} runs, and goes on there")
    if any(one.recommended for one in verdicts.verdicts) and not (path.parent / "adapter").exists():
        return NextCommand(_typed("export", name, _NAME, "--out", "adapter"), f"the study {name} recommends an arm")
    return NextCommand(_typed("verdict", name), f"the study {name} has ended")


def _quietly(read: Callable[[], Any]) -> Any:
    """What was read; None where it cannot be: another command says what is wrong with it."""
    try:
        return read()
    except (InputProblems, OSError, ValueError):
        return None


# ---- what could be begun ---------------------------------------------------------------------------------------------


def _of_a_study_file(path: Path, name: str) -> NextCommand | None:
    values = _settings(path)
    if values is None or not values.keys() >= _STUDY_KEYS:
        return None
    return NextCommand(_typed("plan", name), f"{name} is a study: what it would take")


def _of_a_config(path: Path, name: str) -> NextCommand | None:
    values = _settings(path)
    if values is None or name in _NO_CONFIGS:
        return None
    if is_defaults(values):
        return NextCommand(_typed("init", name, "--from", _NAME), f"{name} has ranks and rates of earlier studies")
    tool = max(config_tools().values(), key=lambda one: one.likeness(values))
    if tool.likeness(values) < LEAST_MARKS or name == "adapter_config.json":
        return None
    return NextCommand(_typed("init", name, "--from", _NAME), f"{name} is a config of {tool.title}: it becomes a study")


def _of_rows(path: Path, name: str) -> NextCommand | None:
    if name in _NO_ROWS or not path.is_file() or not _quietly(lambda: is_data_file(path) and path.stat().st_size):
        return None
    return NextCommand(_typed("init", name), f"{name} has rows: a study of them")


def _of_an_adapter(path: Path, name: str) -> NextCommand | None:
    if not path.is_dir() or not _quietly(lambda: (path / "adapter_config.json").is_file()):
        return None
    return NextCommand(_typed("audit", name), f"{name} is an adapter: how much of its rank it uses")


def _settings(path: Path) -> dict[str, Any] | None:
    """The mapping in a YAML or JSON file of a config's size; None for anything else."""
    if path.suffix.lower() not in (".yaml", ".yml", ".json") or not path.is_file():
        return None
    values = _quietly(lambda: load_config(path) if path.stat().st_size <= _MOST_CONFIG_BYTES else None)
    return {str(key): value for key, value in values.items()} if isinstance(values, dict) else None
