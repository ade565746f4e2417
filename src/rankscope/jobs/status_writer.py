"""A run's progress in its folder while it trains: status.json, and the curves of train.jsonl."""

from __future__ import annotations

import time

from rankscope.jobs.job_context import JobContext
from rankscope.records import RunStatus
from rankscope.train.training_state import FitResult

_STATUS_SECONDS = 1.0
_STEPS_SECONDS = 5.0
_STEPS_SHARE = 0.005
"""Of a run's time at most, for its steps so far: the file is written whole, and the longer the run, the larger."""


class StatusWriter:
    """Writes a run's status about once a second, and its steps so far every few."""

    def __init__(self, context: JobContext, status: RunStatus) -> None:
        self._context, self._status, self._last = context, status, 0.0
        self._next_steps = time.monotonic() + _STATUS_SECONDS

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
        if self._last >= self._next_steps:
            # After the status: whoever's attempt is not the last one has found out by now.
            self._context.folder.write_steps(self._status.run_id, result.steps, whole=False)
            now = time.monotonic()
            self._next_steps = now + max(_STEPS_SECONDS, (now - self._last) / _STEPS_SHARE)
