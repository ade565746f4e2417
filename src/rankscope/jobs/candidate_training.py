"""Training the candidates of a rate search up to a step, here or in a gang, and their validation losses."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from pathlib import Path

import torch

from rankscope.edges.study_folder import StudyFolder
from rankscope.jobs.gang import run_gang
from rankscope.jobs.job_context import JobContext
from rankscope.model.methods.attach import NewAdapter, attach
from rankscope.records import GangCandidate, GangTask, PlannedRun, PlannedSearch
from rankscope.study.study import Arm
from rankscope.train.fit import fit
from rankscope.train.training_state import Checkpoints, OneFileEach

Candidate = tuple[Arm, float]
"""An arm and a rate."""


def checkpoint_name(folder: StudyFolder, search_id: str, arm: Arm, rate: float) -> str:
    """Where a candidate's state is kept."""
    return folder.search_checkpoints(search_id, f"{arm.label}-{rate:g}").name


def train_arms(
    context: JobContext,
    search: PlannedSearch,
    candidates: Sequence[Candidate],
    places: Sequence[Checkpoints],
    until_step: int,
    save_to: Path | None = None,
) -> tuple[list[float | None], list[float]]:
    """Validation losses (None: diverged) and seconds since each candidate's start; of a gang all processes call this.

    Where a stop is asked for, the losses say nothing. `save_to` gets the weights of the first candidate.
    """
    objective, data = context.objective, context.training(search.model, search.train_set)
    first = candidates[0][0]
    base = context.base(search.model, own=first.traits.whole, arm=first)
    losses: list[float | None] = []
    with attach(base, *(NewAdapter(arm, search.seed) for arm, _ in candidates)) as pack:
        results = fit(
            pack,
            objective.training_rows(data),
            [context.search_settings(search, arm, rate) for arm, rate in candidates],
            checkpoints=OneFileEach(places),
            should_stop=context.stop_requested,
            until_step=until_step,
            team=context.team,
        )
        seconds = [result.train_seconds for result in results]
        if context.team.any(context.stop_requested())[0]:
            return [None] * len(results), seconds
        for i, result in enumerate(results):
            loss = None
            if result.state != "diverged":
                with pack.running([i]):
                    forward, rows = pack.members[i].training_forward(), objective.validation_rows(data)
                    loss = objective.validation_loss(forward, rows, result.micro_batch_tokens, context.team)
            losses.append(loss)
        if save_to is not None:
            pack.members[0].save(save_to)
    return losses, seconds


def train_in_gang(
    context: JobContext,
    search: PlannedSearch,
    candidates: Sequence[Candidate],
    until_step: int,
    save_to: Path | None = None,
) -> tuple[list[float | None], list[float]]:
    """As `train_arms`, by the processes of the search's gang."""
    leave_devices(context)
    task = gang_task(context, search).model_copy(
        update={
            "candidates": [
                GangCandidate(
                    arm=arm,
                    learning_rate=rate,
                    checkpoint=checkpoint_name(context.folder, search.search_id, arm, rate),
                )
                for arm, rate in candidates
            ],
            "search_id": search.search_id,
            "until_step": until_step,
            "save_to": None if save_to is None else str(save_to),
        }
    )
    outcome = run_gang(task, context.place)
    return outcome.losses, outcome.seconds


def leave_devices(context: JobContext) -> None:
    """Let go of the models that this process holds on a GPU: a gang's first process takes the same one."""
    context.make_room()
    if torch.cuda.is_available():
        gc.collect()
        torch.cuda.empty_cache()


def gang_task(context: JobContext, of: PlannedRun | PlannedSearch) -> GangTask:
    """What the processes of a run's or search's gang have to know in any case."""
    resolved = context.plan.resolved
    cores = resolved.thread_count * min(resolved.worker_count, of.gang)
    return GangTask(
        folder=context.folder.url, model=of.model, train_set=of.train_set, seed=of.seed, size=of.gang,
        device=resolved.device, thread_count=max(1, cores // of.gang),
        micro_batch_tokens=context.micro_batch_tokens(of), offload=of.offload,
    )  # fmt: skip
