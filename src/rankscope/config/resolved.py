"""The study as it was asked for, kept in its own folder: a study file with absolute paths, which can be run again."""

from __future__ import annotations

from pathlib import Path

import yaml

from rankscope.config.study import ModelSpec, Source, Study


def absolute(study: Study, folder: Path) -> Study:
    """The study with every path that was relative to its file's `folder` made absolute."""

    def source(given: Source) -> Source:
        if given.path is None:
            return given
        return given.model_copy(update={"path": str((folder / Path(given.path).expanduser()).resolve())})

    def model(spec: ModelSpec) -> ModelSpec:
        path = (folder / Path(spec.id).expanduser()).resolve()
        return spec.model_copy(update={"id": str(path)}) if spec.id != "bundled" and path.is_dir() else spec

    return study.model_copy(
        update={
            "models": tuple(model(spec) for spec in study.models),
            "train": {name: source(given) for name, given in study.train.items()},
            "suites": {name: source(given) for name, given in study.suites.items()},
        }
    )


def dump_study(study: Study) -> str:
    """YAML that `rankscope run` takes."""
    settings = study.model_dump(mode="json", by_alias=True, exclude_none=True)
    header = "# The study as rankscope resolved it; the file you wrote may have had relative paths and defaults.\n"
    return header + yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)


def read_resolved(path: Path) -> Study:
    """What `dump_study` wrote."""
    return Study.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
