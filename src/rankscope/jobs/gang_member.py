"""The program of one process of a gang: `python -m rankscope.jobs.gang_member TASK.json`.

It joins the others, trains or scores, and leaves its outcome in a file. Exit codes: 0 done, 1 otherwise.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import FileStore

from rankscope.edges.freed_memory import keep_freed_memory
from rankscope.edges.machine import end_with, quiet_libraries, stop_on, stop_requested
from rankscope.jobs.candidate_scoring import score_weights
from rankscope.jobs.candidate_training import train_arms
from rankscope.jobs.derive_job import derive
from rankscope.jobs.gang_context import GangContext
from rankscope.jobs.replay_job import write_samples
from rankscope.jobs.run_job import finish_runs
from rankscope.jobs.run_training import train_runs
from rankscope.jobs.score_job import score_base
from rankscope.records import GangOutcome, GangTask, GangWork, PlannedRun
from rankscope.records.record_base import parse_record, record_json

_WAIT = timedelta(hours=12)
"""How long one waits for another, which may read a large model, decompose a matrix or ask a judge; the process that
watches ends who waits for one that died."""


def main(task_file: str) -> int:
    """Do the task in this file; the process's exit code."""
    task = parse_record(GangTask, Path(task_file).read_bytes(), task_file)
    quiet_libraries()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's Ctrl-C is the parent's to handle
    stop_on((signal.SIGTERM, signal.SIGUSR1))
    end_with(task.parent)
    keep_freed_memory()
    torch.set_num_threads(task.thread_count)
    try:
        outcome = _work(task)
    except torch.OutOfMemoryError as error:
        outcome = GangOutcome(rank=task.rank, state="memory", error=str(error))
    except Exception as error:  # told to the process that watches, with its traceback
        text = f"{type(error).__name__}: {error}"
        outcome = GangOutcome(rank=task.rank, state="failed", error=text, details=traceback.format_exc())
    file = Path(task.scratch) / f"outcome-{task.rank}.json"
    draft = file.with_suffix(".draft")
    draft.write_bytes(record_json(outcome))
    draft.replace(file)
    return 0 if outcome.state == "done" else 1


def _work(task: GangTask) -> GangOutcome:
    store = FileStore(str(Path(task.scratch) / "rendezvous"), task.size)
    backend = "cpu:gloo,cuda:nccl" if task.device == "cuda" else "cpu:gloo"
    dist.init_process_group(backend, store=store, rank=task.rank, world_size=task.size, timeout=_WAIT)
    outcome = _WORK[task.work](GangContext(task, stop_requested), task)
    dist.barrier()
    dist.destroy_process_group()
    return outcome


def _train(context: GangContext, task: GangTask) -> GangOutcome:
    checkpoints = context.checkpoints(task.checkpoint)
    train_runs(context, _runs(context, task), task.rates, checkpoints)
    checkpoints.wait()
    return _done(task)


def _search(context: GangContext, task: GangTask) -> GangOutcome:
    places = [context.checkpoints(candidate.checkpoint) for candidate in task.candidates]
    losses, seconds = train_arms(
        context,
        context.searches[task.search_id],
        [(candidate.arm, candidate.learning_rate) for candidate in task.candidates],
        places,
        task.until_step or context.searches[task.search_id].step_count,
        Path(task.save_to) if task.save_to is not None else None,
    )
    for place in places:
        place.wait()
    return _done(task, losses=losses, seconds=seconds)


def _score(context: GangContext, task: GangTask) -> GangOutcome:
    finish_runs(context, _runs(context, task), [])
    return _done(task)


def _base(context: GangContext, task: GangTask) -> GangOutcome:
    score_base(context, task.run_ids[0], task.model)
    return _done(task)


def _candidate(context: GangContext, task: GangTask) -> GangOutcome:
    search, (one,) = context.searches[task.search_id], task.candidates
    scored = score_weights(context, search, one.arm, one.learning_rate, Path(task.weights))
    if task.rank == 0 and task.save_to is not None:
        scored.write(Path(task.save_to))
    return _done(task, dial_losses=scored.losses)


def _derive(context: GangContext, task: GangTask) -> GangOutcome:
    derive(context, _runs(context, task)[0], task.name)
    return _done(task)


def _samples(context: GangContext, task: GangTask) -> GangOutcome:
    write_samples(context, _runs(context, task)[0])
    return _done(task)


_WORK: dict[GangWork, Callable[[GangContext, GangTask], GangOutcome]] = {
    "train": _train, "search": _search, "score": _score, "base": _base, "candidate": _candidate, "derive": _derive,
    "samples": _samples,
}  # fmt: skip


def _runs(context: GangContext, task: GangTask) -> list[PlannedRun]:
    return [context.runs[run_id] for run_id in task.run_ids]


def _done(task: GangTask, **found: Any) -> GangOutcome:
    return GangOutcome(rank=task.rank, state="done", **found)


if __name__ == "__main__":
    code = main(sys.argv[1])
    sys.stdout.flush()
    os._exit(code)  # a neighbour that died leaves threads of torch that would wait for it
