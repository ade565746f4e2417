"""A study file -> Study, or every problem with it at once; and the study as it stands in its own folder."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from rankscope.study.given_checks import check_given
from rankscope.study.graders import Grader
from rankscope.study.json_schema import expected_at, known_keys
from rankscope.study.methods import Entry
from rankscope.study.methods.given_method import GivenEntry
from rankscope.study.problems import Document, InputProblems, Place, Problem, did_you_mean, dotted, holds, nearest, show
from rankscope.study.study import ModelSpec, Source, Study, SuiteSource, is_task_file
from rankscope.study.study_checks import check_arms, check_values
from rankscope.study.study_settings import NAME
from rankscope.study.yaml_text import dump_yaml, parse_yaml, read_text

_SHORT = {"model": "id", "optimizer": "name"}
"""The setting that a text stands for where a mapping may stand."""
_A_STUDY = "a study file in YAML"


def read_study(path: Path, overrides: Sequence[str] = (), *, files: bool = True) -> Study:
    """The study in the file at `path`, with `--set a.b=c` overrides applied in order.

    Paths in it stay as written; they are relative to the file's folder, and with `files` are checked to exist (a study
    that was planned has its rows as tokens, and may outlive its sources). Raises InputProblems
    with every problem that was found: each names the file, the line and the setting, what stands there and what was
    expected.
    """
    document = parse_yaml(read_text(Path(path), _A_STUDY), str(path))
    problems = document.problems
    if not isinstance(document.value, dict):
        found = "no settings" if document.value is None else show(document.value)
        raise InputProblems(problems or [Problem(document.file, "", found, expected_at(document, ()))])
    for text in overrides:
        problems += _override(document, text)
    problems += check_values(document, Path(path).parent, files=files)
    study, wrong = to_study(document)
    problems += wrong
    if study is not None:
        problems += check_arms(study, document)
        problems += check_given(study, document, Path(path).parent if files else None)
    if problems or study is None:
        raise InputProblems(_in_file_order(problems))
    return study


def _in_file_order(problems: list[Problem]) -> list[Problem]:
    """By line, those without one last; each once."""

    def line(problem: Problem) -> tuple[int, int]:
        match = re.match(r"line (\d+)", problem.place)
        return (0, int(match[1])) if match else (1, 0)

    return sorted(dict.fromkeys(problems), key=line)


# ---- types ----------------------------------------------------------------------------------------------------------


def to_study(document: Document) -> tuple[Study | None, list[Problem]]:
    """The typed study, or every problem with types, ranges and unknown keys. Strict: "8" is no number.

    What the document refused already is not reported again.
    """
    try:
        return Study.model_validate(_with_tuples(document.value), strict=True), []
    except ValidationError as error:
        found: dict[Place, Problem] = {}
        missing: set[Place] = set()
        for details in error.errors(include_url=False):
            place = _place(document, details)
            if details["type"] == "missing":
                missing.add(place)
            if place not in found:  # a union fails once for each of its branches
                found[place] = _problem(document, details, place)
    for place in [place for place in found if place and place not in missing]:
        near = nearest(str(place[-1]), known_keys(document, place[:-1]))
        if near is not None and (meant := (*place[:-1], near)) in missing:
            found.pop(meant, None)  # it stands there misspelt, and the line of that key says so
    around = {place[:end] for place in (*found, *document.refused) for end in range(len(place))}
    return None, [
        problem
        for place, problem in found.items()
        if place not in around and not any(place[:end] in document.refused for end in range(len(place) + 1))
    ]


def _with_tuples(value: Any) -> Any:
    """Lists as the tuples that frozen settings have."""
    if isinstance(value, dict):
        return {key: _with_tuples(part) for key, part in value.items()}
    return tuple(map(_with_tuples, value)) if isinstance(value, list) else value


def _place(document: Document, details: ErrorDetails) -> Place:
    """Where the user wrote it: without the names of types that a union puts in between."""
    loc = list(details["loc"])
    if loc[:1] == ["arms"] and len(loc) > 2 and loc[2] != "[key]":
        del loc[2]  # the method, by which the entry's type was chosen
    if loc[:1] == ["suites"] and loc[2:3] == ["grade"] and len(loc) > 3:
        del loc[3]  # so with the grader
    place: Place = ()
    value = document.value
    for i, key in enumerate(loc):
        if holds(value, key):
            value = value[key]
        elif not (details["type"] == "missing" and i == len(loc) - 1):
            continue
        place = (*place, key)
    return place


def _problem(document: Document, details: ErrorDetails, place: Place) -> Problem:
    value, kind = document.get(*place), details["type"]
    if kind == "extra_forbidden":
        known = known_keys(document, place[:-1])
        expected = f"one of {', '.join(known)}{did_you_mean(str(place[-1]), known)}"
        return document.problem(place, f"the unknown key `{place[-1]}`", expected)
    if details["loc"] and details["loc"][-1] == "[key]":
        return document.problem(place, f"the name {show(place[-1])}", NAME)
    if kind == "mismatch":
        return document.problem(place, details["ctx"]["found"], details["ctx"]["expected"])
    expected = expected_at(document, place)
    if kind == "string_type" and isinstance(value, int | float):
        expected += "; a text that looks like something else stands in quotes"
    return document.problem(place, show(value), expected)


# ---- --set a.b=c ----------------------------------------------------------------------------------------------------


def _override(document: Document, text: str) -> list[Problem]:
    """Put one override into the document. An unknown key is found with the others, when the types are checked."""
    key, equals, value_text = text.partition("=")
    place = _setting(document, key.strip())
    if not equals or place is None:
        return [Problem("--set", "", show(text), "KEY=VALUE such as budget.epochs=2 or arms.lora.ranks=[8,16]")]
    parsed = parse_yaml(value_text, "--set")
    if parsed.problems:
        return [Problem("--set", key.strip(), problem.found, "a value in YAML") for problem in parsed.problems]
    return _put(document, place, parsed.value)


def _setting(document: Document, key: str) -> Place | None:
    """`arms.lora.ranks[0]` as keys and positions. Names may hold dots: the longest key that exists is meant."""
    parts: list[str | int] = []
    for segment in key.split("."):
        match = re.fullmatch(r"([^\[\]]+)((?:\[\d{1,6}\])*)", segment)
        if match is None:
            return None
        parts += [match[1], *(int(digits) for digits in re.findall(r"\d+", match[2]))]
    place: list[str | int] = []
    while parts:
        value = document.get(*place)
        taken = 1
        for end in range(len(parts), 1, -1):
            if isinstance(value, dict) and ".".join(map(str, parts[:end])) in value:
                taken = end
                break
        place.append(".".join(map(str, parts[:taken])) if taken > 1 else parts[0])
        parts = parts[taken:]
    return tuple(place)


def _put(document: Document, place: Place, new: Any) -> list[Problem]:
    value = document.value
    for depth, key in enumerate(place):
        here, last = place[:depth], depth == len(place) - 1
        if isinstance(key, int):
            if not isinstance(value, list) or key >= len(value):
                found = f"{show(value)} for {dotted(here)}"
                return [Problem("--set", dotted(place), found, f"a list with an item [{key}]")]
        elif not isinstance(value, dict):
            return [Problem("--set", dotted(place), f"{show(value)} for {dotted(here)}", "a mapping")]
        elif not last and value.get(key) is None:
            value[key] = {}
            document.overridden.add(place[: depth + 1])
        elif not last and depth == 0 and key in _SHORT and isinstance(value[key], str):
            value[key] = {_SHORT[key]: value[key]}
        if last:
            value[key] = new
        else:
            value = value[key]
    document.overridden.add(place)
    return []


def absolute(study: Study, folder: Path, known: Collection[str] = ()) -> Study:
    """The study with every path that was relative to its file's `folder` made absolute.

    What may be a folder or a hub id is a folder where one is there, or where `known` (ids of an earlier plan) has it.
    """

    def is_folder(path: Path) -> bool:
        return path.is_dir() or os.path.abspath(path) in known

    def source(given: Source) -> Source:
        if isinstance(given, SuiteSource) and isinstance(given.grade, Grader):
            given = given.model_copy(update={"grade": given.grade.at(folder)})
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

    def entry(given: Entry) -> Entry:
        if isinstance(given, GivenEntry):
            return given.at([str((folder / Path(one).expanduser()).resolve()) for one in given.folders])
        if given.replay is None:
            return given
        paths = {
            key: str((folder / Path(path).expanduser()).resolve())
            for key in ("path", "prompts")
            if (path := getattr(given.replay, key)) is not None and path == given.replay.file
        }
        return given.model_copy(update={"replay": given.replay.model_copy(update=paths)}) if paths else given

    return study.model_copy(
        update={
            "models": tuple(model(spec) for spec in study.models),
            "arms": {key: entry(given) for key, given in study.arms.items()},
            "train": {name: source(given) for name, given in study.train.items()},
            "suites": {name: source(given) for name, given in study.suites.items()},
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
