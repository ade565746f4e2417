"""Work of a job that one device does not hold, handed to the processes of a gang."""

from __future__ import annotations

import gc
from typing import Any

import torch

from rankscope.jobs.gang import run_gang
from rankscope.jobs.job_context import JobContext
from rankscope.records import Gang, GangOutcome, GangTask, PlannedRun, PlannedSearch


def hand_to_gang(context: JobContext, gang: Gang, tokens: int, **what: Any) -> GangOutcome:
    """Let a gang do `what`, fields of a `GangTask`, with micro-batches of so many tokens. Raises GangFailed."""
    _leave_devices(context)
    resolved = context.plan.resolved
    cores = resolved.thread_count * min(resolved.workers_a_node, gang.size)
    task = GangTask(
        folder=context.folder.url, size=gang.size, offload=gang.offload, device=resolved.device,
        thread_count=max(1, cores // gang.size), micro_batch_tokens=tokens, evaluate_tokens=context.evaluate_tokens,
        **what,
    )  # fmt: skip
    return run_gang(task, context.place)


def score_in_gang(context: JobContext, of: PlannedRun | PlannedSearch, **what: Any) -> GangOutcome:
    """The same of what is scored in the gang of a run or search."""
    return hand_to_gang(context, of.scoring, context.micro_batch_tokens(of), **what)


def _leave_devices(context: JobContext) -> None:
    """Let go of the models that this process holds on a GPU: a gang's first process takes the same one."""
    context.make_room()
    if torch.cuda.is_available():
        gc.collect()
        torch.cuda.empty_cache()
