"""Chooses the suites that `general: auto` stands for: ready ones that this machine can reach, or the files of a folder.

Chosen once for a study folder: its study.yaml has them, each with `chosen_for`, and a study that goes on keeps them.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from rankscope.data.rows_look import look_at_rows
from rankscope.evaluate.reachable_suites import reachable_suites
from rankscope.study.problems import InputProblems, Problem
from rankscope.study.source_settings import READY
from rankscope.study.study import Study, SuiteSource

ITEMS = 300
"""Of each ready suite, where the study gives no `limit`."""

_ROW_FILES = (".jsonl", ".json", ".csv", ".tsv", ".parquet")


def with_chosen_suites(asked: Study, base: Path, before: Study | None) -> Study:
    """The study with suites chosen for every `auto`; those of `before`, the study as its folder has it, stay. A remedy
    that names the `auto` means all of them. Raises InputProblems where nothing can be reached."""
    suites: dict[str, SuiteSource] = {}
    own: dict[str, list[str]] = {}
    for name, source in asked.suites.items():
        if source.auto is None:
            suites[name] = source
            continue
        found = _kept(name, source, before, base) or _chosen(name, source, asked, base)
        if twice := sorted(found.keys() & {*asked.suites, *suites}):
            expected = "other names for the suites of the study: `auto` makes these"
            raise InputProblems([Problem(asked.name, f"suites.{twice[0]}", f"it twice, for {name} too", expected)])
        suites |= found
        own[name] = list(found)
    if not own:
        return asked
    arms = dict(asked.arms)
    for key, entry in arms.items():
        given = entry.replay.prompts_from if entry.replay is not None else None
        if entry.replay is not None and given is not None:
            named = tuple(one for name in given for one in own.get(name, [name]))
            arms[key] = entry.model_copy(update={"replay": entry.replay.model_copy(update={"prompts_from": named})})
    return asked.model_copy(update={"suites": suites, "arms": arms})


def _kept(name: str, source: SuiteSource, before: Study | None, base: Path) -> dict[str, SuiteSource]:
    """What was chosen before for the same wish; empty where nothing was."""
    found = {key: one for key, one in (before.suites if before else {}).items() if one.chosen_for == name}
    if source.auto == READY:
        same = all(one.path is None for one in found.values())
    else:
        folder = _folder(source, base).resolve()
        same = all(one.path is not None and Path(one.path).parent == folder for one in found.values())
    limits = {source.limit} if source.limit is not None else {one.limit for one in found.values()}
    return found if same and {one.limit for one in found.values()} == limits else {}


def _chosen(name: str, source: SuiteSource, study: Study, base: Path) -> dict[str, SuiteSource]:
    given = _ready(name, study) if source.auto == READY else _files(name, source, study, base)
    update = {"limit": source.limit or (ITEMS if source.auto == READY else None), "chosen_for": name}
    return {f"{name}-{key}": one.model_copy(update=update) for key, one in given.items()}


def _ready(name: str, study: Study) -> dict[str, SuiteSource]:
    """The ready suites that can be had. Raises InputProblems where none can, with the reason of each."""
    reached = reachable_suites(f"suites.{name}")
    if not reached.suites:
        expected = (
            "a network, their copies in the cache, `{auto: FOLDER}` with a folder of your own files of rows, or a "
            "study without this suite"
        )
        raise InputProblems([Problem(study.name, f"suites.{name}", f"no ready suite ({reached.why_not})", expected)])
    return reached.suites


def _folder(source: SuiteSource, base: Path) -> Path:
    return base / os.path.expanduser(source.auto or "")


def _files(name: str, source: SuiteSource, study: Study, base: Path) -> dict[str, SuiteSource]:
    """A suite for each file of rows in the folder that the study does not name already, asked as its rows show."""
    folder, file = _folder(source, base), study.name
    named = [one.path for one in (*study.train.values(), *study.suites.values()) if one.path is not None]
    taken = {(base / os.path.expanduser(path)).resolve() for path in named}
    listed = sorted(folder.iterdir()) if folder.is_dir() else []
    files = [path for path in listed if path.suffix in _ROW_FILES and path.is_file() and path.resolve() not in taken]
    files = [path for path in files if path.name != "aliases.json"]  # belongs to the file beside it
    if not files:
        expected = f"a folder with files of rows ({', '.join(_ROW_FILES)})"
        raise InputProblems([Problem(file, f"suites.{name}.auto", f"no file of rows in {source.auto}", expected)])
    problems: list[Problem] = []
    found: dict[str, SuiteSource] = {}
    for path in files:
        key = re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem).strip("-._")[: 63 - len(name)] or "rows"
        one = SuiteSource(path=os.path.join(source.auto or "", path.name))
        try:
            look = look_at_rows(one, base=base, name=f"suites.{name}-{key}")
        except InputProblems as error:
            problems += error.problems
            continue
        if key in found:
            expected = "names that differ without their endings: suites are named so"
            problems.append(Problem(file, f"suites.{name}.auto", f"two files named {key}", expected))
        metric = None if look.questions else "loss"
        found[key] = one.model_copy(update={"kind": look.kind, "metric": metric})
    if problems:
        raise InputProblems(problems)
    return found
