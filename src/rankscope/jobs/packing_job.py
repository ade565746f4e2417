"""How many arms train together: measured once for a base and a training set, then kept."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import psutil
import torch

from rankscope.data.training_batches import order
from rankscope.edges.executors import WorkPlace
from rankscope.edges.study_folder import StudyFolder
from rankscope.jobs.job_context import JobContext, job_context
from rankscope.jobs.measure_job import SOME_RATE, time_steps
from rankscope.model.methods.attach import NewAdapter, attach
from rankscope.plan.checkpointing_choice import CheckpointsBlocks
from rankscope.plan.packing_choice import TIMED_STEPS, packing_measured
from rankscope.plan.resolve import USABLE_MEMORY
from rankscope.records import Gang, Packing, Plan, PlannedRun, Resolved
from rankscope.study.methods.remedy_settings import Replay

MOST_TOGETHER = 16
"""Arms in a pack: beyond this no more time was ever saved, and all would be lost together."""

WORTH_IT = 0.97
"""Another setting is taken where a step takes at most this share of the time: less is noise."""

_LEAST_TOKENS = 1024
"""Micro-batches are not tried smaller: the calls would cost more than the products."""


def groups_of(folder: StudyFolder, runs: Sequence[PlannedRun]) -> list[tuple[str, ...]]:
    """The runs of each job, in their order: packs and runs that began as they began, then new packs, the rest one by
    one."""
    asked = {run.run_id for run in runs}
    begun = [tuple(pack.run_ids) for pack in folder.read_packs() if asked.issuperset(pack.run_ids)]
    taken = {run_id for pack in begun for run_id in pack}
    open_packs: dict[tuple[str, str, int, Gang, Replay | None], list[str]] = {}
    found: list[list[str]] = [list(pack) for pack in begun]
    for run in runs:
        if run.run_id in taken:
            continue
        packing = folder.read_packing(run.model, run.train_set)
        packs = run.arm.given is None and run.arm.traits.can_pack(run.arm) and not folder.is_trained(run.run_id)
        packs = packs and packing is not None and packing.arms_together > 1
        if packing is None or not packs or folder.checkpoints(run.run_id).exist():
            found.append([run.run_id])
            continue
        key = (run.model, run.train_set, run.seed, run.training, run.arm.replay)
        if key not in open_packs or len(open_packs[key]) == packing.arms_together:
            open_packs[key] = []
            found.append(open_packs[key])
        open_packs[key].append(run.run_id)
    return [tuple(group) for group in found]


Seconds = dict[tuple[int, int], float]
"""Of a step, per token of one arm, by (arms, tokens of a micro-batch)."""


@dataclass(frozen=True)
class ChoosePacking:
    """Decide how many arms train together, for runs that differ in nothing but their LoRA arms.

    What the study gives is taken. Else a few steps are timed: first by the tokens of a micro-batch, with one arm, then
    with twice as many arms as long as a step of one arm gets cheaper and the memory holds them. Without `timed` the
    study gives the number of arms, and the tokens are the plan's.
    """

    folder: str
    run_ids: tuple[str, ...]
    timed: bool = True
    seconds: float = 0.0

    def run(self, place: WorkPlace) -> None:
        context = job_context(self.folder, place)
        runs = [context.runs[run_id] for run_id in self.run_ids]
        given, seconds = context.study.execution, Seconds()
        tokens = given.micro_batch_tokens
        alone = self.timed and not any(run.in_gang for run in runs)
        noted = context.folder.read_packing(runs[0].model, runs[0].train_set)
        if tokens == "auto" and noted is not None:  # decided once: what began goes on with the same batches
            tokens = noted.micro_batch_tokens
        elif tokens == "auto":
            tokens = _best_tokens(context, runs, seconds) if alone else context.plan.resolved.micro_batch_tokens
        count = given.arms_together
        if count == "auto":  # what is shared out keeps its devices busy: packs are not tried
            count = _best_count(context, runs, tokens, seconds) if alone else 1
        context.folder.write_packing(
            Packing(
                model=runs[0].model,
                train_set=runs[0].train_set,
                arms_together=count,
                micro_batch_tokens=tokens,
                seconds_per_token={f"{arms} x {size}": value for (arms, size), value in seconds.items()},
            )
        )

    def mark_failed(self, folder: StudyFolder, error: str, details: str) -> dict[str, str]:
        """No run fails by it: they train one by one."""
        folder.write_error("packing", details)
        return {}


def packing_jobs(
    folder: StudyFolder, plan: Plan, runs: Iterable[PlannedRun], together: int | Literal["auto"], *, timed: bool
) -> list[ChoosePacking]:
    """A job for each base and training set of which it is to be decided, and is not, how the LoRA runs of a seed pack.

    `together` is what the study gives; a number goes before what was noted earlier, measured or given. Where nothing is
    `timed`, only a number decides.
    """
    if together == "auto" and not timed:
        return []

    def is_noted(run: PlannedRun) -> bool:
        noted = folder.read_packing(run.model, run.train_set)
        return noted is not None and together in ("auto", noted.arms_together)

    ahead = [run for run in runs if not folder.is_trained(run.run_id)]
    groups = packing_measured(ahead, plan.searches, plan.resolved.device, auto=together == "auto")
    return [
        ChoosePacking(folder.url, tuple(run.run_id for run in own), timed=timed)
        for own in groups
        if not is_noted(own[0])
    ]


def _best_tokens(context: JobContext, runs: Sequence[PlannedRun], seconds: Seconds) -> int:
    tokens = context.plan.resolved.micro_batch_tokens
    _try(context, runs, 1, tokens, seconds)
    largest = _largest_batch_tokens(context, runs[0])
    while _LEAST_TOKENS <= tokens // 2 < largest:  # else no batch is cut further
        smaller = tokens // 2
        _try(context, runs, 1, smaller, seconds)
        if seconds[1, smaller] > WORTH_IT * seconds[1, tokens]:
            break
        tokens = smaller
    return tokens


def _largest_batch_tokens(context: JobContext, run: PlannedRun) -> int:
    """Of the steps that are timed."""
    rows, budget = context.objective.training_rows(context.training(run.model, run.train_set)), context.study.budget
    batches = order(len(rows), budget.batch_size, budget.epochs, run.seed)[: TIMED_STEPS + 1]
    return max(sum(context.objective.row_tokens(rows[i]) for i in batch) for batch in batches)


def _best_count(context: JobContext, runs: Sequence[PlannedRun], tokens: int, seconds: Seconds) -> int:
    count = 1
    if (1, tokens) not in seconds:
        _try(context, runs, 1, tokens, seconds)
    while 2 * count <= min(len(runs), MOST_TOGETHER) and _fits(context, runs, 2 * count):
        if not _try(context, runs, 2 * count, tokens, seconds):
            break
        if seconds[2 * count, tokens] > WORTH_IT * seconds[count, tokens]:
            break
        count *= 2
    return count


def _try(context: JobContext, runs: Sequence[PlannedRun], count: int, tokens: int, seconds: Seconds) -> bool:
    """Time `count` arms, of ranks spread over all of them; False where the device's memory does not hold them."""
    by_size = sorted(runs, key=lambda run: run.trainable_parameters)
    chosen = [by_size[(2 * i + 1) * len(runs) // (2 * count)] for i in range(count)]
    data = context.training(runs[0].model, runs[0].train_set)
    twice = CheckpointsBlocks(any(run.checkpointing for run in chosen))
    settings = context.fit_settings(SOME_RATE, runs[0].seed, micro_batch_tokens=tokens, checkpointing=twice)
    try:
        with attach(context.base(runs[0].model), *(NewAdapter(run.arm, runs[0].seed) for run in chosen)) as pack:
            per_token, _ = time_steps(pack, context.objective.training_rows(data), settings)
    except torch.OutOfMemoryError:
        return False
    seconds[count, tokens] = per_token / count
    return True


def _fits(context: JobContext, runs: Sequence[PlannedRun], count: int) -> bool:
    """Whether the memory of one worker holds so many arms: activations are those of one micro-batch all the same."""
    largest = max(runs, key=lambda run: run.memory_bytes)
    own = sum(largest.memory_parts_bytes[part] for part in ("masters", "moments", "gradients"))
    return largest.memory_bytes + (count - 1) * own <= _room(context.plan.resolved)


def _room(resolved: Resolved) -> int:
    """Bytes that one worker may use: its whole GPU, or its part of this machine's memory."""
    if resolved.device == "cuda":
        return int(torch.cuda.get_device_properties(0).total_memory * USABLE_MEMORY)
    return int(psutil.virtual_memory().total * USABLE_MEMORY) // resolved.workers_a_node
