"""The entries of a study file's `arms`, one class for each method; each gives its arms."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, field_validator

from rankscope.study.arms import TRAITS, Arm, Fraction, Frozen, Method, Rate, arm_label

_MULTIPLE_OF_RANK = r"^([0-9]{1,6}(\.[0-9]{1,6})?)?r$"
Alpha = Annotated[float, Field(gt=0, allow_inf_nan=False)] | Annotated[str, Field(pattern=_MULTIPLE_OF_RANK)]

_ALPHA = "a number above 0, or a multiple of the rank such as 2r. The update is scaled by alpha/rank."


def _once(sizes: tuple[int, ...]) -> tuple[int, ...]:
    if len(set(sizes)) != len(sizes):
        raise ValueError("a size stands twice")
    return sizes


Size = Annotated[int, Field(gt=0, description="a whole number above 0")]
Sizes = Annotated[tuple[Size, ...], Field(min_length=1), AfterValidator(_once)]
_SIZES = "a list of different whole numbers above 0, such as"
_Target = Annotated[str, Field(description="a module's name")]


class _Entry(Frozen):
    """What every entry has; `arms` gives one arm for each of its sizes."""

    method: Method
    learning_rate: Rate = Field(
        default="auto",
        description="a number above 0 such as 2e-4, or auto, or auto_shared. auto searches a rate for each arm on "
        "held-out training rows; auto_shared searches one for all sizes of the entry.",
    )


class _OneSize(_Entry):
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
    ranks: Sizes = Field(description=f"{_SIZES} [8, 16, 32]. One arm for each rank.")
    alpha: Alpha = Field(default="2r", description=_ALPHA)
    targets: Literal["all-linear"] | Annotated[tuple[_Target, ...], Field(min_length=1)] = Field(
        default="all-linear",
        description="all-linear, or a list of module names such as [q_proj, v_proj]. Where adapters are put.",
    )
    dropout: Fraction = Field(
        default=0.0,
        description="a number from 0 to below 1. The share of an adapter's inputs that is dropped in training.",
    )

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
        return tuple(
            Arm(
                label=arm_label(key, self.method, rank),
                method=self.method,
                rank=rank,
                alpha=self.alpha_of(rank),
                targets=self.targets,
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
    alpha: Alpha = Field(default=16.0, description=_ALPHA)


class DoraArms(_LowRank):
    """LoRA for the direction of each row of a weight, and a trained length of it (arXiv 2402.09353)."""

    method: Literal["dora"] = "dora"


class PissaArms(_LowRank):
    """LoRA that starts at the weight's largest singular vectors (arXiv 2404.02948); its scale cancels at the start."""

    method: Literal["pissa"] = "pissa"
    alpha: Alpha = Field(default="r", description=_ALPHA)


class _Sized(_Entry):
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
    virtual_tokens: Sizes = Field(description=f"{_SIZES} [16]. Virtual tokens before every sequence.")


class PrefixTuningArms(_Sized):
    """Trained keys and values before every sequence in every layer (arXiv 2101.00190), which start as drawn tokens'."""

    method: Literal["prefix-tuning"] = "prefix-tuning"
    virtual_tokens: Sizes = Field(description=f"{_SIZES} [16]. Virtual tokens before every sequence.")


class AdaptersArms(_Sized):
    """Bottleneck adapters after the feed-forward of every block (arXiv 1902.00751, placed as in 2005.00247)."""

    method: Literal["adapters"] = "adapters"
    bottlenecks: Sizes = Field(description=f"{_SIZES} [16, 64]. Units of each adapter.")


class LastLayersArms(_Sized):
    """The last blocks are trained fully, nothing else."""

    method: Literal["last-k-layers"] = "last-k-layers"
    layers: Sizes = Field(description=f"{_SIZES} [2, 4]. How many of the last blocks are trained.")


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
