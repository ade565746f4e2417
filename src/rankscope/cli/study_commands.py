"""Commands on a study file."""

from __future__ import annotations

import json
import shlex
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rankscope.cli.command_helpers import (
    INTERRUPTED,
    Json,
    RowsRead,
    is_planned,
    open_folder,
    print_verdict,
    quiet,
    site_of_study,
)
from rankscope.edges.machine import stopped_by_ctrl_c
from rankscope.plan.described_machine import described_machine
from rankscope.plan.schedule import what_is_left
from rankscope.study.problems import InputProblems, Problem
from rankscope.study.read_study import read_study

if TYPE_CHECKING:
    from rankscope.edges.study_folder import StudyFolder
    from rankscope.pipeline import Outcome
    from rankscope.records import Plan
    from rankscope.study.study import Study

StudyFile = Annotated[Path, typer.Argument(metavar="STUDY.yaml", help="A study file; `rankscope init` writes one.")]
Overrides = Annotated[list[str] | None, typer.Option("--set", metavar="A.B=C", help="Change one setting of the study.")]


def demo(
    out: Annotated[str, typer.Option("--out", metavar="DIR", help="Folder for the results.")] = "demo",
) -> None:
    """Run the bundled study: a small base model and a world of invented facts. No downloads.

    \b
    Examples:
      rankscope demo
      rankscope demo --out my-demo
    """
    with resources.as_file(resources.files("rankscope") / "assets" / "demo.yaml") as path:
        settings = read_study(path)
    _run(settings, Path.cwd(), out, [])


def plan(
    study: StudyFile,
    set_: Overrides = None,
    json_: Json = False,
    out: Annotated[str | None, typer.Option("--out", metavar="DIR|URL", help="The study's folder; its name.")] = None,
    measure: Annotated[bool, typer.Option("--measure", help="Time a few steps of each kind of arm first.")] = False,
    gpus: Annotated[
        str | None,
        typer.Option(
            "--gpus", metavar="8x80GB", help="Plan for these GPUs, not for this machine; 4x8x80GB: on four nodes."
        ),
    ] = None,
) -> None:
    """Print every run with its parameters, FLOPs, memory, disk and time, and what does not fit. Trains nothing.

    \b
    Examples:
      rankscope plan study.yaml
      rankscope plan study.yaml --set seeds=[0,1,2,3,4] --json
      rankscope plan study.yaml --gpus 8x80GB
    """
    quiet()
    described = described_machine(gpus) if gpus is not None else None
    if described is not None and measure:
        found = "--measure with --gpus"
        raise InputProblems([Problem("--gpus", "", found, "one of them: a described machine cannot be timed")])
    settings = read_study(study, set_ or [])
    from rankscope.edges.executors import check_several_nodes
    from rankscope.edges.study_folder import StudyFolder
    from rankscope.jobs.planning import StudyPlanner  # not by way of the pipeline, which imports all that trains

    check_several_nodes(settings, described)
    folder = StudyFolder.open(out or settings.name)
    site = None if described is not None else site_of_study(settings, folder)
    machine = site.machine if site is not None else described
    assert machine is not None
    with StudyPlanner(settings, study.resolve().parent, RowsRead()) as planner:
        planned = planner.plan(machine, folder, as_begun=described is None)
        if measure and site is not None:
            from rankscope.pipeline import measure_study

            measured, failed = measure_study(planner, planned, site.make_executor)
            for label, why in failed.items():
                typer.echo(f"{label} was not measured, its time is calculated: {why}", err=True)
            planned = planner.plan(machine, folder, measured)
    states = {run.run_id: folder.read_status(run.run_id) for run in planned.runs}
    if json_:
        typer.echo(planned.model_dump_json(indent=1))
        return
    from rankscope.report.terminal_tables import console, print_plan
    from rankscope.results.suite_levels import context_warnings, suite_levels

    states_known = {run_id: status.state for run_id, status in states.items() if status is not None}
    begun = {**states, **{run_id: folder.read_status(run_id) for run_id in planned.base_ids.values()}}
    done = {run_id for run_id, status in begun.items() if status is not None and status.state == "done"}
    left = what_is_left(planned.schedule, planned.runs, done) if planned.schedule is not None else None
    told = [*suite_levels(folder, planned), *(f"{text}." for text in context_warnings(folder, planned))]
    print_plan(console(), planned, states_known, told, left)


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
    from rankscope.edges.machine import stop_on_signals
    from rankscope.edges.study_folder import StudyFolder
    from rankscope.pipeline import StudyPlanner, run_study
    from rankscope.report.study_progress import Live
    from rankscope.results.tracking import tracking_of

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
        typer.echo(f"{run_id} failed: {why} (its traceback: error.txt in its folder)", err=True)
    for run_id, why in outcome.left_out.items():
        typer.echo(f"{run_id}: {why}", err=True)
    words = ["rankscope", "run", folder.url, *(word for run_id in only for word in ("--only", run_id))]
    again = shlex.join(words)
    if outcome.stopped:
        typer.echo(f"stopped; what is done is kept. To go on: {again}", err=True)
        raise typer.Exit(INTERRUPTED if stopped_by_ctrl_c() else 1)
    if not only:
        print_verdict(folder)
    if outcome.failed:
        typer.echo(f"the other runs are done; to try again those that failed: {again}", err=True)
        raise typer.Exit(1)


def schema() -> None:
    """Print the JSON Schema of a study file, for editors.

    \b
    Example:
      rankscope schema > study.schema.json
    """
    from rankscope.study.json_schema import study_schema

    typer.echo(json.dumps(study_schema(), indent=1))
