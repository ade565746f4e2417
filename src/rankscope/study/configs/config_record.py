"""What the config of any fine-tuning tool says, in the same words: what a reader of configs gives to the one writer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from rankscope.study.study_settings import Schedule

ALPACA = (
    "{% if context %}Below is an instruction that describes a task, paired with an input that provides further context."
    " Write a response that appropriately completes the request.\n\n### Instruction:\n{{ question }}\n\n"
    "### Input:\n{{ context }}\n\n### Response:\n"
    "{% else %}Below is an instruction that describes a task. Write a response that appropriately completes the "
    "request.\n\n### Instruction:\n{{ question }}\n\n### Response:\n{% endif %}"
)
"""Alpaca's prompt (github.com/tatsu-lab/stanford_alpaca), with our names of its fields."""
ALPACA_COLUMNS = {"question": "instruction", "context": "input", "answer": "output"}


@dataclass(frozen=True)
class DataSet:
    """Rows that a config trains on, or validates on. `where`: a file, a folder, or an id of the hub, as it stands in
    the config; `place`: the key that it stands at. `judged_by_loss` is None where only the rows can tell."""

    where: str
    place: str
    name: str | None = None
    config: str | None = None
    split: str | None = None
    revision: str | None = None
    columns: dict[str, str] | None = None
    template: str | None = None
    limit: int | None = None
    judged_by_loss: bool | None = True


@dataclass(frozen=True)
class BaseModel:
    """The base model. `quantization`: nf4 where the base is held in 4 bits; `chat_template`: a template's text."""

    id: str | None = None
    revision: str | None = None
    dtype: str | None = None
    trust_remote_code: bool = False
    quantization: Literal["nf4"] | None = None
    chat: Literal["auto", "never"] = "auto"
    chat_template: str | None = None
    system_prompt: str | None = None


@dataclass(frozen=True)
class Adapter:
    """What is trained. `method`: a method of ours; `targets` None: every linear layer; `layers`: of last-k-layers."""

    method: str = "lora"
    rank: int | None = None
    alpha: float | None = None
    dropout: float = 0.0
    targets: tuple[str, ...] | None = None
    layers: int | None = None


@dataclass(frozen=True)
class TrainingConfig:
    """One config. None: it does not say. `batch_size`: rows of one optimizer step of one device, accumulated ones too.
    `max_steps` counts over all epochs, `max_steps_per_epoch` cuts each of them where it is longer.
    `not_carried`: one line for each thing that a study cannot say, or says in another way."""

    tool: str
    model: BaseModel = BaseModel()
    adapter: Adapter = Adapter()
    train: tuple[DataSet, ...] = ()
    test: tuple[DataSet, ...] = ()
    keep: tuple[DataSet, ...] = ()
    sequence_tokens: int | None = None
    batch_size: int | None = None
    epochs: float | None = None
    max_steps: int | None = None
    max_steps_per_epoch: int | None = None
    validation_share: float | None = None
    validation_rows: int | None = None
    learning_rate: float | None = None
    schedule: Schedule | None = None
    warmup_fraction: float | None = None
    warmup_steps: int | None = None
    weight_decay: float | None = None
    clip_norm: float | None = None
    seed: int | None = None
    gradient_checkpointing: bool | None = None
    not_carried: list[str] = field(default_factory=list)
    no_data: str | None = None
    """Why there is no training set, where there is none."""
