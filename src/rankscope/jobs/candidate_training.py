"""Training the candidates of a rate search up to a step, here or in a gang, and their validation losses."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rankscope.edges.freed_memory import give_back_freed_memory
from rankscope.edges.study_folder import StudyFolder
from rankscope.jobs.gang_work import hand_to_gang
from rankscope.jobs.job_context import JobContext
from rankscope.model.methods.attach import NewAdapter, attach
from rankscope.records import GangCandidate, PlannedSearch
from rankscope.study.study import Arm
from rankscope.train.fit import fit
from rankscope.train.training_state import Checkpoints, OneFileEach

Candidate = tuple[Arm, float]
"""An arm and a rate."""


class Stopped(Exception):
    """A signal asked for a stop in the middle of a search; its files hold what was done."""


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
    give_back_freed_memory()  # of the candidate before, whose blocks would lie unused between this one's
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
    named = [
        GangCandidate(
            arm=arm, learning_rate=rate, checkpoint=checkpoint_name(context.folder, search.search_id, arm, rate)
        )
        for arm, rate in candidates
    ]
    outcome = hand_to_gang(
        context, search.training, context.micro_batch_tokens(search), work="search", search_id=search.search_id,
        candidates=named, until_step=until_step, save_to=None if save_to is None else str(save_to),
    )  # fmt: skip
    return outcome.losses, outcome.seconds
