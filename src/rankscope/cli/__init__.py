"""The command line: parse, choose the edges, call the pipeline, print."""

from __future__ import annotations

import atexit
import gc
import sys
from typing import Annotated

import typer

from rankscope import __version__
from rankscope.cli.command_helpers import ends_errors
from rankscope.cli.compare_command import compare
from rankscope.cli.folder_commands import defaults, export, report, status, verdict
from rankscope.cli.init_command import init
from rankscope.cli.plan_command import plan
from rankscope.cli.repair_command import repair
from rankscope.cli.study_commands import demo, run, schema
from rankscope.cli.tool_commands import audit, compress, doctor, harness, score
from rankscope.cli.view_command import view
from rankscope.edges.cores import share_cores
from rankscope.edges.freed_memory import keep_freed_memory
from rankscope.edges.gpu_memory import let_segments_grow
from rankscope.study.problems import Problem

app = typer.Typer(
    name="rankscope", no_args_is_help=True, add_completion=True, pretty_exceptions_enable=False, rich_markup_mode=None,
    help="Which LoRA rank, or full fine-tuning, for my model and my data, and what will the model forget?",
)  # fmt: skip
STUDY_COMMANDS = (demo, init, plan, run, status, verdict, report, compare, export, view, defaults)
TOOL_COMMANDS = (audit, compress, repair, doctor, score)
for command in (*STUDY_COMMANDS, *TOOL_COMMANDS):
    app.command()(ends_errors(command))
app.command(
    add_help_option=False, context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)(ends_errors(harness))  # fmt: skip
app.command()(ends_errors(schema))


def _version(value: bool) -> None:
    if value:
        typer.echo(f"rankscope {__version__}")
        raise typer.Exit


@app.callback()
def _main(version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True)] = False) -> None:
    """Global options."""


def main() -> None:
    """Entry point of the `rankscope` command. Exits with 2 on Windows, whose locks and processes are others."""
    if sys.platform == "win32":
        problem = Problem(
            "rankscope", "", "Windows", "Linux or macOS; it runs in the Windows Subsystem for Linux (WSL 2)"
        )
        typer.echo(str(problem), err=True)
        sys.exit(2)
    atexit.register(gc.freeze)  # or the collector looks through all of torch and pandas once more, for a second
    share_cores()
    let_segments_grow()
    keep_freed_memory()
    app(prog_name="rankscope")
