"""The study as it was asked for, kept in its own folder: a study file with absolute paths, which can be run again."""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from pathlib import Path
from typing import TypeVar

from rankscope.records import Plan
from rankscope.study.problems import InputProblems
from rankscope.study.read_study import to_study
from rankscope.study.study import ModelSpec, Source, Study, SuiteSource, TrainSource, is_task_file
from rankscope.study.yaml_text import dump_yaml, parse_yaml

_COMMIT = re.compile(r"[0-9a-f]{40}")
_Pinned = TypeVar("_Pinned", ModelSpec, TrainSource, SuiteSource)


def absolute(study: Study, folder: Path, known: Collection[str] = ()) -> Study:
    """The study with every path that was relative to its file's `folder` made absolute.

    What may be a folder or a hub id is a folder where one is there, or where `known` (ids of an earlier plan) has it.
    """

    def is_folder(path: Path) -> bool:
        return path.is_dir() or os.path.abspath(path) in known

    def source(given: Source) -> Source:
        if given.path is not None:
            return given.model_copy(update={"path": str((folder / Path(given.path).expanduser()).resolve())})
        if given.hub is not None and is_folder(local := folder / Path(given.hub).expanduser()):
            return given.model_copy(update={"hub": str(local.resolve())})
        if isinstance(given, SuiteSource) and given.harness is not None and is_task_file(given.harness):
            return given.model_copy(update={"harness": str((folder / Path(given.harness).expanduser()).resolve())})
        return given

    def model(spec: ModelSpec) -> ModelSpec:
        path = Path(os.path.abspath(folder / Path(spec.id).expanduser()))  # a link keeps its name
        return spec.model_copy(update={"id": str(path)}) if spec.id != "bundled" and is_folder(path) else spec

    return study.model_copy(
        update={
            "models": tuple(model(spec) for spec in study.models),
            "train": {name: source(given) for name, given in study.train.items()},
            "suites": {name: source(given) for name, given in study.suites.items()},
        }
    )


def pinned(study: Study, plan: Plan) -> Study:
    """The study at the commits that its hub models and data sets had when it was planned: a job that starts later
    sees what the plan saw."""
    models = {facts.name: facts.revision for facts in plan.models}
    rows = {("train", facts.name): facts.revision for facts in plan.train_sets}
    rows |= {("suites", facts.name): facts.revision for facts in plan.suites}

    def at_commit(given: _Pinned, commit: str | None) -> _Pinned:
        return given.model_copy(update={"revision": commit}) if commit and _COMMIT.fullmatch(commit) else given

    return study.model_copy(
        update={
            "models": tuple(at_commit(spec, models.get(spec.name)) for spec in study.models),
            "train": {name: at_commit(given, rows.get(("train", name))) for name, given in study.train.items()},
            "suites": {name: at_commit(given, rows.get(("suites", name))) for name, given in study.suites.items()},
        }
    )


def dump_study(study: Study) -> str:
    """YAML that `rankscope run` takes."""
    settings = study.model_dump(mode="json", by_alias=True, exclude_none=True)
    header = "# The study as rankscope resolved it; the file you wrote may have had relative paths and defaults.\n"
    return header + dump_yaml(settings)


def study_of(text: str, file: str = "study.yaml") -> Study:
    """What `dump_study` wrote, equal to what it was given. Raises InputProblems where it was changed or damaged.

    Files that it names need not be there any more. `file` is how messages name it.
    """
    document = parse_yaml(text, file)
    if document.problems:
        raise InputProblems(document.problems)
    study, wrong = to_study(document)
    if study is None:
        raise InputProblems(wrong)
    return study
