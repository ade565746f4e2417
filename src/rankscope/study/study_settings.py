"""The parts of a study that decide its results beside its rows: base models, training and selection.

The description of each setting is its only documentation, for messages, editors and docs/study-file.md alike: the first
sentence says what may stand there ("found -1, expected a number above 0"), the rest what it means.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from rankscope.study.methods import Fraction, Frozen

Kind = Literal["recall", "reasoning"]
Metric = Literal["score", "loss"]
"""What a suite's items are worth: a score from 0 to 1, or the loss of the reference's tokens in nats."""
ChoiceStyle = Literal["text", "letters"]
Schedule = Literal["cosine", "linear", "constant"]
OptimizerName = Literal["adamw", "adamw_8bit", "adamw_bf16"]

NAME = "a name of letters, digits, `.`, `_` or `-` that begins with a letter or digit (at most 64)"
_NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
Name = Annotated[str, Field(pattern=_NAME_PATTERN, max_length=64, description=NAME)]
Count = Annotated[int, Field(gt=0)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)]
"""Above 0 and below 1."""


def mismatch(found: str, expected: str) -> PydanticCustomError:
    """What a validator raises to say itself what it found and what it expected."""
    return PydanticCustomError("mismatch", "found {found}, expected {expected}", {"found": found, "expected": expected})


class ModelSpec(Frozen):
    """A base model; its id alone is enough."""

    id: str = Field(
        min_length=1,
        description="`bundled`, a folder, a hub id, or a store's URL. A folder is one that transformers saved; that of "
        "a URL (s3://...) is fetched once to each machine.",
    )
    gguf_file: str | None = Field(
        default=None,
        pattern=r"^[^/\\]+\.gguf$",
        description="the name of a GGUF file in that folder or repository. It is dequantised once, and the dequantised "
        "weights are what is trained and scored.",
    )
    revision: str | None = Field(
        default=None, description="a branch, tag or commit. Of a hub id; else its newest commit."
    )
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto",
        description="auto, float32 or bfloat16. Of the weights; auto is bfloat16 where the machine is fast at it.",
    )
    token_env: str | None = Field(
        default=None,
        description="the name of an environment variable. It holds a hub token that may read a private or gated model.",
    )
    trust_remote_code: bool = Field(
        default=False, description="true or false. Whether code that comes with the model may run."
    )
    quantization: Literal["nf4"] | None = Field(
        default=None,
        description="nf4, or null for none. nf4 holds the base's linear layers in 4 bits (QLoRA, arXiv 2305.14314); on "
        "CUDA, for adapters only.",
    )
    chat: Literal["auto", "never"] = Field(
        default="auto",
        description="auto (the tokenizer's chat template where it has one) or never. never asks in plain text, as "
        "suits a base model.",
    )
    chat_template: str | None = Field(
        default=None,
        min_length=1,
        description="a jinja2 template, as transformers has them. In place of the tokenizer's own.",
    )
    system_prompt: str | None = Field(default=None, description="a text. It stands before every conversation.")

    @property
    def name(self) -> str:
        """The name used in tables and folders: that of the GGUF file, else the last part of the id."""
        last = self.id.rstrip("/").split("/")[-1] if self.gguf_file is None else self.gguf_file.removesuffix(".gguf")
        return re.sub(r"[^A-Za-z0-9._-]+", "-", last) or "model"

    @property
    def public_id(self) -> str:
        """The id as it may leave this machine: a folder's is its name."""
        return self.name if self.id.startswith(("/", "~", ".")) else self.id


def _as(key: str) -> Callable[[Any], Any]:
    """What turns a text into a mapping with this key."""
    return lambda value: {key: value} if isinstance(value, str) else value


ShortModel = Annotated[
    ModelSpec, BeforeValidator(_as("id"), json_schema_input_type=Annotated[str, Field(min_length=1)] | ModelSpec)
]
"""A base model, which may be given by its id alone."""


def is_name(text: str) -> bool:
    """Whether a text may name a study, a domain, a suite or an arm."""
    return len(text) <= 64 and re.match(_NAME_PATTERN, text) is not None and not text.endswith("\n")


class Validation(Frozen):
    """Rows taken out of the training rows, never trained on. A search ranks rates by the loss on them; `select` takes
    one of those that were trained to the end."""

    fraction: Share = Field(
        default=0.1, description="a share of the training rows above 0 and below 1. The same rows for every arm."
    )
    max_items: Count = Field(default=500, description="a whole number above 0. The most rows that are taken out.")


class Budget(Frozen):
    """What every arm gets alike."""

    epochs: Positive = Field(default=3, description="a number above 0. Passes over the training rows.")
    batch_size: Count = Field(default=16, description="a whole number above 0. Rows of one optimizer step.")
    max_sequence_tokens: int = Field(
        default=1024, gt=1, description="a whole number above 1. Longer training rows are left out, and counted."
    )
    gradient_checkpointing: bool | Literal["auto"] = Field(
        default="auto",
        description="auto, true or false. Activations are computed again in the backward pass instead of kept: less "
        "memory, about a third more time, the same numbers. auto: where the plan finds that they do not fit in "
        "micro-batches that keep the device busy, and where memory runs out.",
    )

    def rows_seen(self, row_count: int) -> list[int]:
        """Rows seen in each epoch of `row_count` rows: all of them, and of a last epoch that is a fraction that share,
        rounded up. A fraction that is whole but for floating-point error counts as whole."""
        whole, fraction = divmod(self.epochs, 1)
        rest = math.ceil(round(fraction * row_count, 6)) or (1 if whole == 0 else 0)
        return [row_count] * int(whole) + ([rest] if rest else [])


class Optimizer(Frozen):
    """AdamW (betas 0.9 and 0.999, eps 1e-8) with warm-up and decay by step; its name alone is enough."""

    name: OptimizerName = Field(
        default="adamw",
        description="adamw, adamw_8bit or adamw_bf16. adamw_8bit keeps moments in 8 bits (arXiv 2110.02861), on CUDA "
        "only; so does adamw_bf16, on any device, and trains bf16 weights without fp32 copies by stochastic rounding.",
    )
    weight_decay: NotNegative = Field(default=0.0, description="a number of 0 or more. AdamW's decoupled weight decay.")
    warmup_fraction: Fraction = Field(
        default=0.03, description="a number from 0 to below 1. The share of the steps in which the learning rate rises."
    )
    schedule: Schedule = Field(
        default="cosine", description="cosine, linear or constant. How the learning rate falls after the warm-up."
    )
    clip_norm: Positive = Field(default=1.0, description="a number above 0. The norm that gradients are clipped to.")


ShortOptimizer = Annotated[Optimizer, BeforeValidator(_as("name"), json_schema_input_type=OptimizerName | Optimizer)]
"""Optimizer settings, which may be given by the optimizer's name alone."""


class Selection(Frozen):
    """Items outside a training set's domain that choose settings and never judge."""

    share: Share = Field(
        default=0.25, description="a share of each suite above 0 and below 1. Of the suites outside the domain."
    )
    min_items: Count = Field(
        default=16,
        description="a whole number above 0. The fewest items of a suite that choose; one with fewer than twice as "
        "many is not split: all its items judge.",
    )
    max_items: Count = Field(
        default=100, description="a whole number above 0, at least `min_items`. The most items of a suite that choose."
    )

    @model_validator(mode="after")
    def _in_order(self) -> Selection:
        if self.max_items < self.min_items:
            raise mismatch(f"max_items {self.max_items}, min_items {self.min_items}", "max_items of at least min_items")
        return self
