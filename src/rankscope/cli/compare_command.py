"""The command that compares two study folders."""

from __future__ import annotations

from typing import Annotated

import typer

from rankscope.cli.command_helpers import Json, open_folder


def compare(
    first: Annotated[str, typer.Argument(metavar="DIR", help="A study folder that `rankscope run` made.")],
    second: Annotated[str, typer.Argument(metavar="DIR", help="Another, of the same question.")],
    settings: Annotated[bool, typer.Option("--settings", help="List every setting that differs.")] = False,
    json_: Json = False,
) -> None:
    """Show what changed between two studies: answers, how far each arm moved, with intervals, and what is not the same.

    \b
    Examples:
      rankscope compare my-study my-study-longer
      rankscope compare my-study my-study-longer --json
    """
    stores = [open_folder(url) for url in (first, second)]
    from rankscope.results.compare_studies import compare as compare_studies

    found = compare_studies(*stores)
    if json_:
        typer.echo(found.model_dump_json(indent=1))
        return
    from rankscope.report.comparison_text import print_comparison
    from rankscope.report.terminal_tables import console

    print_comparison(console(), found, every_setting=settings)
