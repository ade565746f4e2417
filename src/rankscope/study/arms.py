"""The methods, what the stages need to know of each, and the arm: the record that every entry of the file becomes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

Method = Literal[
    "full", "lora", "rslora", "dora", "pissa", "ia3", "prompt-tuning", "prefix-tuning", "adapters", "ln-tuning",
    "full-frozen-embeddings", "last-k-layers",
]  # fmt: skip
METHODS: tuple[Method, ...] = get_args(Method)

Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)] | Literal["auto", "auto_shared"]
Fraction = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]


@dataclass(frozen=True)
class MethodTraits:
    """What the stages need to know of a method, so that none of them asks for its name.

    `whole`: it trains weights of the base itself, so it needs a copy of its own and is saved as a whole model.
    `delta`: what its change of the weight matrices is; None where none changes, and there is no spectrum then.
    `merges`: it can be exported as a plain model. `prepends`: it puts virtual tokens before every sequence.
    `size`: the setting that is a list in the file, and its letter in labels.
    `decomposes`: it starts from a decomposition of the base's weights and changes them.
    `rate_decades`: `auto` tries rates from 10**low to 10**high, two for each decade.
    """

    whole: bool
    delta: Literal["factored", "dense"] | None
    merges: bool
    rate_decades: tuple[int, int]
    size: tuple[str, str] | None = None
    prepends: bool = False
    decomposes: bool = False

    @property
    def on_quantized(self) -> bool:
        """Whether it can be trained on a base whose weights are held in 4 bits."""
        return not self.whole and not self.decomposes


_RANKS = ("ranks", "r")
_TOKENS = ("virtual_tokens", "v")
TRAITS: dict[Method, MethodTraits] = {
    "full": MethodTraits(True, "dense", True, (-6, -3)),
    "lora": MethodTraits(False, "factored", True, (-5, -2), _RANKS),
    "rslora": MethodTraits(False, "factored", True, (-5, -2), _RANKS),
    "dora": MethodTraits(False, "dense", True, (-5, -2), _RANKS),
    "pissa": MethodTraits(False, "factored", True, (-5, -2), _RANKS, decomposes=True),
    "ia3": MethodTraits(False, "dense", True, (-4, -1)),
    "prompt-tuning": MethodTraits(False, None, False, (-3, 0), _TOKENS, prepends=True),
    "prefix-tuning": MethodTraits(False, None, False, (-4, -1), _TOKENS, prepends=True),
    "adapters": MethodTraits(False, None, False, (-5, -2), ("bottlenecks", "b")),
    "ln-tuning": MethodTraits(False, None, True, (-5, -2)),
    "full-frozen-embeddings": MethodTraits(True, "dense", True, (-6, -3)),
    "last-k-layers": MethodTraits(True, "dense", True, (-6, -3), ("layers", "k")),
}


class Frozen(BaseModel):
    """Settings never change after they were read, and a key that nobody reads is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Arm(Frozen):
    """One arm of the study: a method with its settings, and its label. The base model is no arm."""

    label: str
    method: Method
    rank: int | None = None
    alpha: float | None = None
    targets: Literal["all-linear"] | tuple[str, ...] | None = None
    dropout: float = 0.0
    learning_rate: Rate
    virtual_tokens: int | None = None
    bottleneck: int | None = None
    layers: int | None = None

    @property
    def traits(self) -> MethodTraits:
        return TRAITS[self.method]

    @property
    def has_delta(self) -> bool:
        """Whether weight matrices change, so that there is a delta with a spectrum."""
        return self.traits.delta is not None

    @property
    def size(self) -> int | None:
        """The number that the label ends with; None for a method that has one size only."""
        return next((n for n in (self.rank, self.virtual_tokens, self.bottleneck, self.layers) if n is not None), None)


def arm_label(key: str, method: Method, size: int | None) -> str:
    """The entry's key, and the method's letter with its size where it has one: `lora-r16`, `prompt-tuning-v8`."""
    named = TRAITS[method].size
    if size is None or named is None:
        return key
    return key if key.endswith(f"-{named[1]}{size}") else f"{key}-{named[1]}{size}"
