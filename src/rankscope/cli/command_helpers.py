"""What the commands share: arguments, study folders, and the one place where errors end.

The foreseen is a line with exit 2, the rest a crash report with exit 1.
"""

from __future__ import annotations

import functools
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ParamSpec, TypeVar

import typer

from rankscope import __version__
from rankscope.edges.storages import Busy
from rankscope.study.problems import InputProblems, Problem

if TYPE_CHECKING:
    from rankscope.edges.executors import Site
    from rankscope.edges.study_folder import StudyFolder
    from rankscope.study.study import Study

# What takes seconds to import (torch, transformers) is imported inside the commands that need it.


FolderUrl = Annotated[str, typer.Argument(metavar="DIR", help="A study folder that `rankscope run` made.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def quiet() -> None:
    """Keep the libraries' own chatter out of the output, and everything on this machine."""
    from rankscope.edges.machine import quiet_libraries

    quiet_libraries()


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


def site_of_study(settings: Study, folder: StudyFolder) -> Site:
    """Where the study's jobs will run. Raises InputProblems where that is nowhere."""
    from rankscope.edges.executors import site_of

    return site_of(settings, folder.disk_folder())


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


class _NowAndThen:
    """Says on stderr how far something is: after a second, and then every few."""

    _FIRST_SECONDS, _EVERY_SECONDS = 1.0, 5.0

    def __init__(self) -> None:
        self._next = time.monotonic() + self._FIRST_SECONDS

    def _say(self, line: str) -> None:
        now = time.monotonic()
        if now >= self._next:
            self._next = now + self._EVERY_SECONDS
            typer.echo(line, err=True)


class RowsRead(_NowAndThen):
    """What is being read and encoded."""

    def __call__(self, name: str, done: int, total: int | None) -> None:
        of = f"{done:,} of {total:,} rows" if total is not None else f"{done:,} rows"
        self._say(f"reading {name}: {of}")


class AnswersScored(_NowAndThen):
    """What is being scored, and how long the rest takes at the pace since the first answers."""

    def __init__(self) -> None:
        super().__init__()
        self._first: tuple[float, int] | None = None

    def __call__(self, name: str, done: int, total: int) -> None:
        from rankscope.records.readable_numbers import duration

        now = time.monotonic()
        self._first = self._first or (now, done)  # before them the model was loaded
        begun, at_first = self._first
        left = (now - begun) * (total - done) / (done - at_first) if done > at_first else None
        time_left = "" if left is None else f", time left: {duration(left)}"
        self._say(f"scoring {name}: {done:,} of {total:,} answers{time_left}")


_P = ParamSpec("_P")
_T = TypeVar("_T")

INTERRUPTED = 130
"""The exit code that shells give a program which Ctrl-C ended."""


def ends_errors(command: Callable[_P, _T]) -> Callable[_P, _T]:
    """The command with its errors told as users are told: never as a traceback.

    Exit 2: wrong input (a line per problem), a folder that another process works on, a file that the system refuses.
    Exit 130: Ctrl-C. Exit 1: a fault of ours, one line that names a written report.
    """

    @functools.wraps(command)
    def run(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        try:
            return command(*args, **kwargs)
        except (typer.Exit, typer.Abort, typer.BadParameter):  # the command line's own, told by typer
            raise
        except InputProblems as error:
            for problem in error.problems:
                typer.echo(str(problem), err=True)
        except Busy as error:
            typer.echo(str(error), err=True)
        except KeyboardInterrupt:
            typer.echo("interrupted; what is done is kept", err=True)
            raise typer.Exit(INTERRUPTED) from None
        except BrokenPipeError:  # whoever read our output has enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(0) from None
        except OSError as error:
            typer.echo(system_refusal(error), err=True)
        except Exception:
            typer.echo(f"rankscope failed; please report it with {write_crash_report()}", err=True)
            raise typer.Exit(1) from None
        raise typer.Exit(2)

    return run


def system_refusal(error: OSError) -> str:
    """One line for what the operating system refused: which file, and why."""
    why = error.strerror or str(error) or type(error).__name__
    where = str(error.filename) if error.filename is not None else "the system"
    shown = where if len(where) <= 200 else f"{where[:100]}...{where[-60:]}"
    return " ".join(f"{shown}: found {why[:1].lower()}{why[1:]}, expected a file that can be used".split())


def write_crash_report() -> Path:
    """The traceback of the exception that is being handled, with versions and the command; the file that holds it."""
    from rankscope.edges.machine import machine_line, versions
    from rankscope.study.store_urls import without_secrets

    lines = [
        f"rankscope {__version__}, {datetime.now().astimezone().isoformat(timespec='seconds')}",
        f"command: {' '.join(sys.argv)}",
        f"machine: {machine_line()}",
        *(f"{name} {version}" for name, version in versions().items()),
        "",
        traceback.format_exc(),
    ]
    handle, name = tempfile.mkstemp(prefix="rankscope-crash-", suffix=".txt")
    with os.fdopen(handle, "w", encoding="utf-8") as stream:
        stream.write(without_secrets("\n".join(lines)))
    return Path(name)


def alone_but_for(context: typer.Context, option: str, *others: str) -> None:
    """Raises InputProblems where an option that leaves no room for more was given beside any but `others`."""
    sources = {key: context.get_parameter_source(key) for key in context.params}
    given = [key for key, source in sources.items() if source is not None and source.name == "COMMANDLINE"]
    if beside := [f"--{key.rstrip('_')}" for key in given if key not in (option, *others)]:
        expected = f"{', '.join(f'--{key}' for key in others)} alone beside it"
        raise InputProblems(
            [Problem(context.info_name or "", f"--{option}", f"{', '.join(beside)} beside it", expected)]
        )
