"""The command line: parse, choose the edges, call the pipeline, print."""

from __future__ import annotations

from typing import Annotated

import typer

from rankscope import __version__
from rankscope.cli.command_helpers import ends_errors
from rankscope.cli.folder_commands import defaults, export, report, status, verdict
from rankscope.cli.init_command import init
from rankscope.cli.plan_command import plan
from rankscope.cli.repair_command import repair
from rankscope.cli.study_commands import demo, run, schema
from rankscope.cli.tool_commands import audit, compress, doctor, harness, score
from rankscope.edges.cores import share_cores
from rankscope.edges.freed_memory import keep_freed_memory
from rankscope.edges.gpu_memory import let_segments_grow

app = typer.Typer(
    name="rankscope", no_args_is_help=True, add_completion=True, pretty_exceptions_enable=False, rich_markup_mode=None,
    help="Which LoRA rank, or full fine-tuning, for my model and my data, and what will the model forget?",
)  # fmt: skip
STUDY_COMMANDS = (demo, init, plan, run, status, verdict, report, export, defaults)
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
    """Entry point of the `rankscope` command."""
    share_cores()
    let_segments_grow()
    keep_freed_memory()
    app(prog_name="rankscope")
