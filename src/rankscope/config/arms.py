"""The arms of a study: one class for each method's entry in the file, and the flat record that all become."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator

Method = Literal[
    "full", "lora", "rslora", "dora", "pissa", "ia3", "prompt-tuning", "prefix-tuning", "adapters", "ln-tuning",
    "full-frozen-embeddings", "last-k-layers",
]  # fmt: skip
METHODS: tuple[Method, ...] = get_args(Method)

Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)] | Literal["auto", "auto_shared"]
Fraction = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
_MULTIPLE_OF_RANK = r"^([0-9]{1,6}(\.[0-9]{1,6})?)?r$"
Alpha = Annotated[float, Field(gt=0, allow_inf_nan=False)] | Annotated[str, Field(pattern=_MULTIPLE_OF_RANK)]


def _once(sizes: list[int]) -> list[int]:
    if len(set(sizes)) != len(sizes):
        raise ValueError("a size stands twice")
    return sizes


Sizes = Annotated[list[Annotated[int, Field(gt=0)]], Field(min_length=1), AfterValidator(_once)]


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


# ---- entries of the file --------------------------------------------------------------------------------------------


class _Entry(Frozen):
    """What every entry has; `arms` gives one arm for each of its sizes."""

    learning_rate: Rate = "auto"


class _OneSize(_Entry):
    method: Method

    def arms(self, key: str) -> tuple[Arm, ...]:
        return (Arm(label=key, method=self.method, learning_rate=self.learning_rate),)


class FullArms(_OneSize):
    """Full fine-tuning: every weight is trained."""

    method: Literal["full"] = "full"


class FrozenEmbeddingsArms(_OneSize):
    """Full fine-tuning but for the matrices of the vocabulary: embeddings of tokens and positions, output head."""

    method: Literal["full-frozen-embeddings"] = "full-frozen-embeddings"


class Ia3Arms(_OneSize):
    """IA3 (arXiv 2205.05638): keys, values and the feed-forward's inner activations are rescaled, unit by unit."""

    method: Literal["ia3"] = "ia3"


class LnTuningArms(_OneSize):
    """The weights of every normalisation are trained, nothing else (arXiv 2312.11420)."""

    method: Literal["ln-tuning"] = "ln-tuning"


class _LowRank(_Entry):
    method: Method
    ranks: Sizes
    alpha: Alpha = "2r"
    targets: Literal["all-linear"] | Annotated[list[str], Field(min_length=1)] = "all-linear"
    dropout: Fraction = 0.0

    @field_validator("alpha")
    @classmethod
    def _alpha_above_zero(cls, alpha: float | str) -> float | str:
        if isinstance(alpha, str) and float(alpha[:-1] or 1) == 0:
            raise ValueError("alpha is zero")
        return alpha

    def alpha_of(self, rank: int) -> float:
        """Alpha at this rank: a number, or a multiple of the rank."""
        if isinstance(self.alpha, str):
            return float(self.alpha[:-1] or 1) * rank
        return float(self.alpha)

    def arms(self, key: str) -> tuple[Arm, ...]:
        targets = self.targets if isinstance(self.targets, str) else tuple(self.targets)
        return tuple(
            Arm(
                label=arm_label(key, self.method, rank),
                method=self.method,
                rank=rank,
                alpha=self.alpha_of(rank),
                targets=targets,
                dropout=self.dropout,
                learning_rate=self.learning_rate,
            )
            for rank in self.ranks
        )


class LoraArms(_LowRank):
    """LoRA at one or more ranks. `alpha: 2r` is twice the rank, so that the scale alpha/r is the same at every rank."""

    method: Literal["lora"] = "lora"


class RsLoraArms(_LowRank):
    """LoRA with the scale alpha/sqrt(r) (arXiv 2312.03732), for which one alpha serves every rank."""

    method: Literal["rslora"] = "rslora"
    alpha: Alpha = 16.0


class DoraArms(_LowRank):
    """LoRA for the direction of each row of a weight, and a trained length of it (arXiv 2402.09353)."""

    method: Literal["dora"] = "dora"


class PissaArms(_LowRank):
    """LoRA that starts at the weight's largest singular vectors (arXiv 2404.02948); its scale cancels at the start."""

    method: Literal["pissa"] = "pissa"
    alpha: Alpha = "r"


class _Sized(_Entry):
    method: Method

    def arms(self, key: str) -> tuple[Arm, ...]:
        named = TRAITS[self.method].size
        assert named is not None
        field = {"bottlenecks": "bottleneck"}.get(named[0], named[0])
        return tuple(
            Arm.model_validate(
                {
                    "label": arm_label(key, self.method, size),
                    "method": self.method,
                    field: size,
                    "learning_rate": self.learning_rate,
                }
            )
            for size in getattr(self, named[0])
        )


class PromptTuningArms(_Sized):
    """Trained embeddings before every sequence (arXiv 2104.08691), which start as those of drawn tokens."""

    method: Literal["prompt-tuning"] = "prompt-tuning"
    virtual_tokens: Sizes


class PrefixTuningArms(_Sized):
    """Trained keys and values before every sequence in every layer (arXiv 2101.00190), which start as drawn tokens'."""

    method: Literal["prefix-tuning"] = "prefix-tuning"
    virtual_tokens: Sizes


class AdaptersArms(_Sized):
    """Bottleneck adapters after the feed-forward of every block (arXiv 1902.00751, placed as in 2005.00247)."""

    method: Literal["adapters"] = "adapters"
    bottlenecks: Sizes


class LastLayersArms(_Sized):
    """The last blocks are trained fully, nothing else."""

    method: Literal["last-k-layers"] = "last-k-layers"
    layers: Sizes


ENTRIES: dict[Method, type[_Entry]] = {
    "full": FullArms,
    "lora": LoraArms,
    "rslora": RsLoraArms,
    "dora": DoraArms,
    "pissa": PissaArms,
    "ia3": Ia3Arms,
    "prompt-tuning": PromptTuningArms,
    "prefix-tuning": PrefixTuningArms,
    "adapters": AdaptersArms,
    "ln-tuning": LnTuningArms,
    "full-frozen-embeddings": FrozenEmbeddingsArms,
    "last-k-layers": LastLayersArms,
}

ArmEntry = Annotated[
    FullArms | LoraArms | RsLoraArms | DoraArms | PissaArms | Ia3Arms | PromptTuningArms | PrefixTuningArms
    | AdaptersArms | LnTuningArms | FrozenEmbeddingsArms | LastLayersArms,
    Field(discriminator="method"),
]  # fmt: skip
