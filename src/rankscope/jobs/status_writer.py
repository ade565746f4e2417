"""A run's progress in its status.json while it trains."""

from __future__ import annotations

import time

from rankscope.jobs.job_context import JobContext
from rankscope.records import RunStatus
from rankscope.train.training_state import FitResult

_STATUS_SECONDS = 1.0


class StatusWriter:
    """Writes a run's progress into its status.json about once a second."""

    def __init__(self, context: JobContext, status: RunStatus) -> None:
        self._context, self._status, self._last = context, status, 0.0

    def __call__(self, result: FitResult) -> None:
        if time.monotonic() - self._last < _STATUS_SECONDS:
            return
        self._last = time.monotonic()
        update: dict[str, object] = {
            "steps_done": len(result.steps),
            "train_seconds": result.train_seconds,
            "peak_memory_bytes": result.peak_memory_bytes,
        }
        if result.steps:
            update["final_train_loss"] = result.steps[-1].loss_nats_per_token
        self._context.write_status(self._status.model_copy(update=update))
