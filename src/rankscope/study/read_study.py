"""A study file -> Study, or every problem with it at once."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rankscope.study.error_messages import to_study
from rankscope.study.problems import InputProblems, Problem, show
from rankscope.study.setting_descriptions import WORDS
from rankscope.study.short_forms import write_out
from rankscope.study.study import Study
from rankscope.study.study_checks import check_arms, check_values
from rankscope.study.yaml_lines import Document, dotted, parse_yaml
from rankscope.study.yaml_lines import Path as Place

__all__ = ["InputProblems", "Problem", "read_study"]

_MAX_BYTES = 1_000_000
_A_STUDY = "a study file in YAML"


def read_study(path: Path, overrides: Sequence[str] = ()) -> Study:
    """The study in the file at `path`, with `--set a.b=c` overrides applied in order.

    Paths in it stay as written; they are relative to the file's folder, and are checked to exist. Raises InputProblems
    with every problem that was found: each names the file, the line and the setting, what stands there and what was
    expected. Settings of DESIGN that a later version builds are refused by name.
    """
    file = str(path)
    document, problems = parse_yaml(_read_text(Path(path), file), file)
    if problems and document.value is None:
        raise InputProblems(problems)
    if not isinstance(document.value, dict):
        found = "no settings" if document.value is None else show(document.value)
        raise InputProblems([Problem(file, "", found, WORDS[""])])
    for text in overrides:
        problems += _override(document, text)
    had_arms = bool(document.get("arms"))
    problems += write_out(document)
    problems += check_values(document, Path(path).parent)
    study, wrong = to_study(document)
    problems += wrong
    if study is not None:
        problems += check_arms(study, document)
    if had_arms and document.get("arms") == {}:  # every arm was refused, and that has been said
        problems = [problem for problem in problems if problem.place.split(", ")[-1] != "arms"]
    if problems or study is None:
        raise InputProblems(_in_file_order(problems))
    return study


def _in_file_order(problems: list[Problem]) -> list[Problem]:
    """By line, those without one last; each once."""

    def line(problem: Problem) -> tuple[int, int]:
        match = re.match(r"line (\d+)", problem.place)
        return (0, int(match[1])) if match else (1, 0)

    return sorted(dict.fromkeys(problems), key=line)


def _read_text(path: Path, file: str) -> str:
    try:
        if path.is_dir():
            raise InputProblems([Problem(file, "", "a folder", _A_STUDY)])
        if path.exists() and not path.is_file():
            raise InputProblems([Problem(file, "", "something that is no regular file", _A_STUDY)])
        with path.open("rb") as stream:
            data = stream.read(_MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise InputProblems([Problem(file, "", "no such file", _A_STUDY)]) from error
    except OSError as error:
        raise InputProblems([Problem(file, "", error.strerror or str(error), _A_STUDY)]) from error
    except ValueError as error:
        raise InputProblems([Problem(file, "", "a path that no system allows", _A_STUDY)]) from error
    if not data.strip():
        raise InputProblems([Problem(file, "", "an empty file", _A_STUDY)])
    if b"\0" in data[:8192]:
        raise InputProblems([Problem(file, "", "a binary file", _A_STUDY)])
    if len(data) > _MAX_BYTES:
        raise InputProblems([Problem(file, "", "a file of more than 1 MB", _A_STUDY)])
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        found = f"the byte 0x{data[error.start]:02x}, which is no UTF-8 text"
        raise InputProblems([Problem(file, f"line {line}", found, _A_STUDY)]) from error


# ---- --set a.b=c ----------------------------------------------------------------------------------------------------


def _override(document: Document, text: str) -> list[Problem]:
    """Put one override into the document. An unknown key is found with the others, when the types are checked."""
    key, equals, value_text = text.partition("=")
    place = _place(document, key.strip())
    if not equals or place is None:
        return [Problem("--set", "", show(text), "KEY=VALUE such as budget.epochs=2 or arms.lora.ranks=[8,16]")]
    parsed, problems = parse_yaml(value_text, "--set")
    if problems:
        return [Problem("--set", key.strip(), problem.found, "a value in YAML") for problem in problems]
    return _put(document, place, parsed.value)


def _place(document: Document, key: str) -> Place | None:
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
        elif not last and place[: depth + 1] == ("model",) and isinstance(value[key], str):
            value[key] = {"id": value[key]}
        if last:
            value[key] = new
        else:
            value = value[key]
    document.overridden.add(place)
    return []
