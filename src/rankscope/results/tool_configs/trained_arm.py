"""One arm's training in plain values, as a writer of another tool's config needs it, and what no other tool can say."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rankscope.study.methods import Arm
from rankscope.study.study import ModelSpec, Study

LOW_RANK = ("lora", "rslora", "dora", "pissa")
TRAIN_ROWS, VALIDATION_ROWS = "train.jsonl", "validation.jsonl"
"""The rows that were trained and validated on, as tokens: `input_ids`, `attention_mask`, `labels` (-100: no loss) and
`completion_mask`."""
_LARGEST_MICRO_BATCH = 4
SCHEDULES = {"cosine": "cosine", "linear": "linear", "constant": "constant_with_warmup"}
"""Ours by the names that transformers has for them."""


@dataclass(frozen=True)
class TrainedArm:
    """The run of an arm that is exported: its settings as they were resolved.

    `base`: the model's id as others know it; `steps`, `warmup_steps`: of the optimizer; `dial`: the share of the change
    that the verdict judged; `device`: what the study ran on (cuda, cpu,
    mps).
    """

    study: Study
    model: ModelSpec
    base: str
    arm: Arm
    learning_rate: float
    dial: float
    seed: int
    dtype: str
    device: str
    steps: int
    warmup_steps: int
    checkpointing: bool

    @property
    def micro_batch(self) -> int:
        """Rows on the device at a time: the largest divisor of the batch that is at most 4."""
        batch = self.study.budget.batch_size
        return max(n for n in range(1, _LARGEST_MICRO_BATCH + 1) if batch % n == 0)

    @property
    def accumulation(self) -> int:
        """Micro-batches of a step."""
        return self.study.budget.batch_size // self.micro_batch

    @property
    def low_rank(self) -> bool:
        """Whether it is an adapter that adds B A times a scale."""
        return self.arm.method in LOW_RANK

    @property
    def alpha(self) -> float | int:
        """As trained; a whole number where it is one."""
        alpha = float(self.arm.alpha or 0)
        return int(alpha) if alpha == int(alpha) else alpha

    @property
    def target_names(self) -> list[str] | None:
        """The modules' names; None for every linear layer."""
        return None if self.arm.targets is None or isinstance(self.arm.targets, str) else list(self.arm.targets)


@dataclass(frozen=True)
class ToolWriter:
    """How an arm's training is written for one tool. `write`: the files' names with their texts; `rows`: what the rows
    that were trained on, and after them those that were validated on, are called, as far as the tool reads them;
    `rows_as_folder`: a saved data set, where it reads no lines of tokens; `methods`: what it can train."""

    name: str
    title: str
    methods: tuple[str, ...]
    write: Callable[[TrainedArm], Mapping[str, str]]
    rows: tuple[str, ...] = (TRAIN_ROWS, VALIDATION_ROWS)
    rows_as_folder: bool = False


def told(trained: TrainedArm, *, own: tuple[str, ...] = ()) -> list[str]:
    """Lines on what the tool does otherwise, or cannot say. `own`: further ones, of that tool."""
    lines = [
        f"seed {trained.seed}: the run of median validation loss; another order of rows and another start of A there"
    ]
    if trained.dial < 1:
        after = "lora_alpha" if trained.low_rank else "the change W - W0"
        lines.append(f"dial {trained.dial:g}: after training multiply {after} by {trained.dial:g}{_dialled(trained)}")
    if trained.arm.retain is not None:
        lines.append(f"not expressed: {trained.arm.retain}: a penalty on the distance to the base; train without it")
    if trained.arm.replay is not None:
        lines.append(f"not expressed: {trained.arm.replay}: add such rows to the training rows yourself")
    if (after_training := trained.arm.__pydantic_extra__ or {}).get("after"):
        lines.append(f"not expressed: after training: {after_training['after']}")
    if trained.warmup_steps:
        lines.append("the warm-up begins at a rate of 0 there; here its first step has a share of the peak")
    if trained.study.optimizer.name != "adamw":
        lines.append(f"optimizer {trained.study.optimizer.name} was used here")
    if trained.dtype == "bfloat16":
        lines.append("trained in bfloat16 with fp32 masters of the trained weights")
    return [*lines, *own]


def _dialled(trained: TrainedArm) -> str:
    if not trained.low_rank:
        return ""
    return f" in adapter_config.json: {trained.alpha * trained.dial:g} in place of {trained.alpha:g}"


def commented(lines: list[str]) -> str:
    """Lines of a YAML file's comment."""
    return "".join(f"# {line}\n" for line in lines)


def only_said(settings: dict[str, Any]) -> dict[str, Any]:
    """Without what is None."""
    return {key: value for key, value in settings.items() if value is not None}
