"""How far a study is: statuses -> shares, speeds, time left. Arithmetic only; live.py shows it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rankscope.plan.run_cost import search_share
from rankscope.records import Plan, PlannedRun, PlannedSearch, RunStatus

ReadStatus = Callable[[str], RunStatus | None]
ReadRungs = Callable[[str], Mapping[str, Any] | None]
"""What a search has measured so far, by `arm rate step`; None before it began."""

ENDED = ("done", "diverged", "failed", "does not fit", "not needed")


@dataclass(frozen=True)
class Progress:
    """A study at one moment. `shares` maps runs and searches to the share of them that is done, 0 to 1."""

    statuses: dict[str, RunStatus]
    shares: dict[str, float]


def look(plan: Plan, read_status: ReadStatus, read_rungs: ReadRungs = lambda _: None) -> Progress:
    """Read every status; a run that has none yet is planned, or does not fit."""
    statuses = {}
    for run in plan.runs:
        found = read_status(run.run_id)
        if found is None:
            state = "planned" if run.fits else "does not fit"
            found = RunStatus(run_id=run.run_id, state=state, reason=run.reason, steps_total=run.step_count)
        statuses[run.run_id] = found
    shares = {run.run_id: run_share(plan, run, statuses[run.run_id]) for run in plan.runs}
    needed = {run.search_id for run in plan.runs if statuses[run.run_id].state not in ENDED}
    for search in plan.searches:
        begun = search.search_id in needed  # else its runs are done, so it is
        shares[search.search_id] = _search_share(search, read_rungs(search.search_id)) if begun else 1.0
    return Progress(statuses, shares)


def item_total(plan: Plan, model: str) -> int:
    return sum(suite.item_count for suite in plan.suites if suite.model == model)


def run_share(plan: Plan, run: PlannedRun, status: RunStatus) -> float:
    """Share of a run that is done; training and scoring weigh as their FLOPs in the plan."""
    if status.state in ENDED:
        return 1.0
    flops = run.train_flops + run.evaluate_flops
    training = run.train_flops / flops if flops else 1.0
    steps = status.steps_done / status.steps_total if status.steps_total else 0.0
    items = item_total(plan, run.model)
    return training * steps + (1.0 - training) * (status.items_scored / items if items else 0.0)


def _search_share(search: PlannedSearch, rungs: Mapping[str, Any] | None) -> float:
    """Updates done over those that successive halving needs; a candidate's rungs go on from one another."""
    reached: dict[str, int] = {}
    for key in rungs or ():
        candidate, step = key.rsplit(" ", 1)
        reached[candidate] = max(reached.get(candidate, 0), int(step))
    total = search.step_count * search_share(len(search.rates)) * len(search.arms)
    return min(1.0, sum(reached.values()) / total) if total else 0.0


def seconds_left(
    plan: Plan, now: Mapping[str, float], before: Mapping[str, float], elapsed_seconds: float
) -> float | None:
    """Planned seconds of what is left, scaled by how the work of this session compared with its plan.

    `now` and `before` are shares by run and search, before this session and at present. Never less than the largest
    run that is left takes one worker. None until a fiftieth of the session's work is done: the scale would be noise.
    """
    planned = {run.run_id: run.seconds for run in plan.runs if run.fits}
    planned |= {search.search_id: search.seconds for search in plan.searches}
    finished = sum(seconds * (now[name] - before[name]) for name, seconds in planned.items())
    left = {name: seconds * (1.0 - now[name]) for name, seconds in planned.items()}
    rest = sum(left.values()) + plan.derived_seconds  # derived runs come last, when no run is left
    total = finished + rest
    if total <= 0 or finished < 0.02 * total:
        return None
    workers = max(1, min(plan.resolved.worker_count, len(planned)))
    return max(rest, max(left.values()) * workers) * elapsed_seconds / finished


def tokens_per_second(run: PlannedRun, status: RunStatus) -> float | None:
    """Training tokens (prompt and completion) a second; None before the first step."""
    if not status.steps_done or not status.steps_total or not status.train_seconds:
        return None
    return run.train_tokens * status.steps_done / status.steps_total / status.train_seconds


def counts(progress: Progress) -> dict[str, int]:
    return dict(Counter(status.state for status in progress.statuses.values()))


def as_json(plan: Plan, progress: Progress) -> dict[str, Any]:
    """`rankscope status --json`: counts by state, and every run's status."""
    return {
        "study": plan.study,
        "counts": counts(progress),
        "searches": {search.search_id: round(progress.shares[search.search_id], 4) for search in plan.searches},
        "runs": [
            {"model": run.model, "train_set": run.train_set, "arm": run.arm.label, "seed": run.seed}
            | progress.statuses[run.run_id].model_dump()
            | {
                "items_total": item_total(plan, run.model),
                "tokens_per_second": tokens_per_second(run, progress.statuses[run.run_id]),
            }
            for run in plan.runs
        ],
    }
