"""Commands on study folders: what `rankscope run` made."""

from __future__ import annotations

import importlib.util
import json
import shlex
from pathlib import Path
from typing import Annotated

import typer

from rankscope.cli.command_helpers import (
    FolderUrl,
    Json,
    open_folder,
    print_verdict,
    quiet,
)
from rankscope.study.problems import InputProblems, Problem


def status(
    folder: FolderUrl,
    json_: Json = False,
    watch: Annotated[bool, typer.Option("--watch", help="Follow until it ends.")] = False,
) -> None:
    """What is done, running, failed and left.

    \b
    Examples:
      rankscope status my-study
      rankscope status my-study --watch
    """
    store = open_folder(folder)
    planned = store.read_plan()
    assert planned is not None
    from rankscope.report.study_progress import Live, as_json, look
    from rankscope.report.terminal_tables import console

    if json_:
        progress = look(planned, store.read_status, store.read_rungs)
        typer.echo(json.dumps(as_json(planned, progress), indent=1))
        return
    live = Live(store.read_status, store.read_rungs, store.read_stage, console())
    if watch and store.is_worked_on():
        with live:
            live.follow(planned, store.is_worked_on)
    worked_on = store.is_worked_on()
    live.show_once(planned, worked_on=worked_on)
    left = look(planned, store.read_status, store.read_rungs).is_unfinished
    if not worked_on and left:
        typer.echo(f"no process works on this study; to go on: {shlex.join(['rankscope', 'run', store.url])}")


def verdict(folder: FolderUrl, json_: Json = False) -> None:
    """Print the decision and why. Exits 3 where the evidence cannot distinguish.

    \b
    Examples:
      rankscope verdict my-study
      rankscope verdict my-study --json
    """
    store = open_folder(folder)
    verdicts = store.verdicts()
    if json_:
        typer.echo(verdicts.model_dump_json(indent=1))
    else:
        print_verdict(store)
    if any(not decision.decided for decision in verdicts.verdicts):
        raise typer.Exit(3)


def report(
    folder: FolderUrl,
    pdf: Annotated[
        bool, typer.Option("--pdf", help="Print it to report.pdf too, by Chromium, Chrome or Edge on this machine.")
    ] = False,
    without_items: Annotated[
        bool, typer.Option("--without-items", help="A page without rows of data sets, which can be published.")
    ] = False,
) -> None:
    """Rebuild tables/, verdict.json and report.html from the records, without a model.

    \b
    Examples:
      rankscope report my-study
      rankscope report my-study --pdf --without-items
    """
    store = open_folder(folder)
    from rankscope.edges.page_printer import browser, print_page
    from rankscope.results.write_results import write_results

    program = browser() if pdf else None
    write_results(store, with_items=not without_items)
    print_verdict(store)
    if program is not None:
        place = store.write_report_pdf(lambda page: print_page(page, program))
        typer.echo(f"The report, printed: {place}")


def export(
    folder: FolderUrl,
    out: Annotated[
        str | None, typer.Option("--out", metavar="DIR|URL", help="Where the adapter goes; hf://ORG/NAME too.")
    ] = None,
    arm: Annotated[str | None, typer.Option("--arm", metavar="LABEL", help="An arm; else the recommended one.")] = None,
    merged: Annotated[bool, typer.Option("--merged", help="Write the whole model with the adapter merged in.")] = False,
    config: Annotated[
        str | None, typer.Option("--config", metavar="TOOL", help="A config: axolotl, llamafactory, trl or peft.")
    ] = None,
    format_: Annotated[
        str | None, typer.Option("--format", metavar="gguf", help="The whole model also as one GGUF file, for Ollama.")
    ] = None,
    push: Annotated[
        str | None, typer.Option("--push", metavar="ORG/NAME", help="Push it to the hub, as a new private model.")
    ] = None,
) -> None:
    """Write the chosen arm's median-validation seed with a model card, ready to load and to push.

    \b
    Examples:
      rankscope export my-study --out adapter
      rankscope export my-study --arm lora-r16 --merged --out model
      rankscope export my-study --config axolotl --out for-axolotl
      rankscope export my-study --format gguf --out model
      rankscope export my-study --push my-org/my-model
    """
    quiet()
    where = _export_place(out, push, format_)
    store = open_folder(folder)
    if config is not None:
        beside = {"--merged": merged, "--format": format_ is not None, "--push": push is not None}
        for flag in (flag for flag, is_given in beside.items() if is_given):
            expected = "one of them: a config has no weights"
            raise InputProblems([Problem("export", "--config", f"{flag} beside it", expected)])
        from rankscope.results.export_config import export_config
        from rankscope.tools.trained_rows import write_trained_rows

        written = export_config(store, where, arm=arm, tool=config, write_rows=write_trained_rows)
        typer.echo(f"{written} is written to {where}")
        return
    from rankscope.results.export_arm import export_arm

    done = export_arm(
        store, where, arm=arm, merged=merged, gguf=format_ is not None, notice=lambda text: typer.echo(text, err=True)
    )
    typer.echo(f"{done} is written to {where}")


def _export_place(out: str | None, push: str | None, format_: str | None) -> str:
    """Where the export goes. Raises InputProblems for what cannot be meant."""
    problems = []
    if (out is None) == (push is None):
        found = "neither of them" if out is None else f"--out {out} and --push {push}"
        problems.append(Problem("export", "--out, --push", found, "one of them: a folder, or ORG/NAME of the hub"))
    if format_ not in (None, "gguf"):
        problems.append(Problem("export", "--format", str(format_), "gguf"))
    elif format_ == "gguf" and importlib.util.find_spec("gguf") is None:
        problems.append(Problem("export", "--format", "gguf without its package", "pip install 'rankscope[gguf]'"))
    if problems:
        raise InputProblems(problems)
    return out if out is not None else f"hf://{push}"


def defaults(
    folders: Annotated[list[str], typer.Argument(metavar="DIR...", help="Study folders that `rankscope run` made.")],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Write it here; else it is printed.")
    ] = None,
    json_: Json = False,
) -> None:
    """Pool studies into default ranks and learning rates with intervals, as YAML for `rankscope init --from`.

    \b
    Example:
      rankscope defaults my-study other-study --out defaults.yaml
    """
    from rankscope.results.evidence import dump_defaults, pool_folders
    from rankscope.study.init_file import check_out, write_new

    if out is not None:
        check_out(out)
    pooled = pool_folders(folders)
    text = pooled.model_dump_json(indent=1) + "\n" if json_ else dump_defaults(pooled)
    if out is not None:
        write_new(out, text.encode("utf-8"))
    typer.echo(text if out is None else f"{pooled.reason} {out} is written.", nl=out is not None)
