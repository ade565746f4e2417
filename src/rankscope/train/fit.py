"""The one training loop, for every arm: N arms in lockstep, whose objective and optimizer are values.

Shapes: N arms of a pack, T tokens of a micro-batch.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import psutil
import torch
from transformers import PreTrainedModel

from rankscope.data.training_batches import order
from rankscope.model.attention.unpadded_rows import TrainingForward
from rankscope.model.methods.attach import Pack
from rankscope.model.sharding.team import SOLO, Team
from rankscope.records import Example, StepRecord
from rankscope.study.study import SUPERVISED, Budget, Optimizer
from rankscope.train.accumulate import Accumulator, StepRows, checkpoint_blocks
from rankscope.train.objective import OBJECTIVES, Objective
from rankscope.train.optimizer import Trainee
from rankscope.train.remedies import NONE, Remedies, replay_order
from rankscope.train.training_state import Checkpoints, FitResult, restore, save
from rankscope.train.validation_curve import NO_CURVE, ValidationCurve

DIVERGED_FACTOR = 1.1
"""A run diverged if the last tenth of its steps has a mean loss above this times the first step's, the base's own."""

_MEMORY_EVERY_STEPS = 8


@dataclass(frozen=True)
class FitSettings:
    """How an arm is trained: peak learning rate, seed of the order and of dropout, the study's settings, and what a
    micro-batch holds at most, over all arms of a pack."""

    learning_rate: float
    seed: int
    budget: Budget
    optimizer: Optimizer
    micro_batch_tokens: int
    checkpoint_seconds: float
    objective: Objective = OBJECTIVES[SUPERVISED.name]
    remedies: Remedies = NONE
    checkpointing: bool = False
    """Whether blocks keep their input only and are computed again in the backward pass (arXiv 1604.06174); of a pack
    where one arm's says so."""
    may_checkpoint: bool = False
    """Whether that may be turned to where memory runs out."""
    curve: ValidationCurve = NO_CURVE
    """What is looked at while it trains; it changes nothing."""


def fit(
    pack: Pack,
    rows: Sequence[Example],
    settings: Sequence[FitSettings],
    *,
    checkpoints: Checkpoints,
    on_step: Callable[[int, FitResult], None] = lambda _, __: None,
    should_stop: Callable[[], bool] = lambda: False,
    until_step: int | None = None,
    team: Team = SOLO,
) -> list[FitResult]:
    """Train the pack's arms in place, step by step together, each with its own rate, schedule, clipping and loss.

    `rows` are the objective's, `settings` those of each arm; but for the rate and the penalty they are alike. Batches
    depend on nothing but the rows, the budget and the seed; replayed rows come on top of them. An arm that diverges
    leaves the pack; the others go on. Continues from `checkpoints` where they hold a state, bit for bit on the same
    machine. Saves one every `checkpoint_seconds`, when `should_stop` turns true (a signal), and at `until_step` (a rung
    of a search). `on_step` gets an arm's place in the pack and its result so far. Raises torch.OutOfMemoryError where
    the device does not hold one row.

    The processes of a `team` call this alike and share out each batch; all results are the same in each. There
    OutOfMemoryError is raised in one process at once, whose team cannot go on.
    """
    common = settings[0]
    batches = order(len(rows), common.budget.batch_size, common.budget.epochs, common.seed)
    trainees = [
        Trainee(member.parameters, own.learning_rate, own.optimizer, len(batches), own.remedies.l2_weight)
        for member, own in zip(pack.members, settings, strict=True)
    ]
    results = restore(trainees, checkpoints, len(batches), common.micro_batch_tokens)
    first = max(len(result.steps) for result in results)
    last = len(batches) if until_step is None else min(until_step, len(batches))
    forward, remedies = pack.training_forward(), [own.remedies for own in settings]
    work = Accumulator(pack, forward, common.objective, remedies, trainees, _tokens(results, common, team), team)
    work.may_checkpoint = all(own.may_checkpoint for own in settings)
    replayed = _replayed_rows(batches, rows, common)
    clock = _Clock(common.checkpoint_seconds)
    with _training(pack.model, forward, checkpointing=_twice(settings, results)):
        for step in range(first, last):
            if not (alive := [i for i, result in enumerate(results) if result.state != "diverged"]):
                return results
            now = StepRows([rows[i] for i in batches[step]], replayed[step])
            found = work.gradients(now, alive, _dropout_seed(common.seed, step, team))
            norms = [trainees[arm].step(step) for arm in alive]
            seconds = clock.lap() / len(alive)
            held_out = work.validation_losses(common.curve.at(step, len(batches)), alive)
            clock.lap()  # no part of what training costs
            for place, (arm, norm) in enumerate(zip(alive, norms, strict=True)):
                record = found.record(place, step, trainees[arm].rate_at(step), norm, held_out[place])
                results[arm] = _advance(results[arm], record, seconds, work)
                on_step(arm, results[arm])
            due, stopping = team.any(clock.checkpoint_due(), should_stop())
            if due or stopping:
                clock.checkpoint_begins()
                save(results, trainees, checkpoints)
            if stopping:
                return [_paused(result, "stopped by a signal") for result in results]
    if until_step is not None and first < last:
        save(results, trainees, checkpoints)
    return [_paused(result) if last < len(batches) else _judge(result) for result in results]


def _dropout_seed(seed: int, step: int, team: Team) -> int:
    """The same after a resume, and another in each process of a team."""
    return seed * 1_000_003 + step + team.rank * 7_368_787


def _twice(settings: Sequence[FitSettings], results: Sequence[FitResult]) -> bool:
    """Whether activations are computed again: where an arm's settings say so, or where memory ran out before."""
    asked = any(own.checkpointing or own.budget.gradient_checkpointing is True for own in settings)
    return asked or any(result.checkpointing for result in results)


def _tokens(results: Sequence[FitResult], common: FitSettings, team: Team) -> int:
    """Those that the device was found to hold; a team that ran out of memory is started again with fewer."""
    found = results[0].micro_batch_tokens
    return found if team.size == 1 else min(found, common.micro_batch_tokens)


def _replayed_rows(
    batches: Sequence[Sequence[int]], rows: Sequence[Example], settings: FitSettings
) -> list[list[Example]]:
    """Those of every step; none where nothing is replayed."""
    remedies, tokens_of = settings.remedies, settings.objective.row_tokens
    if not remedies.replayed:
        return [[] for _ in batches]
    task_tokens = [sum(tokens_of(rows[i]) for i in batch) for batch in batches]
    replay_tokens = [tokens_of(row) for row in remedies.replayed]
    steps = replay_order(task_tokens, replay_tokens, remedies.share, settings.seed)
    return [[remedies.replayed[i] for i in step] for step in steps]


class _Clock:
    """Seconds from step to step, and the time of the next checkpoint."""

    def __init__(self, checkpoint_seconds: float) -> None:
        self._last = time.perf_counter()
        self._every = checkpoint_seconds
        self._next = self._last + checkpoint_seconds

    def lap(self) -> float:
        before, self._last = self._last, time.perf_counter()
        return self._last - before

    def checkpoint_due(self) -> bool:
        return time.perf_counter() >= self._next

    def checkpoint_begins(self) -> None:
        self._next = time.perf_counter() + self._every


@contextmanager
def _training(model: PreTrainedModel, forward: TrainingForward, *, checkpointing: bool) -> Iterator[None]:
    """Train mode, the attention of training rows and a random state of our own; all put back afterwards.

    `checkpointing`: blocks keep their input only and are computed again in the backward pass; it may be turned on
    inside.
    """
    with torch.random.fork_rng(), forward.ready():
        model.train()
        if checkpointing:
            checkpoint_blocks(model)
        try:
            yield
        finally:
            model.eval()
            if model.is_activation_checkpointing:
                model.activation_checkpointing_disable()


def _advance(result: FitResult, record: StepRecord, seconds: float, work: Accumulator) -> FitResult:
    """`seconds` is this arm's share of the step."""
    finite = math.isfinite(record.loss_nats_per_token) and math.isfinite(record.gradient_norm)
    peak = result.peak_memory_bytes
    if record.step % _MEMORY_EVERY_STEPS == 0:
        peak = max(peak, memory_in_use_bytes())
    after = replace(
        result, train_seconds=result.train_seconds + seconds, peak_memory_bytes=peak,
        micro_batch_tokens=work.token_budget, checkpointing=work.checkpointing,
    )  # fmt: skip
    if finite:
        after.steps.append(record)
        return after
    reason = f"the loss or its gradient was not finite at step {record.step + 1} of {result.step_count}"
    return replace(after, state="diverged", reason=reason)


def _paused(result: FitResult, reason: str | None = None) -> FitResult:
    return result if result.state == "diverged" else replace(result, state="paused", reason=reason)


def _judge(result: FitResult) -> FitResult:
    """Done, or diverged: worse on its own training rows at the end than before the first update."""
    if result.state == "diverged":
        return result
    first, final = result.steps[0].loss_nats_per_token, result.final_train_loss
    if final is not None and final > DIVERGED_FACTOR * first and result.step_count >= 10:
        reason = f"the training loss rose from {first:.3f} to {final:.3f} nats per token"
        return replace(result, state="diverged", reason=reason)
    return replace(result, state="done")


def memory_in_use_bytes() -> int:
    """Peak device memory where there is a GPU, else the resident memory of this process now."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    return int(psutil.Process().memory_info().rss)
