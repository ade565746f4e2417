"""What the commands share: arguments, how problems are told, where results may be written."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

# What takes seconds to import (torch, transformers) is imported inside the commands that need it.
from rankscope.study.problems import InputProblems

if TYPE_CHECKING:
    from rankscope.edges.study_folder import StudyFolder

FolderUrl = Annotated[str, typer.Argument(metavar="DIR", help="A study folder that `rankscope run` made.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


@contextlib.contextmanager
def user_errors() -> Iterator[None]:
    """Bad input is one line a problem on stderr and exit code 2; nothing else is caught."""
    from rankscope.edges.storages import Busy

    try:
        yield
    except InputProblems as error:
        for problem in error.problems:
            typer.echo(str(problem), err=True)
        raise typer.Exit(2) from None
    except Busy as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from None


def quiet() -> None:
    """Keep the libraries' own chatter out of the output, and everything on this machine."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.filterwarnings("ignore", module=r"(?!rankscope).*")


def open_folder(url: str) -> StudyFolder:
    """A study folder that holds a plan. Raises InputProblems where it is none."""
    from rankscope.edges.study_folder import StudyFolder

    folder = StudyFolder.open(url)
    folder.planned()
    return folder


def check_writable(folder: Path) -> None:
    """Raises InputProblems where results could not be written, before any work is done."""
    from rankscope.edges.storages import open_storage

    open_storage(folder).check_writable()


def print_verdict(folder: StudyFolder) -> None:
    """The arms' table and the answer, where the study has come to one."""
    from rankscope.report.terminal import console, print_results

    verdicts = folder.read_verdicts()
    if verdicts is not None:
        print_results(console(), verdicts)
        typer.echo(f"\nThe report: {folder.report_place}")
