"""Commands on a study file."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rankscope.cli.command_helpers import (
    INTERRUPTED,
    RowsRead,
    is_planned,
    open_folder,
    print_verdict,
    quiet,
    site_of_study,
)
from rankscope.cli.plan_command import Overrides
from rankscope.edges.heavy_imports import collector_rests

if TYPE_CHECKING:
    from rankscope.edges.study_folder import StudyFolder
    from rankscope.pipeline import Outcome
    from rankscope.records import Plan
    from rankscope.study.study import Study


SMALLER = "The smaller demo: three arms, one pass over the facts, fewer questions, margins of 10 points. The whole one"
"""Said before it runs and after, with the command that runs the whole one."""


def demo(
    out: Annotated[
        str | None, typer.Option("--out", metavar="DIR", help="Folder for the results; demo, or demo-quick.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A smaller one: under a minute on two cores.")] = False,
) -> None:
    """Run the bundled study: a small base model and a world of invented facts. No downloads.

    \b
    Examples:
      rankscope demo
      rankscope demo --quick
      rankscope demo --out my-demo
    """
    from importlib import resources

    from rankscope.study.read_study import read_study

    with resources.as_file(resources.files("rankscope") / "assets" / f"demo{'_quick' if quick else ''}.yaml") as path:
        settings = read_study(path)
    whole = f"{SMALLER}: rankscope demo"
    if quick:
        typer.echo(whole, err=True)
    _run(settings, Path.cwd(), out or settings.name, [])
    if quick:
        typer.echo(whole)


def run(
    study: Annotated[
        str, typer.Argument(metavar="STUDY.yaml|DIR", help="A study file, or a study folder to go on with.")
    ],
    out: Annotated[
        str | None, typer.Option("--out", metavar="DIR|URL", help="Folder for the results; the study's name.")
    ] = None,
    set_: Overrides = None,
    only: Annotated[
        list[str] | None, typer.Option("--only", metavar="RUN_ID", help="Do only this run; may be repeated.")
    ] = None,
    retrain: Annotated[
        bool, typer.Option("--retrain", help="Train finished runs again that lack a suite and have no weights left.")
    ] = False,
) -> None:
    """Do what is missing of a study: train, score, decide, report. Run it again to resume.

    \b
    Examples:
      rankscope run study.yaml
      rankscope run study.yaml --out results --set budget.epochs=1
      rankscope run results
    """
    from rankscope.study.read_study import read_study

    if "://" in study or Path(study).is_dir():
        with open_folder(study).local_study_file() as file:
            settings = read_study(file, set_ or [], files=False)
        _run(settings, Path.cwd(), out or study, only or [], retrain=retrain)
        return
    settings = read_study(Path(study), set_ or [], files=False)
    if not is_planned(out or settings.name):
        settings = read_study(Path(study), set_ or [])
    _run(settings, Path(study).resolve().parent, out or settings.name, only or [], retrain=retrain)


def _run(settings: Study, base: Path, out: str, only: list[str], *, retrain: bool = False) -> None:
    quiet()
    with collector_rests():
        from rankscope.edges.executors import begin
        from rankscope.edges.machine import stop_on_signals
        from rankscope.edges.study_folder import StudyFolder
        from rankscope.pipeline import StudyPlanner, run_study
        from rankscope.report.study_progress import Live
        from rankscope.results.tracking import tracking_of

    begin(settings)
    folder = StudyFolder.open(out)
    folder.check_writable()
    site = site_of_study(settings, folder)
    tracking = tracking_of(settings, folder, out, lambda text: typer.echo(text, err=True))
    with (
        stop_on_signals(), tracking, Live(folder.read_status, folder.read_rungs, folder.read_stage) as live
    ):  # fmt: skip

        def progress(planned: Plan) -> None:
            live.update(planned)
            if not only:  # array jobs share the folder: the run that decides logs them all
                tracking.update(planned)

        with StudyPlanner(settings, base, RowsRead()) as planner:
            outcome = run_study(
                planner, folder, machine=site.machine, make_executor=site.make_executor,
                only=only, retrain=retrain, progress=progress, notice=lambda text: typer.echo(text, err=True),
            )  # fmt: skip
    _tell(outcome, folder, only)


def _tell(outcome: Outcome, folder: StudyFolder, only: list[str]) -> None:
    """What failed, how to go on, and the verdict. Exits with 1 where something failed or was stopped."""
    for run_id, why in outcome.failed.items():
        typer.echo(_failure(folder, run_id, why), err=True)
    for run_id, why in outcome.left_out.items():
        typer.echo(f"{run_id}: {why}", err=True)
    words = ["rankscope", "run", folder.url, *(word for run_id in only for word in ("--only", run_id))]
    again = shlex.join(words)
    if outcome.stopped:
        from rankscope.edges.machine import stopped_by_ctrl_c

        typer.echo(f"stopped; what is done is kept. To go on: {again}", err=True)
        raise typer.Exit(INTERRUPTED if stopped_by_ctrl_c() else 1)
    if not only:
        print_verdict(folder)
    if outcome.failed:
        typer.echo(f"{_others_done(outcome, folder, only)}to try again what failed: {again}", err=True)
        raise typer.Exit(1)


def _failure(folder: StudyFolder, run_id: str, why: str) -> str:
    """What failed, in a line; of a run that has its scores they count."""
    run = next((run for run in folder.planned().runs if run.run_id == run_id), None)
    status = folder.read_status(run_id) if run is not None else None
    if run is None or status is None or status.state != "done":
        return f"{run_id} failed: {why} (its traceback: error.txt in its folder)"
    place = f"{folder.run_folder(run_id)}/error.txt"
    return f"{run.arm.label} on {run.train_set}, seed {run.seed}: {why} (traceback: {place})"


def _others_done(outcome: Outcome, folder: StudyFolder, only: list[str]) -> str:
    """How many of the runs that were asked for did come through, as the beginning of a line; empty for none."""
    others = [run.run_id for run in folder.planned().runs if run.run_id not in outcome.failed]
    statuses = [folder.read_status(run_id) for run_id in others if not only or run_id in only]
    count = sum(status is not None and status.state == "done" for status in statuses)
    return f"{count} other run{' is' if count == 1 else 's are'} done; " if count else ""


def schema() -> None:
    """Print the JSON Schema of a study file, for editors.

    \b
    Example:
      rankscope schema > study.schema.json
    """
    from rankscope.study.json_schema import study_schema

    typer.echo(json.dumps(study_schema(), indent=1))
