"""What the terminal prints of a plan, a running study, an adapter and a machine. Readable from 80 columns on."""

from __future__ import annotations

import io
import sys
from collections.abc import Container, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table

from rankscope.records import Plan, PlannedRun, RunStatus, Schedule
from rankscope.records.readable_numbers import duration, parameters, size
from rankscope.report.plain_table import plain_table
from rankscope.report.schedule_table import print_schedule
from rankscope.report.setting_lines import setting_lines

ENDED = ("done", "diverged", "failed", "does not fit", "not needed")
"""The states in which a run stays."""

WIDE_COLUMNS = 100
"""From this width on, intervals are written out; below, as the mean ± the larger distance to a bound."""


def console() -> Console:
    """Results go to stdout; a pipe gets plain text that is never narrower than 80 columns."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # an ASCII terminal gets "?" for "±", not a traceback
    made = Console(highlight=False)
    if not made.is_terminal and made.width < 80:
        made = Console(highlight=False, width=80)
    return made


# ---- the plan -------------------------------------------------------------------------------------------------------


def print_plan(
    console: Console, plan: Plan, states: Mapping[str, str], levels: Sequence[str] = (), left: Schedule | None = None
) -> None:
    """Every run of a plan with its cost; `states` maps the ids of runs that were begun to their state, `levels` says
    what the base has on the suites, where that is known, `left` when what is to do will be done (else the plan's)."""
    left = plan.schedule if left is None else left
    several = len({(run.model, run.train_set) for run in plan.runs}) > 1
    wide = console.width >= WIDE_COLUMNS
    table = plain_table()
    if several:
        table.add_column("model, trained on", overflow="fold")
    table.add_column("arm", overflow="fold", min_width=8)
    for heading in ("seed", "trains", "steps", "FLOPs", "memory", *(["disk"] if wide or not several else []), "time"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("state", overflow="fold")
    for run in plan.runs:
        cells = [f"{run.model}, {run.train_set}"] if several else []
        cells += [run.arm.label, str(run.seed), parameters(run.trainable_parameters), f"{run.step_count:,}"]
        cells += [f"{run.train_flops + run.evaluate_flops:.1e}", size(run.memory_bytes)]
        cells += [size(run.disk_bytes)] if wide or not several else []
        table.add_row(*map(escape, [*cells, duration(run.seconds), _run_state(run, states)]))
    console.print(table)
    for search in plan.searches:
        labels = ", ".join(arm.label for arm in search.arms)
        line = f"learning-rate search for {labels} on {search.train_set}: {search.tries or len(search.rates)} rates"
        console.print(escape(f"{line}, {duration(search.seconds)}"))
    for line in setting_lines(plan):
        console.print(escape(line))
    if left is not None and left.jobs and len(left.devices) > 1:
        print_schedule(console, plan, left)
    console.print(f"[bold]{escape(_totals(plan, states, left))}[/]")
    for power in plan.power:
        console.print(escape(" ".join(power.said)))
    for level in levels:
        console.print(escape(level))
    for warning in plan.warnings:
        console.print(f"[yellow]Warning:[/] {escape(warning)}")


def _run_state(run: PlannedRun, states: Mapping[str, str]) -> str:
    if run.run_id in states:
        return states[run.run_id]
    if not run.fits:
        return f"does not fit: {run.reason}"
    if run.offload:
        return "to do, with the host's memory"
    return "to do" if run.devices == 1 else f"to do, in a gang of {run.devices}"


def _totals(plan: Plan, states: Mapping[str, str], schedule: Schedule | None) -> str:
    left = [run for run in plan.runs if run.fits and states.get(run.run_id) != "done"]
    seconds = sum(r.seconds for r in left) + sum(s.seconds for s in plan.searches)
    seconds = (seconds + plan.base_seconds + plan.derived_seconds) / plan.resolved.worker_count
    if schedule is not None:  # a plan of before there were schedules has none
        seconds = schedule.makespan_seconds
    done = sum(states.get(run.run_id) == "done" for run in plan.runs)
    unfit = sum(not run.fits for run in plan.runs)
    parts = [f"{len(plan.runs)} runs", f"{done} done", f"{len(left)} to do"]
    if plan.looks:
        first = sum(run.seed < plan.looks[0] for run in plan.runs)
        parts = [
            f"{first} runs, then up to {len(plan.runs)} as the verdict asks",
            f"{done} done",
            f"{len(left)} at most to do",
        ]
    if unfit:
        parts.append(f"{unfit} that do not fit")
    disk = size(plan.disk_bytes(left))
    kind = "GPU" if plan.resolved.device == "cuda" else "worker"
    workers = f"{plan.resolved.worker_count} {kind}{'s' if plan.resolved.worker_count > 1 else ''}"
    end = f"about {duration(seconds)} with {workers}, {disk} of disk" if left else "nothing left to do"
    if plan.resolved.device == "cuda" and left:
        end += f", {plan.device_hours if schedule is None else schedule.gpu_hours:,.1f} GPU hours in all"
    return f"{', '.join(parts)}; {end}."


# ---- a study while it runs ------------------------------------------------------------------------------------------


def status_table(
    plan: Plan, statuses: Mapping[str, RunStatus], shares: Mapping[str, float], optional: Container[str] = ()
) -> Table:
    """One line an arm and training set: its seeds done, and loss, items, speed and memory of the latest.

    `shares` is the share of each run and search that is done, by id; `optional` are the runs that the verdict may do
    without.
    """
    table = plain_table(
        "arm", "trained on", "seeds", "progress", numbers=("loss", "items scored", "tokens/s", "memory")
    )
    for search in plan.searches:
        share = shares[search.search_id]
        if share < 1.0:
            label = ", ".join(arm.label for arm in search.arms)
            table.add_row(label, search.train_set, "rate", ProgressBar(total=1.0, completed=share, width=14))
    groups: dict[tuple[str, str, str], list[PlannedRun]] = {}
    for run in plan.runs:
        groups.setdefault((run.model, run.arm.label, run.train_set), []).append(run)
    for (model, label, train_set), runs in groups.items():
        theirs = [statuses[run.run_id] for run in runs]
        done = sum(status.state == "done" for status in theirs)
        trouble = dict.fromkeys(s.state for s in theirs if s.state in ENDED and s.state not in ("done", "not needed"))
        sure = [run for run in runs if run.run_id not in optional]
        seeds = f"{done}/{len(sure)}" + (f" to {len(runs)}" if len(sure) < len(runs) else "")
        bar = ProgressBar(total=len(sure), completed=sum(shares[run.run_id] for run in sure), width=14)
        losses = [s.final_train_loss for s in theirs if s.final_train_loss is not None]
        scored = sum(status.items_scored for status in theirs)
        speeds = [v for run in runs if (v := statuses[run.run_id].tokens_per_second(run.train_tokens)) is not None]
        memory = max((s.peak_memory_bytes or 0 for s in theirs), default=0)
        table.add_row(
            label,
            train_set,
            " ".join([seeds, *trouble]),
            bar,
            f"{losses[-1]:.3f}" if losses else "",
            f"{scored:,}/{plan.item_count(model) * len(sure):,}" if scored else "",
            f"{speeds[-1]:,.0f}" if speeds else "",
            size(memory) if memory else "",
        )
    return table


# ---- a machine ------------------------------------------------------------------------------------------------------


def print_doctor(console: Console, found: Mapping[str, Any]) -> None:
    """`found` is what `doctor --json` prints."""
    machine = found["machine"]
    speed = machine["flops_per_second"]
    memory = size(machine["device_memory_bytes"])
    facts = {
        "device": f"{machine['device_name']} ({machine['device']}), {machine['core_count']} CPU cores",
        "memory": f"{memory}, of which a plan uses {size(found['usable_memory_bytes'])}",
        "dtype": f"{found['dtype']} where a study says auto",
        "speed": "not measured" if speed is None else f"{speed / 1e9:,.0f} GFLOP/s in large matrix products"
        + (", one thread" if machine["device"] == "cpu" else ""),
        "disk": f"{size(machine['disk_free_bytes'])} free",
        "versions": ", ".join(f"{name} {version}" for name, version in list(found["versions"].items())[:5]),
    }  # fmt: skip
    for name, value in facts.items():
        console.print(f"[bold]{name:<9}[/]{escape(value)}", soft_wrap=True)
    console.print()
    table = plain_table()
    table.add_column("the largest that trains here")
    table.add_column("model like")
    table.add_column("needs", justify="right", no_wrap=True)
    table.add_column("too large")
    for way in found["trainable"]:
        fits, large = way["fits"], way["too_large"]
        model = way["reason"] or (f"{fits['model']} ({parameters(fits['parameters'])})" if fits else "none")
        more = f"{large['model']}: {size(large['memory_bytes'])}" if large else ""
        table.add_row(way["way"], escape(model), size(fits["memory_bytes"]) if fits else "", escape(more))
    console.print(table)
    console.print("[dim]With gradient checkpointing, one row of 1,024 tokens at a time; docs/plan.md.[/]")
    if found["fixes"]:
        console.print("\n[bold]What would help[/]")
        for fix in found["fixes"]:
            console.print(f"- {escape(fix)}")
    console.print(
        f"\n[bold]Next:[/] {escape(found['next']['command'])}    [dim]({escape(found['next']['why'])})[/]",
        soft_wrap=True,
    )
