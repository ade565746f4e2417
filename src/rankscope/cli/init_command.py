"""Commands that come before a study: write a first study file (asking, where wanted), and its JSON Schema."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rankscope.cli.command_helpers import check_writable

if TYPE_CHECKING:
    from rankscope.study.init_file import InitFlags
    from rankscope.study.problems import Problem


def init(
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Where to write it.")] = Path("study.yaml"),
    name: Annotated[str, typer.Option("--name", help="The study's name, and its folder's.")] = "my-study",
    model: Annotated[str, typer.Option("--model", help="`bundled`, a folder, or a hub id.")] = "bundled",
    train: Annotated[Path | None, typer.Option("--train", metavar="FILE", help="Rows to train on.")] = None,
    test: Annotated[Path | None, typer.Option("--test", metavar="FILE", help="Questions on what they teach.")] = None,
    keep: Annotated[
        list[Path] | None, typer.Option("--keep", metavar="FILE", help="Questions it must not forget; repeatable.")
    ] = None,
    domain: Annotated[str, typer.Option("--domain", help="What the training rows are about.")] = "mine",
    ask: Annotated[bool, typer.Option("--ask", help="Ask for what was not given.")] = False,
    from_: Annotated[
        Path | None, typer.Option("--from", metavar="FILE", help="Arms from what `rankscope defaults` wrote.")
    ] = None,
) -> None:
    """Write a commented study file to start from: about the bundled world, or about your own files.

    \b
    Examples:
      rankscope init
      rankscope init --ask
      rankscope init --model ./my-model --train train.jsonl --test test.jsonl --keep general.jsonl
      rankscope init --from defaults.yaml
    """
    from rankscope.study.init_file import InitFlags, arms_lines, check_out, read_defaults, write_first_study

    check_out(out)
    check_writable(out.parent)
    arms = arms_lines(read_defaults(from_)) if from_ is not None else None
    flags = InitFlags(name=name, model=model, train=train, test=test, domain=domain, keep=keep or ())
    write_first_study(out, _ask(flags) if ask else flags, arms)
    typer.echo(f"{out} is written. See what it would do: rankscope plan {out}")


def _ask(flags: InitFlags) -> InitFlags:
    """The flags as the user answers, each checked before the next question; an empty line takes what is known."""
    from rankscope.study.init_file import NO_TEST, check_keep, check_model, check_name, check_rows

    name = _answer("Name of the study", flags.name, lambda text: check_name("--name", text))
    model = _answer("Base model: bundled, a folder, or a hub id", flags.model, check_model)
    question = "File of rows to train on (empty: the bundled world)"
    train = _answer_file(question, flags.train, lambda path: check_rows("--train", path))
    if train is None:
        return replace(flags, name=name, model=model)
    about = "What the rows are about, in one word"
    domain = _answer(about, flags.domain, lambda text: check_name("--domain", text))
    question = "File of questions on what they teach"
    asked = str(flags.test or "")
    test = _answer(question, asked, lambda text: check_rows("--test", Path(text)) if text else NO_TEST)
    keep = list(flags.keep)
    question = "File of questions it must not forget (empty: no more)"
    while (more := _answer_file(question, None, lambda path: check_keep(path, keep))) is not None:
        keep.append(more)
    return replace(flags, name=name, model=model, train=train, test=Path(test), domain=domain, keep=keep)


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


def schema() -> None:
    """Print the JSON Schema of a study file, for editors.

    \b
    Example:
      rankscope schema > study.schema.json
    """
    from rankscope.study.json_schema import study_schema

    typer.echo(json.dumps(study_schema(), indent=1))
