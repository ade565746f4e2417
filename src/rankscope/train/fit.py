"""The one training loop, for every arm."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

import psutil
import torch
from torch import Tensor

from rankscope.config.study import Budget, Optimizer
from rankscope.data.batch import collate, order, split_micro
from rankscope.model.adapt import Adapted
from rankscope.model.ragged import TokenPath
from rankscope.records import Example, StepRecord
from rankscope.train.accumulate import Accumulator, summed_loss
from rankscope.train.optimize import Trainee

DIVERGED_FACTOR = 1.1
"""A run diverged if the last tenth of its steps has a mean loss above this times the first step's, the base's own."""

_MEMORY_EVERY_STEPS = 8


class Checkpoints(Protocol):
    """Where a run's state is kept between processes. Saving replaces what was there, whole or not at all."""

    def load(self) -> tuple[dict[str, Tensor], dict[str, str]] | None: ...

    def save(self, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None: ...


@dataclass(frozen=True)
class FitSettings:
    learning_rate: float
    seed: int
    budget: Budget
    optimizer: Optimizer
    micro_batch_tokens: int
    checkpoint_seconds: float


@dataclass
class FitResult:
    """`paused`: the step asked for was reached, or a signal came; the checkpoint holds what a later call needs."""

    state: Literal["done", "diverged", "paused"]
    reason: str | None = None
    step_count: int = 0
    steps: list[StepRecord] = field(default_factory=list)
    train_seconds: float = 0.0
    peak_memory_bytes: int = 0
    micro_batch_tokens: int = 0
    """Those of the settings, or fewer where the device ran out of memory."""

    @property
    def final_train_loss(self) -> float | None:
        """Mean over the last tenth of the steps done, in nats per token; None where there was no step."""
        tail = self.steps[-max(1, len(self.steps) // 10) :]
        return sum(s.loss_nats_per_token for s in tail) / len(tail) if tail else None


def fit(
    adapted: Adapted,
    examples: Sequence[Example],
    settings: FitSettings,
    *,
    checkpoints: Checkpoints,
    on_step: Callable[[FitResult], None] = lambda _: None,
    should_stop: Callable[[], bool] = lambda: False,
    until_step: int | None = None,
) -> FitResult:
    """Train `adapted` in place on batches that depend on nothing but the rows, the budget and the seed.

    Continues from `checkpoints` where they hold a state, bit for bit on the same machine. Saves one every
    `checkpoint_seconds`, when `should_stop` turns true (a signal), and at `until_step` (a rung of a rate search).
    """
    batches = order(len(examples), settings.budget.batch_size, settings.budget.epochs, settings.seed)
    trainee = Trainee(adapted.parameters, settings.learning_rate, settings.optimizer, len(batches))
    result = _restore(trainee, checkpoints, len(batches), settings)
    last = len(batches) if until_step is None else min(until_step, len(batches))
    path = adapted.token_path()
    work = Accumulator(adapted, path, trainee, result.micro_batch_tokens)
    clock = _Clock(result.train_seconds, settings.checkpoint_seconds)
    with _training(adapted, path, checkpointing=settings.budget.gradient_checkpointing):
        for step in range(len(result.steps), last):
            seed = settings.seed * 1_000_003 + step  # of dropout: the same after a resume
            loss, tokens = work.gradients([examples[i] for i in batches[step]], seed)
            norm = trainee.step(step)
            record = StepRecord(
                step=step, loss_nats_per_token=loss, learning_rate=trainee.rate_at(step), gradient_norm=norm,
                completion_tokens=tokens,
            )  # fmt: skip
            result = replace(_advance(result, record, clock), micro_batch_tokens=work.token_budget)
            on_step(result)
            if result.state == "diverged":
                return result
            if clock.checkpoint_due() or should_stop():
                _save(result, trainee, checkpoints)
                if should_stop():
                    return replace(result, state="paused", reason="stopped by a signal")
    if until_step is not None:
        _save(result, trainee, checkpoints)
    return replace(result, state="paused") if last < len(batches) else _judge(result)


def validation_loss(adapted: Adapted, examples: Sequence[Example], token_budget: int) -> float:
    """Mean loss over the completion tokens of `examples`, in nats per token."""
    path = adapted.token_path()
    total, count = 0.0, 0
    with torch.no_grad(), path.ready():
        for micro in split_micro(list(range(len(examples))), [e.token_count for e in examples], token_budget):
            batch = collate([examples[i] for i in micro], device=adapted.model.device)
            total += summed_loss(adapted, path, batch).item()
            count += len(batch.target_ids)
    return total / count


class _Clock:
    """Training seconds, counted over resumes, and the time of the next checkpoint."""

    def __init__(self, seconds_before: float, checkpoint_seconds: float) -> None:
        self._start = time.perf_counter() - seconds_before
        self._every = checkpoint_seconds
        self._next = time.perf_counter() + checkpoint_seconds

    def seconds(self) -> float:
        return time.perf_counter() - self._start

    def checkpoint_due(self) -> bool:
        if time.perf_counter() < self._next:
            return False
        self._next = time.perf_counter() + self._every
        return True


@contextmanager
def _training(adapted: Adapted, path: TokenPath, *, checkpointing: bool) -> Iterator[None]:
    """Train mode, the ragged attention and a random state of our own; all put back afterwards.

    `checkpointing`: blocks keep their input only and are computed again in the backward pass (arXiv 1604.06174).
    """
    with torch.random.fork_rng(), path.ready():
        adapted.model.train()
        if checkpointing:
            adapted.model.activation_checkpointing_enable({"use_reentrant": False})
        try:
            yield
        finally:
            adapted.model.eval()
            if checkpointing:
                adapted.model.activation_checkpointing_disable()


def _advance(result: FitResult, record: StepRecord, clock: _Clock) -> FitResult:
    finite = math.isfinite(record.loss_nats_per_token) and math.isfinite(record.gradient_norm)
    peak = result.peak_memory_bytes
    if record.step % _MEMORY_EVERY_STEPS == 0:
        peak = max(peak, memory_in_use_bytes())
    if finite:
        result.steps.append(record)
        return replace(result, train_seconds=clock.seconds(), peak_memory_bytes=peak)
    reason = f"the loss or its gradient was not finite at step {record.step + 1} of {result.step_count}"
    return replace(result, state="diverged", reason=reason, train_seconds=clock.seconds(), peak_memory_bytes=peak)


def _judge(result: FitResult) -> FitResult:
    """Done, or diverged: worse on its own training rows at the end than before the first update."""
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


def _save(result: FitResult, trainee: Trainee, checkpoints: Checkpoints) -> None:
    metadata = {
        "steps": json.dumps([record.model_dump() for record in result.steps]),
        "train_seconds": repr(result.train_seconds),
        "peak_memory_bytes": str(result.peak_memory_bytes),
        "micro_batch_tokens": str(result.micro_batch_tokens),
    }
    checkpoints.save(trainee.state_tensors(), metadata)


def _restore(trainee: Trainee, checkpoints: Checkpoints, step_count: int, settings: FitSettings) -> FitResult:
    saved = checkpoints.load()
    if saved is None:
        return FitResult(state="paused", step_count=step_count, micro_batch_tokens=settings.micro_batch_tokens)
    tensors, metadata = saved
    trainee.load_state_tensors(tensors)
    return FitResult(
        state="paused",
        step_count=step_count,
        steps=[StepRecord.model_validate(record) for record in json.loads(metadata["steps"])],
        train_seconds=float(metadata["train_seconds"]),
        peak_memory_bytes=int(metadata["peak_memory_bytes"]),
        micro_batch_tokens=int(metadata.get("micro_batch_tokens", settings.micro_batch_tokens)),
    )
