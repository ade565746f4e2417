"""A first study from a user's own files: what `rankscope init` writes."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rankscope.config.problems import InputProblems, Problem, show
from rankscope.config.read import read_study
from rankscope.config.template import study_template


@dataclass(frozen=True)
class Wishes:
    """What a user says of a first study. Without `train` it is about the bundled world; `keep` are further suites."""

    name: str = "my-study"
    model: str = "bundled"
    train: Path | None = None
    test: Path | None = None
    domain: str = "mine"
    keep: Sequence[Path] = ()


def write_first_study(out: Path, wishes: Wishes, arms: str | None = None) -> None:
    """Write a study file that reads without a problem. Raises InputProblems, and then nothing is left at `out`.

    `arms` are the lines of its arms, where they are not the template's.
    """
    problems = _problems(out, wishes)
    if problems:
        raise InputProblems(problems)
    keep = {_suite_name(path): _relative(path, out) for path in wishes.keep}
    text = study_template(
        wishes.name,
        wishes.model if not _is_folder(wishes.model) else _relative(Path(wishes.model), out),
        train_path=None if wishes.train is None else _relative(wishes.train, out),
        domain=wishes.domain,
        in_domain_path="" if wishes.test is None else _relative(wishes.test, out),
        other_paths=keep,
        arms=arms,
    )
    out.write_text(text, encoding="utf-8")
    try:
        read_study(out, [])
    except InputProblems:
        out.unlink()
        raise


def ask_for(wishes: Wishes, prompt: Callable[[str, str], str]) -> Wishes:
    """`prompt(question, known)` gives an answer, or what is known where the user's line is empty."""

    def path(question: str, known: Path | None) -> Path | None:
        given = prompt(question, str(known or ""))
        return Path(given) if given else None

    name = prompt("Name of the study", wishes.name)
    model = prompt("Base model: bundled, a folder, or a hub id", wishes.model)
    train = path("File of rows to train on (empty: the bundled world)", wishes.train)
    if train is None:
        return replace(wishes, name=name, model=model)
    domain = prompt("What the rows are about, in one word", wishes.domain)
    test = path("File of questions on what they teach", wishes.test)
    keep = list(wishes.keep)
    while (more := path("File of questions it must not forget (empty: no more)", None)) is not None:
        keep.append(more)
    return replace(wishes, name=name, model=model, train=train, test=test, domain=domain, keep=keep)


def _problems(out: Path, wishes: Wishes) -> list[Problem]:
    found = []
    if out.exists():
        found.append(Problem(str(out), "--out", "a file that exists", "a new file"))
    if wishes.train is None and (wishes.test is not None or wishes.keep):
        found.append(Problem("init", "--train", "nothing", "the rows to train on, since there are suites"))
    if wishes.train is not None and wishes.test is None:
        found.append(Problem("init", "--test", "nothing", "questions on what --train teaches, which measure the gain"))
    options = [("--train", wishes.train), ("--test", wishes.test), *(("--keep", path) for path in wishes.keep)]
    for option, path in options:
        if path is not None and not path.is_file():
            found.append(Problem(str(path), option, "no such file", "a file of rows (docs/data.md has the shapes)"))
    names = [_suite_name(path) for path in wishes.keep]
    for name in sorted({name for name in names if names.count(name) > 1}):
        found.append(
            Problem("init", "--keep", f"two files named {show(name)}", "names that differ: suites are named so")
        )
    return found


def _suite_name(path: Path) -> str:
    """The file's name without its ending, as a name in a study."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem).strip("-.") or "other"


def _is_folder(model: str) -> bool:
    return Path(model).is_dir()


def _relative(path: Path, out: Path) -> str:
    """Paths in a study are relative to its file."""
    return os.path.relpath(path, out.parent) if not path.is_absolute() else str(path)
