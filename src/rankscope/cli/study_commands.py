"""Commands on a study file."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rankscope.cli.command_helpers import Json, check_writable, print_verdict, quiet, user_errors
from rankscope.study.read_study import read_study

if TYPE_CHECKING:
    from rankscope.edges.local_executor import Executor
    from rankscope.records import Plan

StudyFile = Annotated[Path, typer.Argument(metavar="STUDY.yaml", help="A study file; `rankscope init` writes one.")]
Overrides = Annotated[list[str] | None, typer.Option("--set", metavar="A.B=C", help="Change one setting of the study.")]


def demo(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder for the results.")] = Path("demo"),
) -> None:
    """Run the bundled study: a small base model and a world of invented facts. No downloads.

    \b
    Examples:
      rankscope demo
      rankscope demo --out my-demo
    """
    with resources.as_file(resources.files("rankscope") / "assets" / "demo.yaml") as path:
        _run(path, out, [], [])


def plan(
    study: StudyFile,
    set_: Overrides = None,
    json_: Json = False,
    out: Annotated[Path | None, typer.Option("--out", metavar="DIR")] = None,
    measure: Annotated[bool, typer.Option("--measure", help="Time a few steps of each kind of arm first.")] = False,
) -> None:
    """Print every run with its parameters, FLOPs, memory, disk and time, and what does not fit. Trains nothing.

    \b
    Examples:
      rankscope plan study.yaml
      rankscope plan study.yaml --set seeds=[0,1,2,3,4] --json
    """
    quiet()
    with user_errors():
        settings = read_study(study, set_ or [])
        folder = out or Path(settings.name)
        from rankscope.edges.machine import look_at_machine
        from rankscope.edges.study_folder import FolderStore
        from rankscope.pipeline import measure_study, plan_study

        base, machine = study.resolve().parent, look_at_machine(folder)
        planned = plan_study(settings, base, machine, folder)
        if measure:
            measured, failed = measure_study(settings, base, planned, _executor)
            for label, why in failed.items():
                typer.echo(f"{label} was not measured, its time is calculated: {why}", err=True)
            planned = plan_study(settings, base, machine, folder, measured)
        states = {run.run_id: FolderStore(folder).read_status(run.run_id) for run in planned.runs}
    if json_:
        typer.echo(planned.model_dump_json(indent=1))
        return
    from rankscope.report.terminal import console, print_plan

    print_plan(console(), planned, {run_id: s.state for run_id, s in states.items() if s is not None})


def run(
    study: StudyFile,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Folder for the results; the study's name.")
    ] = None,
    set_: Overrides = None,
    only: Annotated[
        list[str] | None, typer.Option("--only", metavar="RUN_ID", help="Do only this run; may be repeated.")
    ] = None,
) -> None:
    """Do what is missing of a study: train, score, decide, report. Run it again to resume.

    \b
    Examples:
      rankscope run study.yaml
      rankscope run study.yaml --out results --set budget.epochs=1
    """
    _run(study, out, set_ or [], only or [])


def _run(study: Path, out: Path | None, overrides: list[str], only: list[str]) -> None:
    quiet()
    with user_errors():
        settings = read_study(study, overrides)
        folder = out or Path(settings.name)
        check_writable(folder)
        from rankscope.edges.local_executor import stop_on_signals
        from rankscope.edges.machine import look_at_machine
        from rankscope.edges.study_folder import FolderStore
        from rankscope.pipeline import run_study
        from rankscope.report.live_view import Live
        from rankscope.results.tracking import tracking_of

        store = FolderStore(folder)
        tracking = tracking_of(settings, store, str(study))
        with stop_on_signals(), Live(store.read_status, store.read_rungs) as live:

            def progress(planned: Plan) -> None:
                live.update(planned)
                if not only:  # array jobs share the folder: the run that decides logs them all
                    tracking.update(planned)

            outcome = run_study(
                settings, study.resolve().parent, folder, machine=look_at_machine(folder), make_executor=_executor,
                only=only, progress=progress,
            )  # fmt: skip
        if not only:
            tracking.finish()
    for run_id, why in outcome.failed.items():
        typer.echo(f"{run_id} failed: {why} (its traceback: error.txt in its folder)", err=True)
    for run_id, why in outcome.left_out.items():
        typer.echo(f"{run_id} does not fit: {why}", err=True)
    again = " ".join([f"rankscope run {study} --out {folder}", *(f"--only {run_id}" for run_id in only)])
    if outcome.stopped:
        typer.echo(f"stopped; what is done is kept. To go on: {again}", err=True)
        raise typer.Exit(1)
    if not only:
        print_verdict(folder)
    if outcome.failed:
        typer.echo(f"the other runs are done; to try again those that failed: {again}", err=True)
        raise typer.Exit(1)


def _executor(planned: Plan) -> Executor:
    """Where the jobs of this plan run: here, or in worker processes."""
    from rankscope.edges.local_executor import InProcess, Workers

    resolved = planned.resolved
    if resolved.worker_count == 1:
        return InProcess(resolved.thread_count)
    return Workers(resolved.worker_count, resolved.thread_count)
