"""Short training runs of tiny models on a device, for comparison with the CPU and with each other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from one_adapter import open_pack
from torch import Tensor

from rankscope.model.load import LoadedModel, load_model
from rankscope.records import Example
from rankscope.study.study import Arm, Budget, ModelSpec, Optimizer
from rankscope.train.fit import FitSettings, fit
from rankscope.train.training_state import FitResult

FULL = Arm(label="full", method="full", learning_rate=1e-3)


class NotKept:
    """Checkpoints of runs that are not resumed."""

    def load(self) -> tuple[dict[str, Tensor], dict[str, str]] | None:
        return None

    def save(self, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
        """Nothing is kept."""


def lora(rank: int, rate: float = 3e-3) -> Arm:
    return Arm(label=f"r{rank}", method="lora", rank=rank, alpha=2 * rank, targets="all-linear", learning_rate=rate)


def rows(count: int = 48, seed: int = 0, longest: int = 60) -> list[Example]:
    """Rows of random tokens; the completion repeats the prompt's first tokens, so that there is something to learn."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for i in range(count):
        length = int(torch.randint(4, longest, (1,), generator=generator))
        prompt = tuple(torch.randint(5, 200, (length,), generator=generator).tolist())
        found.append(Example(item_id=str(i), prompt_ids=prompt, completion_ids=prompt[: 2 + i % 6]))
    return found


def settings(rate: float, **changes: Any) -> FitSettings:
    given = {
        "learning_rate": rate, "seed": 3, "budget": Budget(epochs=3, batch_size=8, max_sequence_tokens=96),
        "optimizer": Optimizer(weight_decay=0.01), "micro_batch_tokens": 10_000, "checkpoint_seconds": 1e9, **changes,
    }  # fmt: skip
    return FitSettings(**given)


def loaded_on(folder: Path, device: str, dtype: Any = "float32", **spec: Any) -> LoadedModel:
    return load_model(ModelSpec(id=str(folder), **spec), folder, dtype, device)


def trained(base: LoadedModel, arms: Sequence[Arm], **changes: Any) -> list[FitResult]:
    given = [settings(float(arm.learning_rate), **changes) for arm in arms]
    with open_pack(base, arms, 3) as pack:
        return fit(pack, rows(), given, checkpoints=NotKept())


def losses(result: FitResult) -> list[float]:
    return [record.loss_nats_per_token for record in result.steps]
