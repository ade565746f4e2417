"""The schedule of a plan in the terminal: a line for each GPU or worker, and how much of their time is idle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.markup import escape

from rankscope.records import Plan, Schedule, ScheduledJob
from rankscope.records.readable_numbers import duration, percent
from rankscope.report.plain_table import plain_table

_LINES = 16
"""With more GPUs or workers than this the first are shown, and how many more there are."""

_WORDS = {"base": "the base", "samples": "samples", "derived": "derived runs"}


def print_schedule(console: Console, plan: Plan, schedule: Schedule) -> None:
    """A line for each device with its jobs, then a sentence on the whole."""
    kind = "GPU" if schedule.device == "cuda" else "worker"
    table = plain_table()
    for heading in (kind if schedule.node_count == 1 else f"node.{kind}", "jobs", "busy", "idle", "done after"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("longest first", overflow="fold")
    names = _names(plan)
    for device in schedule.devices[:_LINES]:
        jobs = sorted((job for job in schedule.jobs if device in job.devices), key=lambda job: -job.seconds)
        busy = sum(job.seconds for job in jobs)
        idle = 1 - busy / schedule.makespan_seconds if schedule.makespan_seconds else 0.0
        ended = max((job.end_seconds for job in jobs), default=0.0)
        cells = [_device(device, schedule), str(len(jobs)), duration(busy), percent(max(0.0, idle)), duration(ended)]
        table.add_row(*cells, escape(_longest(jobs, names)))
    console.print(table)
    more = len(schedule.devices) - _LINES
    if more > 0:
        console.print(f"and {more} more {kind}s")
    count = f"{len(schedule.devices)} {kind}s"
    if schedule.node_count > 1:
        count += f" on {schedule.node_count} nodes"
    console.print(f"{percent(schedule.idle_share)} of the time of {count} is idle, until the last job has ended")


def _device(device: int, schedule: Schedule) -> str:
    """Its number, of several nodes with its node's: both from 0."""
    each = len(schedule.devices) // schedule.node_count
    return str(device) if schedule.node_count == 1 else f"{device // each}.{device % each}"


def _longest(jobs: Sequence[ScheduledJob], names: Mapping[str, str]) -> str:
    """The first two by name, and how many others."""
    shown = [_name(job, names) for job in jobs[:2]]
    return ", ".join([*shown, *([f"{len(jobs) - 2} more"] if len(jobs) > 2 else [])])


def _name(job: ScheduledJob, names: Mapping[str, str]) -> str:
    gang = f" (gang of {len(job.devices)})" if len(job.devices) > 1 else ""
    if job.what in _WORDS:
        return _WORDS[job.what]
    label = names.get(job.ids[0], job.ids[0])
    return f"pack of {len(job.ids)}{gang}" if job.what == "pack" else f"{label}{gang}"


def _names(plan: Plan) -> dict[str, str]:
    """What runs and searches are called, by id; with their training set where there are several."""
    several = len({run.train_set for run in plan.runs}) > 1

    def on(train_set: str) -> str:
        return f" on {train_set}" if several else ""

    found = {run.run_id: f"{run.arm.label} seed {run.seed}{on(run.train_set)}" for run in plan.runs}
    return found | {one.search_id: f"search {one.arms[0].label}{on(one.train_set)}" for one in plan.searches}
