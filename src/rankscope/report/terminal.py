"""What the command line prints: the arms' table with the verdict, and the plan. Readable from 80 columns on."""

from __future__ import annotations

import io
import sys
from collections.abc import Mapping

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from rankscope.records import ArmVerdict, Interval, Plan, PlannedRun, Verdict, VerdictFile
from rankscope.report import wording
from rankscope.report.chart_frames import in_order

WIDE_COLUMNS = 100
"""From this width on, intervals are written out; below, as the mean ± the larger distance to a bound."""

_STYLES = {
    "recommended": "bold green",
    "eligible": "green",
    "ineligible": "red",
    "refuted": "red",
    "failed": "red",
    "diverged": "red",
    "does not fit": "red",
    "open": "yellow",
}


def console() -> Console:
    """Results go to stdout; a pipe gets plain text that is never narrower than 80 columns."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # an ASCII terminal gets "?" for "±", not a traceback
    made = Console(highlight=False)
    if not made.is_terminal and made.width < 80:
        made = Console(highlight=False, width=80)
    return made


def print_results(console: Console, verdicts: VerdictFile | Verdict) -> None:
    """For every model and training set: the arms' table, the answer, what was forgotten, how sure it is."""
    every = [verdicts] if isinstance(verdicts, Verdict) else verdicts.verdicts
    for index, verdict in enumerate(every):
        if index:
            console.print()
        _print_one(console, verdict)
    if isinstance(verdicts, VerdictFile) and verdicts.notes:
        console.print()
        for note in verdicts.notes:
            console.print(f"[dim]Note: {escape(note)}[/]")
    if not every:
        console.print("There is no verdict: no arm has been compared.")


def _print_one(console: Console, verdict: Verdict) -> None:
    console.print(
        f"[bold]{escape(wording.verdict_name(verdict))}[/]: gain and forgetting in percentage points", style=""
    )
    console.print(_arms_table(verdict, wide=console.width >= WIDE_COLUMNS))
    console.print(f"[bold]{escape(wording.headline(verdict))}.[/] {escape(wording.sentence(verdict))}")
    for arm in wording.told_arms(verdict)[:3]:
        console.print(escape(wording.forgotten_sentence(arm)))
    if not verdict.decided or verdict.kind == "tradeoff":
        told = tuple(f"{arm.label} learns " for arm in verdict.arms)  # the table above says it shorter
        for reason in (text for text in verdict.reasons if not text.startswith(told)):
            console.print(Padding(f"[dim]{escape(reason)}[/]", (0, 0, 0, 2)))
    elif (sentence := wording.noise_sentence(verdict)) is not None:  # else it stands among the reasons
        console.print(Padding(f"[dim]{escape(sentence)}[/]", (0, 0, 0, 2)))


def _arms_table(verdict: Verdict, *, wide: bool) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", collapse_padding=True)
    table.add_column("arm", overflow="fold", min_width=8)
    table.add_column("trains" if not wide else "trainable parameters", justify="right", no_wrap=True)
    table.add_column("rate", justify="right", no_wrap=True)
    table.add_column("gain", justify="right", no_wrap=True)
    table.add_column("forgetting", justify="right", no_wrap=True)
    table.add_column("status", no_wrap=True)
    table.add_column("train time", justify="right", no_wrap=True)
    chosen = verdict.recommended.label if verdict.recommended else None
    for arm in in_order(verdict.arms):
        status = "recommended" if arm.label == chosen else _status(arm, verdict)
        style = _STYLES.get(status, "")
        table.add_row(
            f"[bold]{escape(arm.label)}[/]" if arm.label == chosen else escape(arm.label),
            wording.parameters(arm.trainable_parameters) if arm.trainable_parameters else "",
            wording.rate(arm.learning_rate) if arm.learning_rate is not None else "",
            _interval(arm.gain, wide=wide),
            _interval(arm.forgetting, wide=wide),
            f"[{style}]{escape(status)}[/]" if style else escape(status),
            wording.duration(arm.cost.train_seconds) if arm.cost.train_seconds is not None else "",
        )
    return table


def _status(arm: ArmVerdict, verdict: Verdict) -> str:
    return "refuted" if arm.label in verdict.refuted and arm.status in ("eligible", "open") else arm.status


def _interval(interval: Interval, *, wide: bool) -> str:
    if interval.mean is None:
        return "-"
    mean = wording.points(interval.mean)
    if interval.low is None or interval.high is None:
        return mean
    if wide:
        return f"{mean} ({wording.points(interval.low)} to {wording.points(interval.high)})"
    half = max(interval.high - interval.mean, interval.mean - interval.low)
    return f"{mean} ±{wording.points(half, sign=False)}"


# ---- the plan -------------------------------------------------------------------------------------------------------


def print_plan(console: Console, plan: Plan, states: Mapping[str, str]) -> None:
    """Every run of a plan with its cost; `states` maps the ids of runs that were begun to their state."""
    several = len({(run.model, run.train_set) for run in plan.runs}) > 1
    wide = console.width >= WIDE_COLUMNS
    table = Table(box=None, pad_edge=False, header_style="bold", collapse_padding=True)
    if several:
        table.add_column("model, trained on", overflow="fold")
    table.add_column("arm", overflow="fold", min_width=8)
    for heading in ("seed", "trains", "steps", "FLOPs", "memory", *(["disk"] if wide or not several else []), "time"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("state", overflow="fold")
    for run in plan.runs:
        cells = [f"{run.model}, {run.train_set}"] if several else []
        cells += [run.arm.label, str(run.seed), wording.parameters(run.trainable_parameters), f"{run.step_count:,}"]
        cells += [f"{run.train_flops + run.evaluate_flops:.1e}", wording.size(run.memory_bytes)]
        cells += [wording.size(run.disk_bytes)] if wide or not several else []
        table.add_row(*map(escape, [*cells, wording.duration(run.seconds), _run_state(run, states)]))
    console.print(table)
    for search in plan.searches:
        labels = ", ".join(arm.label for arm in search.arms)
        line = f"learning-rate search for {labels} on {search.train_set}: {len(search.rates)} rates"
        console.print(escape(f"{line}, {wording.duration(search.seconds)}"))
    console.print(f"[bold]{escape(_totals(plan, states))}[/]")
    for power in plan.power:
        console.print(escape(" ".join(power.said)))
    for warning in plan.warnings:
        console.print(f"[yellow]Warning:[/] {escape(warning)}")


def _run_state(run: PlannedRun, states: Mapping[str, str]) -> str:
    if run.run_id in states:
        return states[run.run_id]
    return "to do" if run.fits else f"does not fit: {run.reason}"


def _totals(plan: Plan, states: Mapping[str, str]) -> str:
    left = [run for run in plan.runs if run.fits and states.get(run.run_id) != "done"]
    seconds = sum(r.seconds for r in left) + sum(s.seconds for s in plan.searches)
    seconds = (seconds + plan.base_seconds + plan.derived_seconds) / plan.resolved.worker_count
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
    disk = wording.size(sum(run.disk_bytes for run in left))
    workers = f"{plan.resolved.worker_count} worker{'s' if plan.resolved.worker_count > 1 else ''}"
    end = f"about {wording.duration(seconds)} with {workers}, {disk} of disk" if left else "nothing left to do"
    return f"{', '.join(parts)}; {end}."
