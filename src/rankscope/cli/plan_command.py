"""The command that says what a study would take, in memory, hours and money, and trains nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rankscope.cli.command_helpers import Json, RowsRead, quiet, site_of_study
from rankscope.edges.heavy_imports import collector_rests
from rankscope.study.problems import InputProblems, Problem

if TYPE_CHECKING:
    from rankscope.records import Plan

StudyFile = Annotated[Path, typer.Argument(metavar="STUDY.yaml", help="A study file; `rankscope init` writes one.")]
Overrides = Annotated[list[str] | None, typer.Option("--set", metavar="A.B=C", help="Change one setting of the study.")]


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
    price: Annotated[
        str | None, typer.Option("--price", metavar="P/UNIT", help="Money too: 3/hour (the machine), or 2.5/gpu-hour.")
    ] = None,
) -> None:
    """Print every run with its parameters, FLOPs, memory, disk and time, and what does not fit. Trains nothing.

    \b
    Examples:
      rankscope plan study.yaml
      rankscope plan study.yaml --set 'seeds=[0,1,2,3,4]' --json
      rankscope plan study.yaml --gpus 8x80GB --price 2.5/gpu-hour
    """
    quiet()
    from rankscope.plan.described_machine import described_machine
    from rankscope.plan.price import NO_GPU_HOURS, cost_of, parse_price
    from rankscope.plan.schedule import what_is_left
    from rankscope.study.read_study import read_study

    described = described_machine(gpus) if gpus is not None else None
    asked_price = parse_price(price) if price is not None else None
    if described is not None and measure:
        found = "--measure with --gpus"
        raise InputProblems([Problem("--gpus", "", found, "one of them: a described machine cannot be timed")])
    settings = read_study(study, set_ or [])
    with collector_rests():
        from rankscope.edges.executors import check_several_nodes
        from rankscope.edges.study_folder import StudyFolder
        from rankscope.pipeline import StudyPlanner, measure_study

    check_several_nodes(settings, described)
    folder = StudyFolder.open(out or settings.name)
    site = None if described is not None else site_of_study(settings, folder)
    machine = site.machine if site is not None else described
    assert machine is not None
    with StudyPlanner(settings, study.resolve().parent, RowsRead()) as planner:
        planned = planner.plan(machine, folder, as_begun=described is None)
        if measure and site is not None:
            measured, failed = measure_study(planner, planned, site.make_executor)
            for label, why in failed.items():
                typer.echo(f"{label} was not measured, its time is calculated: {why}", err=True)
            planned = planner.plan(machine, folder, measured)
    states = {run_id: folder.read_status(run_id) for run_id in _ids(planned)}
    done = {run_id for run_id, status in states.items() if status is not None and status.state == "done"}
    left = what_is_left(planned.schedule, planned.runs, done) if planned.schedule is not None else None
    cost = cost_of(left, asked_price) if left is not None and asked_price is not None else None
    if json_:
        record = planned.model_dump(mode="json")
        if asked_price is not None:
            record["cost"] = None if cost is None else cost.as_json()
        typer.echo(json.dumps(record, indent=1))
        return
    from rankscope.report.terminal_tables import console, print_plan
    from rankscope.results.suite_levels import context_warnings, suite_levels

    runs = {run.run_id for run in planned.runs}
    states_known = {key: status.state for key, status in states.items() if status is not None and key in runs}
    told = [*suite_levels(folder, planned), *(f"{text}." for text in context_warnings(folder, planned))]
    if left is not None and asked_price is not None:
        told.insert(0, NO_GPU_HOURS if cost is None else cost.said)
    print_plan(console(), planned, states_known, told, left)


def _ids(planned: Plan) -> list[str]:
    """Of every run, and of the bases."""
    return [*(run.run_id for run in planned.runs), *planned.base_ids.values()]
