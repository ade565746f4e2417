"""How far a pack of arms has come, and how that is kept between processes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol

from torch import Tensor

from rankscope.records import StepRecord
from rankscope.train.optimizer import Trainee


class Checkpoints(Protocol):
    """Where a pack's state is kept between processes. Saving replaces what was there, whole or not at all."""

    def load(self) -> tuple[dict[str, Tensor], dict[str, str]] | None:
        """(tensors, metadata) as they were saved last; None where nothing is kept."""
        ...

    def save(self, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
        """Keeps these in the place of what was kept."""
        ...


@dataclass
class FitResult:
    """How far one arm has come: its state, its steps, and what they took.

    `paused`: the step asked for was reached, or a signal came; the checkpoint holds what a later call needs. `diverged`
    has a `reason`.
    """

    state: Literal["done", "diverged", "paused"]
    reason: str | None = None
    step_count: int = 0
    steps: list[StepRecord] = field(default_factory=list)
    train_seconds: float = 0.0
    """Of arms that train packed, each step's time is shared out among them."""
    peak_memory_bytes: int = 0
    micro_batch_tokens: int = 0
    """Those of the settings, or fewer where the device ran out of memory."""
    checkpointing: bool = False
    """Whether activations are computed again in the backward pass: by the settings, or since memory ran out."""

    @property
    def final_train_loss(self) -> float | None:
        """Mean over the last tenth of the steps done, in nats per token; None where there was no step."""
        tail = self.steps[-max(1, len(self.steps) // 10) :]
        return sum(s.loss_nats_per_token for s in tail) / len(tail) if tail else None


def save(results: Sequence[FitResult], trainees: Sequence[Trainee], checkpoints: Checkpoints) -> None:
    """Keeps weights, moments and results of all arms, `ARM/KIND/NAME`, in one file: none is ever a step ahead.

    Of an arm that diverged only the result is kept.
    """
    tensors = {
        f"{i}/{key}": value
        for i, (result, trainee) in enumerate(zip(results, trainees, strict=True))
        if result.state != "diverged"
        for key, value in trainee.state_tensors().items()
    }
    arms = [asdict(result) | {"steps": [record.model_dump() for record in result.steps]} for result in results]
    checkpoints.save(tensors, {"arms": json.dumps(arms)})


def restore(
    trainees: Sequence[Trainee], checkpoints: Checkpoints, step_count: int, micro_batch_tokens: int
) -> list[FitResult]:
    """Where the arms were, with their weights and moments put back; at the start where nothing is kept.

    Raises KeyError where a weight is missing in what is kept.
    """
    saved = checkpoints.load()
    if saved is None:
        return [
            FitResult(state="paused", step_count=step_count, micro_batch_tokens=micro_batch_tokens) for _ in trainees
        ]
    tensors, metadata = saved
    results = [_result(kept) for kept in json.loads(metadata["arms"])]
    for i, (trainee, result) in enumerate(zip(trainees, results, strict=True)):
        if result.state != "diverged":
            own = {key.removeprefix(f"{i}/"): value for key, value in tensors.items() if key.startswith(f"{i}/")}
            trainee.load_state_tensors(own)
    return results


class OneFileEach:
    """Arms that train together now and may not do so later: each arm's state in a place of its own, as if alone."""

    def __init__(self, places: Sequence[Checkpoints]) -> None:
        self._places = places

    def load(self) -> tuple[dict[str, Tensor], dict[str, str]] | None:
        """The arms' states joined, as one pack would have saved them; None where one is missing."""
        tensors: dict[str, Tensor] = {}
        arms = []
        for i, place in enumerate(self._places):
            saved = place.load()
            if saved is None:
                return None
            tensors |= {f"{i}/{key.partition('/')[2]}": value for key, value in saved[0].items()}
            arms += json.loads(saved[1]["arms"])
        return tensors, {"arms": json.dumps(arms)}

    def save(self, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
        """Each arm's part of the pack's state to its own place."""
        for i, (place, arm) in enumerate(zip(self._places, json.loads(metadata["arms"]), strict=True)):
            own = {f"0/{key.partition('/')[2]}": value for key, value in tensors.items() if key.startswith(f"{i}/")}
            place.save(own, {"arms": json.dumps([arm])})


def steps_kept(place: Checkpoints) -> int:
    """Steps of a single arm's state; 0 where nothing is kept."""
    saved = place.load()
    return 0 if saved is None else len(json.loads(saved[1]["arms"])[0]["steps"])


def _result(kept: dict[str, Any]) -> FitResult:
    return FitResult(**kept | {"steps": [StepRecord.model_validate(record) for record in kept["steps"]]})
