"""Commands on a study file."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rankscope.cli.command_helpers import Json, open_folder, print_verdict, quiet, user_errors
from rankscope.study.read_study import read_study

if TYPE_CHECKING:
    from rankscope.edges.executors import Executor
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
    with user_errors(), resources.as_file(resources.files("rankscope") / "assets" / "demo.yaml") as path:
        settings = read_study(path)
    _run(settings, Path.cwd(), out, [])


def plan(
    study: StudyFile,
    set_: Overrides = None,
    json_: Json = False,
    out: Annotated[str | None, typer.Option("--out", metavar="DIR|URL", help="The study's folder; its name.")] = None,
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
        from rankscope.edges.machine import look_at_machine
        from rankscope.edges.study_folder import StudyFolder
        from rankscope.pipeline import StudyPlanner, measure_study

        folder = StudyFolder.open(out or settings.name)
        planner, machine = StudyPlanner(settings, study.resolve().parent), look_at_machine(folder.local_folder())
        planned = planner.plan(machine, folder)
        if measure:
            measured, failed = measure_study(planner, planned, _executor(settings))
            for label, why in failed.items():
                typer.echo(f"{label} was not measured, its time is calculated: {why}", err=True)
            planned = planner.plan(machine, folder, measured)
        states = {run.run_id: folder.read_status(run.run_id) for run in planned.runs}
    if json_:
        typer.echo(planned.model_dump_json(indent=1))
        return
    from rankscope.report.terminal import console, print_plan

    print_plan(console(), planned, {run_id: s.state for run_id, s in states.items() if s is not None})


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
) -> None:
    """Do what is missing of a study: train, score, decide, report. Run it again to resume.

    \b
    Examples:
      rankscope run study.yaml
      rankscope run study.yaml --out results --set budget.epochs=1
      rankscope run results
    """
    with user_errors():
        if out is None and Path(study).is_dir():
            out = study
            with open_folder(study).local_study_file() as file:
                settings = read_study(file, set_ or [])
            base = Path(study)
        else:
            settings, base = read_study(Path(study), set_ or []), Path(study).resolve().parent
    _run(settings, base, out or settings.name, only or [])


def _run(settings: Study, base: Path, out: str, only: list[str]) -> None:
    quiet()
    with user_errors():
        from rankscope.edges.machine import look_at_machine
        from rankscope.edges.process_control import stop_on_signals
        from rankscope.edges.study_folder import StudyFolder
        from rankscope.pipeline import StudyPlanner, run_study
        from rankscope.report.live_view import Live
        from rankscope.results.tracking import tracking_of

        folder, make_executor = StudyFolder.open(out), _executor(settings)
        folder.storage.check_writable()
        tracking = tracking_of(settings, folder, out)
        with stop_on_signals(), Live(folder.read_status, folder.read_rungs) as live:

            def progress(planned: Plan) -> None:
                live.update(planned)
                if not only:  # array jobs share the folder: the run that decides logs them all
                    tracking.update(planned)

            outcome = run_study(
                StudyPlanner(settings, base), folder, machine=look_at_machine(folder.local_folder()),
                make_executor=make_executor, only=only, progress=progress,
            )  # fmt: skip
        if not only:
            tracking.finish()
    _tell(outcome, folder, only)


def _tell(outcome: Outcome, folder: StudyFolder, only: list[str]) -> None:
    """What failed, how to go on, and the verdict. Exits with 1 where something failed or was stopped."""
    for run_id, why in outcome.failed.items():
        typer.echo(f"{run_id} failed: {why} (its traceback: error.txt in its folder)", err=True)
    for run_id, why in outcome.left_out.items():
        typer.echo(f"{run_id} does not fit: {why}", err=True)
    words = ["rankscope", "run", folder.url, *(word for run_id in only for word in ("--only", run_id))]
    again = shlex.join(words)
    if outcome.stopped:
        typer.echo(f"stopped; what is done is kept. To go on: {again}", err=True)
        raise typer.Exit(1)
    if not only:
        print_verdict(folder)
    if outcome.failed:
        typer.echo(f"the other runs are done; to try again those that failed: {again}", err=True)
        raise typer.Exit(1)


def _executor(settings: Study) -> Callable[[Plan], Executor]:
    """Makes the executor that the study asks for. Raises InputProblems for one that there is not."""
    from rankscope.edges.executors import check_executor, make_executor

    check_executor(settings.execution.on, settings.name)
    return lambda planned: make_executor(settings.execution.on, planned)
