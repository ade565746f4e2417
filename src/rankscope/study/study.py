"""What may be asked: the typed form of a study file. Reading YAML and reporting problems is `read.py`'s work."""

from __future__ import annotations

import math
import re
from typing import Annotated, Literal

from pydantic import Field, model_validator

from rankscope.study.methods import Arm, ArmEntry, Fraction, Frozen

__all__ = [
    "AdaptiveSeeds", "Arm", "Budget", "Checkpoint", "ChoiceStyle", "Decision", "Fraction", "Frozen", "Keep", "Kind",
    "ModelSpec", "Name", "Optimizer", "Schedule", "Source", "Study", "SuiteSource", "TrackerName", "TrainSource",
    "Validation",
]  # fmt: skip

Kind = Literal["recall", "reasoning"]
ChoiceStyle = Literal["text", "letters"]
Chat = Literal["auto", "never"]
BadRows = Literal["refuse", "drop"]
Schedule = Literal["cosine", "linear", "constant"]
OptimizerName = Literal["adamw", "adamw_8bit"]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=64)]
TrackerName = Name


class ModelSpec(Frozen):
    """A base model: `bundled`, a folder, or a hub id. `dtype: auto` is bf16 where it is fast, else fp32.

    `quantization: nf4` holds the base's linear layers in 4 bits (QLoRA, arXiv 2305.14314); on CUDA, for adapters only.
    `chat: never` asks in plain text though the tokenizer has a chat template, as suits a base model.
    """

    id: str = Field(min_length=1)
    revision: str | None = None
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    token_env: str | None = None
    trust_remote_code: bool = False
    quantization: Literal["nf4"] | None = None
    chat: Chat = "auto"
    system_prompt: str | None = None

    @property
    def name(self) -> str:
        """The name used in tables and folders: the last part of the id."""
        return re.sub(r"[^A-Za-z0-9._-]+", "-", self.id.rstrip("/").split("/")[-1]) or "model"


class Source(Frozen):
    """Where rows come from (exactly one of `path`, `world`, `hub`) and how they become prompts.

    `columns` maps our field to the column that holds it; `choices` may be a list of columns, one for each choice.
    """

    path: str | None = None
    world: str | None = None
    world_seed: int = Field(default=0, ge=0)
    hub: str | None = None
    config: str | None = None
    split: str | None = None
    revision: str | None = None
    columns: dict[str, str | list[str]] | None = None
    bad_rows: BadRows = "refuse"
    domain: Name | None = None
    choices: ChoiceStyle = "text"
    template: str | None = None
    limit: int | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _one_origin(self) -> Source:
        given = [key for key in ("path", "world", "hub", "harness") if getattr(self, key, None) is not None]
        if len(given) != 1:
            raise ValueError(
                f"exactly one of path, world, hub, harness is needed, found {' and '.join(given) or 'none'}"
            )
        return self


class TrainSource(Source):
    """Rows to train on. `kind: reasoning` trains the rationale before the answer where a row has one."""

    kind: Kind | None = None


class SuiteSource(Source):
    """Items to score. Only plain text (nats per token, reported and not decided on) needs no `kind`.

    `harness` is a task of lm-eval, or a YAML file of one, in place of rows; `metric` says which of its metrics is an
    item's score (and after a comma which of its filters), the task's first where it is not given.
    """

    kind: Kind | None = None
    harness: str | None = Field(default=None, min_length=1)
    num_fewshot: int | None = Field(default=None, ge=0)
    metric: str | None = None
    max_new_tokens: int = Field(default=256, gt=0)


def is_task_file(harness: str) -> bool:
    """Whether a suite's `harness` is a YAML file of its own, not a task's name."""
    return harness.endswith((".yaml", ".yml"))


class Validation(Frozen):
    """Rows taken out of the training rows, never trained on; the rate search looks at nothing else."""

    fraction: Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)] = 0.1
    max_items: int = Field(default=500, gt=0)


class Budget(Frozen):
    """What every arm gets alike.

    `gradient_checkpointing` computes activations again in the backward pass instead of keeping them: less memory, about
    a third more time, the same numbers; so it is not part of a run's id.
    """

    epochs: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 3
    batch_size: int = Field(default=16, gt=0)
    max_sequence_tokens: int = Field(default=1024, gt=1)
    gradient_checkpointing: bool = False

    def rows_seen(self, row_count: int) -> list[int]:
        """Rows seen in each epoch of `row_count` rows: all of them, and of a last epoch that is a fraction that share,
        rounded up. A fraction that is whole but for floating-point error counts as whole."""
        whole, fraction = divmod(self.epochs, 1)
        rest = math.ceil(round(fraction * row_count, 6)) or (1 if whole == 0 else 0)
        return [row_count] * int(whole) + ([rest] if rest else [])


class Optimizer(Frozen):
    """AdamW (betas 0.9 and 0.999, eps 1e-8) with warm-up and decay by step.

    `name: adamw_8bit` keeps its moments in blocks of 8-bit numbers (arXiv 2110.02861); on CUDA only.
    """

    name: OptimizerName = "adamw"
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    warmup_fraction: Fraction = 0.03
    schedule: Schedule = "cosine"
    clip_norm: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0


class Decision(Frozen):
    """The margins of the verdict, fixed before any result; all are differences of accuracy (0.03 is three points)."""

    task_margin: Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)] = 0.03
    retention_margin: Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)] = 0.03
    min_gain: Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)] = 0.01
    confidence: Annotated[float, Field(ge=0.5, lt=1, allow_inf_nan=False)] = 0.95


class Checkpoint(Frozen):
    """A run is saved this often, and on SIGTERM."""

    minutes: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 10


class Keep(Frozen):
    """What stays of full checkpoints; adapters are always kept."""

    full: Literal["none", "best", "all"] = "none"


class Analysis(Frozen):
    """What is looked at inside of every run after it was scored, on `probe_items` items drawn from the suites.

    Off unless asked for: it takes a share of a study's time that small studies notice. `derived`: the largest adapter
    is truncated to the lower ranks, and its intruder dimensions are scaled by `intruder_factor`; both are scored like
    runs, of one seed, and are no candidates of the verdict.
    """

    enabled: bool = False
    probe_items: int = Field(default=64, gt=0)
    derived: bool = True
    intruder_factor: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.5


class Execution(Frozen):
    """How the work is cut, which changes results by rounding only, so it is not part of a run's id.

    `arms_together`: LoRA arms that train in one pack; `micro_batch_tokens`: of all of them together. `auto` measures a
    few steps on this machine when the study begins, and keeps what it found.
    """

    on: Name = "local"
    arms_together: Literal["auto"] | Annotated[int, Field(gt=0, le=64)] = "auto"
    micro_batch_tokens: Literal["auto"] | Annotated[int, Field(ge=16)] = "auto"


Seed = Annotated[int, Field(ge=0, lt=2**31)]


class AdaptiveSeeds(Frozen):
    """Seeds 0 to `start` - 1 for every arm, then more, up to `max`, for the arms that may still be the answer."""

    start: int = Field(ge=2)
    max: int = Field(le=64)

    @property
    def looks(self) -> tuple[int, ...]:
        """How many seeds each arm has when the verdict is asked: half as many again each time (3, 5, 8), then `max`."""
        counts = [self.start]
        while counts[-1] < self.max:
            counts.append(min(self.max, math.ceil(1.5 * counts[-1])))
        return tuple(counts)


class Study(Frozen):
    """One question, one YAML file, one folder of results."""

    name: Name
    models: tuple[ModelSpec, ...] = Field(min_length=1, alias="model")
    train: dict[Name, TrainSource] = Field(min_length=1)
    suites: dict[Name, SuiteSource] = Field(min_length=1)
    arms: dict[Name, ArmEntry] = Field(min_length=1)
    validation: Validation = Validation()
    budget: Budget = Budget()
    optimizer: Optimizer = Optimizer()
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] | AdaptiveSeeds
    decision: Decision = Decision()
    checkpoint: Checkpoint = Checkpoint()
    keep: Keep = Keep()
    analysis: Analysis = Analysis()
    track: tuple[TrackerName, ...] = ()
    execution: Execution = Execution()

    @property
    def all_seeds(self) -> tuple[int, ...]:
        """Every seed that an arm may be trained with."""
        return tuple(range(self.seeds.max)) if isinstance(self.seeds, AdaptiveSeeds) else self.seeds

    @property
    def looks(self) -> tuple[int, ...]:
        """The numbers of seeds after which the verdict is asked; empty where every arm gets every seed."""
        return self.seeds.looks if isinstance(self.seeds, AdaptiveSeeds) else ()

    def expand_arms(self) -> tuple[Arm, ...]:
        """Every arm, one for each size, in the file's order. A label is the entry's key and, say, `-r16`."""
        return tuple(arm for key in self.arms for arm in self.arms_of(key))

    def arms_of(self, key: str) -> tuple[Arm, ...]:
        """The arms of one entry: those that `auto_shared` shares a rate over."""
        return self.arms[key].arms(key)

    @property
    def virtual_tokens(self) -> int:
        """The most virtual tokens that an arm puts before a sequence: room that every arm's context leaves free."""
        return max((arm.traits.virtual_tokens(arm) for arm in self.expand_arms()), default=0)
