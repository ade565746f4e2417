"""The command on this machine."""

from __future__ import annotations

import json
from pathlib import Path

import typer

from rankscope.cli.common import Json, quiet


def doctor(json_: Json = False) -> None:
    """Show what this machine can train: device, memory, dtype, the largest model, and what would help.

    \b
    Examples:
      rankscope doctor
      rankscope doctor --json
    """
    quiet()
    from rankscope.doctor import examine

    found = examine(Path.cwd())
    if json_:
        typer.echo(json.dumps(found, indent=1))
        return
    from rankscope.report.terminal import console
    from rankscope.report.terminal_doctor import print_doctor

    print_doctor(console(), found)
