"""What the commands share: arguments, how problems are told, where results may be written."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

# What takes seconds to import (torch, transformers) is imported inside the commands that need it.

if TYPE_CHECKING:
    from rankscope.edges.study_folder import StudyFolder

FolderUrl = Annotated[str, typer.Argument(metavar="DIR", help="A study folder that `rankscope run` made.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


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


def is_planned(url: str) -> bool:
    """Whether there is a study folder with a plan."""
    from rankscope.edges.study_folder import StudyFolder

    folder = StudyFolder.open(url)
    return folder.read_marker() is not None and folder.read_plan() is not None


def check_writable(folder: Path) -> None:
    """Raises InputProblems where results could not be written, before any work is done."""
    from rankscope.edges.storages import open_storage

    open_storage(folder).check_writable()


def print_verdict(folder: StudyFolder) -> None:
    """The arms' table and the answer, where the study has come to one."""
    from rankscope.report.terminal_tables import console
    from rankscope.report.verdict_text import print_results

    verdicts = folder.read_verdicts()
    if verdicts is not None:
        print_results(console(), verdicts)
        typer.echo(f"\nThe report: {folder.report_place}")
