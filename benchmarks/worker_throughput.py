"""The demo's runs in several workers against one: what `benchmarks/scale.py` calls the row `workers`.

Timed are the jobs that train and score the runs, one by one and without packs, in workers that have started;
planning, the base's own scores, tables and the verdict are not. Every worker keeps to cores of its own.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from table import Row

from rankscope.edges.executors.this_machine import Workers
from rankscope.edges.machine import look_at_machine
from rankscope.edges.study_folder import StudyFolder
from rankscope.edges.worker_process import Place
from rankscope.jobs.planning import StudyPlanner
from rankscope.jobs.run_job import training_jobs
from rankscope.jobs.score_job import ScoreBase
from rankscope.study.read_study import read_study


def workers_against_one(folder: Path, settings: Sequence[str], quick: bool, repeats: int) -> list[Row]:
    """Two one-thread workers against one one-thread worker, and against one with two threads; in turns, medians."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if not cores:
        return [Row("two workers", "one", reason="not measured: this system does not tie a process to a core")]
    first, second = cores[0], cores[min(1, len(cores) - 1)]
    sides = {
        "two one-thread workers": (1, [Place(cores=(first,)), Place(cores=(second,))]),
        "one one-thread worker": (1, [Place(cores=(first,))]),
        "one two-thread worker": (2, [Place(cores=(first, second))]),
    }
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    losses: dict[str, dict[str, float]] = {}
    for turn in range(repeats):
        for number, (name, (threads, places)) in enumerate(sides.items()):
            took, losses[name] = _runs(folder / f"{turn}-{number}", settings, threads, places)
            seconds[name].append(took)
    ours, *peers = sides
    work = f"{'the demo, quick' if quick else 'the demo'}, its runs in {ours} on {min(2, len(cores))} core(s)"
    rows = []
    for peer in peers:
        mine, theirs = statistics.median(seconds[ours]), statistics.median(seconds[peer])
        difference = max(abs(losses[ours][run_id] - loss) for run_id, loss in losses[peer].items())
        rows.append(Row(work, peer, mine, theirs, theirs / mine, max_difference=difference))
    return rows


def _runs(out: Path, settings: Sequence[str], threads: int, places: Sequence[Place]) -> tuple[float, dict[str, float]]:
    """Seconds of all runs of the demo, and the validation loss of each."""
    with resources.as_file(resources.files("rankscope") / "assets" / "demo.yaml") as file:
        study = read_study(file, list(settings))
        folder = StudyFolder.open(out)
        with StudyPlanner(study, file.parent) as planner:
            plan = planner.plan(look_at_machine(out.parent), folder)
            resolved = plan.resolved.model_copy(update={"worker_count": len(places), "thread_count": threads})
            plan = plan.model_copy(update={"resolved": resolved})
            folder.claim(study.name, planner.text(plan))
            planner.settle(folder, plan)
    workers = Workers(len(places), threads, places)
    (base,) = plan.base_ids.items()
    try:
        first = [ScoreBase(folder.url, base[1], base[0]) for _ in places]  # so that every worker has started
        _all(workers, first)
        began = time.perf_counter()
        _all(workers, sorted(training_jobs(folder, plan.runs), key=lambda job: -job.seconds))
        seconds = time.perf_counter() - began
    finally:
        workers.close()
    statuses = {run.run_id: folder.read_status(run.run_id) for run in plan.runs}
    return seconds, {
        run_id: status.validation_loss
        for run_id, status in statuses.items()
        if status is not None and status.validation_loss is not None
    }


def _all(workers: Workers, jobs: Sequence[ScoreBase | object]) -> None:
    for outcome in workers.run(list(jobs), lambda: None):  # type: ignore[arg-type]
        if outcome.error is not None:
            raise SystemExit(f"{outcome.job}: {outcome.error}\n{outcome.details}")
