"""What `rankscope init --ask` asks: each answer is checked at once, and an empty line takes what is known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import cast

import typer

from rankscope.study.init_file import (
    NO_TEST,
    InitFlags,
    check_keep,
    check_kind,
    check_model,
    check_name,
    check_not_trained,
    check_rows,
)
from rankscope.study.problems import Problem
from rankscope.study.study_settings import Kind


def ask_kind(known: Kind | None) -> Kind | None:
    """recall or reasoning, as the user says; None where he does not. `known`: what is proposed."""
    question = "Are the answers learned by heart (recall) or worked out (reasoning)?"
    question += "" if known else " (empty: not known)"
    said = _answer(question, known or "", lambda text: check_kind(text) if text else None)
    return cast("Kind", said) if said else None


def ask_flags(flags: InitFlags, *, holds_out: bool) -> InitFlags:
    """The flags as the user answers, each checked before the next question; an empty line takes what is known.

    `holds_out`: whether a share of the rows may be held out where there are no questions on them. Then nothing is asked
    of their kind, which a look at the rows proposes.
    """
    name = _answer("Name of the study", flags.name, lambda text: check_name("--name", text))
    model = _answer("Base model: bundled, a folder, or a hub id", flags.model, check_model)
    question = "File of rows to train on (empty: the bundled world)"
    train = _answer_file(question, flags.train, lambda path: check_rows("--train", path))
    if train is None:
        return replace(flags, name=name, model=model)
    about = "What the rows are about, in one word"
    domain = _answer(about, flags.domain, lambda text: check_name("--domain", text))

    def test_problem(text: str) -> Problem | None:
        if not text:
            return None if holds_out else NO_TEST
        return check_rows("--test", Path(text)) or check_not_trained("--test", Path(text), train)

    question = "File of questions on what they teach" + (" (empty: a share of the rows is held out)" * holds_out)
    test = _answer(question, str(flags.test or ""), test_problem)
    kind = ask_kind(flags.kind) if test else flags.kind
    keep = list(flags.keep)
    question = "File of questions it must not forget (empty: no more)"

    def keep_problem(path: Path) -> Problem | None:
        return check_keep(path, keep) or check_not_trained("--keep", path, train)

    while (more := _answer_file(question, None, keep_problem)) is not None:
        keep.append(more)
    asked = replace(flags, name=name, model=model, train=train, domain=domain, kind=kind, keep=keep)
    return replace(asked, test=Path(test) if test else None)


def _answer(question: str, known: str, check: Callable[[str], Problem | None]) -> str:
    """An answer that `check` finds nothing wrong with; else one line says what is, and the question comes again."""
    while True:
        answer = str(typer.prompt(question, default=known, show_default=known != "")).strip()
        problem = check(answer)
        if problem is None:
            return answer
        typer.echo(str(problem), err=True)


def _answer_file(question: str, known: Path | None, check: Callable[[Path], Problem | None]) -> Path | None:
    """A file's path, None for an empty line."""
    given = _answer(question, str(known or ""), lambda text: check(Path(text)) if text else None)
    return Path(given) if given else None
