"""The one place where errors end: the foreseen as a line with exit 2, the rest as a crash report with exit 1."""

from __future__ import annotations

import functools
import os
import sys
import tempfile
import traceback
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import ParamSpec, TypeVar

import typer

from rankscope import __version__
from rankscope.edges.storages import Busy
from rankscope.study.problems import InputProblems

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
        stream.write("\n".join(lines))
    return Path(name)
