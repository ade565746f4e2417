"""Commands on an adapter that the user already has."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from rankscope.cli.common import Json, check_writable, quiet, user_errors

AdapterFolder = Annotated[Path, typer.Argument(metavar="ADAPTER", help="A folder that PEFT saved a LoRA adapter to.")]


def audit(
    adapter: AdapterFolder,
    base: Annotated[
        str | None, typer.Option("--base", metavar="MODEL", help="Its base model: adds relative norms and intruders.")
    ] = None,
    json_: Json = False,
) -> None:
    """Show how much of its rank an adapter uses, and a rank that would do.

    \b
    Examples:
      rankscope audit adapter
      rankscope audit adapter --base ./my-model --json
    """
    quiet()
    with user_errors():
        from rankscope.adapter_tools import audit as audit_adapter

        found = audit_adapter(adapter, base)
    if json_:
        typer.echo(json.dumps(found, indent=1))
        return
    from rankscope.report.terminal import console
    from rankscope.report.terminal_adapter import print_audit

    print_audit(console(), found)


def compress(
    adapter: AdapterFolder,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where the smaller adapter goes.")],
    rank: Annotated[int | None, typer.Option("--rank", metavar="R", help="The same rank for every matrix.")] = None,
    energy: Annotated[
        float | None, typer.Option("--energy", metavar="E", help="For each matrix the smallest rank that holds this.")
    ] = None,
) -> None:
    """Write the same adapter at a lower rank, by truncated SVD.

    \b
    Examples:
      rankscope compress adapter --rank 8 --out smaller
      rankscope compress adapter --energy 0.95 --out smaller
    """
    quiet()
    with user_errors():
        from rankscope.adapter_tools import compress as compress_adapter

        check_writable(out)
        done = compress_adapter(adapter, out, rank=rank, energy=energy)
    from rankscope.report.terminal_adapter import compressed_sentence

    sizes = done.bytes_before, done.bytes_after
    typer.echo(f"{out}: {compressed_sentence(done.ranks, done.discarded_energy, *sizes)}")
    for note in done.notes:
        typer.echo(f"Note: {note}")
