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
from rankscope.model.sharding.shard import compute_device
from rankscope.model.sharding.team import SOLO, MicroBatch, Team
from rankscope.records import Example, StepRecord
from rankscope.study.study import SUPERVISED, Budget, Optimizer
from rankscope.train.objective import OBJECTIVES, Objective
from rankscope.train.optimizer import Trainee
from rankscope.train.training_state import Checkpoints, FitResult, restore, save

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

    `rows` are the objective's, `settings` those of each arm; but for the rate they are alike. Batches depend on nothing
    but the rows, the budget and the seed. An arm that diverges leaves the pack; the others go on. Continues from
    `checkpoints` where they hold a state, bit for bit on the same machine. Saves one every `checkpoint_seconds`, when
    `should_stop` turns true (a signal), and at `until_step` (a rung of a rate search). `on_step` gets an arm's place in
    the pack and its result so far. Raises torch.OutOfMemoryError where the device does not hold one row.

    The processes of a `team` call this alike and share out each batch; all results are the same in each. There
    OutOfMemoryError is raised in one process at once, whose team cannot go on.
    """
    common = settings[0]
    batches = order(len(rows), common.budget.batch_size, common.budget.epochs, common.seed)
    trainees = [
        Trainee(member.parameters, own.learning_rate, own.optimizer, len(batches))
        for member, own in zip(pack.members, settings, strict=True)
    ]
    results = restore(trainees, checkpoints, len(batches), common.micro_batch_tokens)
    last = len(batches) if until_step is None else min(until_step, len(batches))
    forward = pack.training_forward()
    work = Accumulator(pack, forward, common.objective, trainees, _tokens(results, common, team), team)
    clock = _Clock(common.checkpoint_seconds)
    with _training(pack.model, forward, checkpointing=common.budget.gradient_checkpointing):
        for step in range(max(len(result.steps) for result in results), last):
            alive = [i for i, result in enumerate(results) if result.state != "diverged"]
            if not alive:
                return results
            # Of dropout: the same after a resume, and another in each process of a team.
            seed = common.seed * 1_000_003 + step + team.rank * 7_368_787
            losses, tokens = work.gradients([rows[i] for i in batches[step]], alive, seed)
            norms = [trainees[arm].step(step) for arm in alive]
            seconds = clock.lap() / len(alive)
            for arm, loss, norm in zip(alive, losses, norms, strict=True):
                record = StepRecord(
                    step=step, loss_nats_per_token=loss, learning_rate=trainees[arm].rate_at(step), gradient_norm=norm,
                    completion_tokens=tokens,
                )  # fmt: skip
                results[arm] = _advance(results[arm], record, seconds, work.token_budget)
                on_step(arm, results[arm])
            due, stopping = team.any(clock.checkpoint_due(), should_stop())
            if due or stopping:
                clock.checkpoint_begins()
                save(results, trainees, checkpoints)
            if stopping:
                return [_paused(result, "stopped by a signal") for result in results]
    if until_step is not None:
        save(results, trainees, checkpoints)
    return [_paused(result) if last < len(batches) else _judge(result) for result in results]


def _tokens(results: Sequence[FitResult], common: FitSettings, team: Team) -> int:
    """Those that the device was found to hold; a team that ran out of memory is started again with fewer."""
    found = results[0].micro_batch_tokens
    return found if team.size == 1 else min(found, common.micro_batch_tokens)


class Accumulator:
    """A batch's gradients, in micro-batches of at most `token_budget` tokens of all arms together, but at least a row.

    Where the device's memory does not hold a micro-batch, the budget is halved for good and the batch is begun again:
    micro-batches change nothing but rounding, and a run that was planned too large still ends.
    """

    def __init__(
        self,
        pack: Pack,
        forward: TrainingForward,
        objective: Objective,
        trainees: Sequence[Trainee],
        token_budget: int,
        team: Team = SOLO,
    ) -> None:
        self.token_budget = token_budget
        self._team = team
        self._pack, self._forward, self._objective, self._trainees = pack, forward, objective, trainees

    def gradients(self, rows: Sequence[Example], arms: Sequence[int], seed: int) -> tuple[list[float], int]:
        """Leaves the gradients of each arm's mean loss; returns these losses, and the weight they are the mean over.

        `seed` is that of dropout. Raises torch.OutOfMemoryError where one row alone is too large, and in a team at
        once: the other processes wait for this one's part, so they can only be ended.
        """
        while True:
            torch.manual_seed(seed)
            try:
                with self._pack.running(arms):
                    return self._accumulate(rows, arms)
            except torch.OutOfMemoryError:
                if self._team.size > 1 or not self._halve_budget(rows, len(arms)):
                    raise
            # Outside the handler, whose traceback would keep the failed step's tensors alive.
            for arm in arms:
                self._trainees[arm].drop_gradients()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def _accumulate(self, rows: Sequence[Example], arms: Sequence[int]) -> tuple[list[float], int]:
        weight = sum(map(self._objective.row_weight, rows))
        total = torch.zeros(len(arms), dtype=torch.float64, device=compute_device(self._pack.model))  # (N,)
        for micro_batch in self._micro_batches(rows, len(arms)):
            part = [rows[i] for i in micro_batch.rows]
            losses = self._objective.summed_losses(self._forward, part, len(arms)) / weight
            if micro_batch.filler:
                losses = losses * 0.0
            losses.sum().backward()
            for arm in arms:
                self._trainees[arm].take_gradients()
            total += losses.detach()
        self._team.sum_in_place([held for arm in arms for held in self._trainees[arm].whole_gradients()])
        return self._team.sum(total).tolist(), weight

    def _halve_budget(self, rows: Sequence[Example], arms: int) -> bool:
        """Halve the budget until this batch has more micro-batches; False where each is a single row already."""
        count = len(self._micro_batches(rows, arms))
        if count == len(rows):
            return False
        while len(self._micro_batches(rows, arms)) == count:
            self.token_budget = max(1, self.token_budget // 2)
        return True

    def _micro_batches(self, rows: Sequence[Example], arms: int) -> list[MicroBatch]:
        tokens = [self._objective.row_tokens(row) * arms for row in rows]
        return self._team.share(tokens, self.token_budget)


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

    `checkpointing`: blocks keep their input only and are computed again in the backward pass (arXiv 1604.06174).
    """
    with torch.random.fork_rng(), forward.ready():
        model.train()
        if checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": False})
        try:
            yield
        finally:
            model.eval()
            if checkpointing:
                model.activation_checkpointing_disable()


def _advance(result: FitResult, record: StepRecord, seconds: float, micro_batch_tokens: int) -> FitResult:
    """`seconds` is this arm's share of the step."""
    finite = math.isfinite(record.loss_nats_per_token) and math.isfinite(record.gradient_norm)
    peak = result.peak_memory_bytes
    if record.step % _MEMORY_EVERY_STEPS == 0:
        peak = max(peak, memory_in_use_bytes())
    after = replace(
        result, train_seconds=result.train_seconds + seconds, peak_memory_bytes=peak,
        micro_batch_tokens=micro_batch_tokens,
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
