"""Low-rank updates of weight matrices, W + B A scale: LoRA, and its relatives rsLoRA, DoRA and PiSSA.

Shapes: `lora_A` is (R, in), `lora_B` is (out, R).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, field_validator

from rankscope.study.methods.arm import Arm, Entry, Method
from rankscope.study.methods.method_types import Fraction, Matrix, ModelShape, Size, Sizes, Unfit
from rankscope.study.problems import did_you_mean

_MULTIPLE_OF_RANK = r"^([0-9]{1,6}(\.[0-9]{1,6})?)?r$"
Alpha = Annotated[float, Field(gt=0, allow_inf_nan=False)] | Annotated[str, Field(pattern=_MULTIPLE_OF_RANK)]
ALPHA = "a number above 0, or a multiple of the rank such as 2r. The scale is alpha/rank, of rslora alpha/sqrt(rank)."
Target = Annotated[str, Field(description="a module's name")]


class LowRankArms(Entry):
    """What the entries of all low-rank methods have."""

    ranks: Sizes = Field(
        description="a list of different whole numbers above 0, such as [8, 16, 32]. One arm for each."
    )
    alpha: Alpha = Field("2r", description=ALPHA)
    targets: Literal["all-linear"] | Annotated[tuple[Target, ...], Field(min_length=1)] = Field(
        "all-linear",
        description="all-linear, or a list of module names such as [q_proj, v_proj]. Where adapters are put.",
    )
    dropout: Fraction = Field(
        0.0, description="a number from 0 to below 1. The share of an adapter's inputs that training drops."
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

    def settings_at(self, size: int | None) -> dict[str, object]:
        return {**super().settings_at(size), "alpha": self.alpha_of(size or 0)}


class LoraArms(LowRankArms):
    """LoRA at one or more ranks. `alpha: 2r` is twice the rank, so that the scale alpha/r is the same at every rank."""

    method: Literal["lora"] = Field("lora", description="the method")


class RsLoraArms(LowRankArms):
    """LoRA with the scale alpha/sqrt(r) (arXiv 2312.03732), for which one alpha serves every rank."""

    method: Literal["rslora"] = Field("rslora", description="the method")
    alpha: Alpha = Field(16.0, description=ALPHA)


class DoraArms(LowRankArms):
    """LoRA for the direction of each row of a weight, and a trained length of it (arXiv 2402.09353)."""

    method: Literal["dora"] = Field("dora", description="the method")


class PissaArms(LowRankArms):
    """LoRA that starts at the weight's largest singular vectors (arXiv 2404.02948); its scale cancels at the start."""

    method: Literal["pissa"] = Field("pissa", description="the method")
    alpha: Alpha = Field("r", description=ALPHA)


RANKS = Size("ranks", "r", "rank", "rank")


@dataclass(frozen=True, kw_only=True)
class LoraMethod(Method):
    """W + B A alpha/r (arXiv 2106.09685): R (in + out) parameters for each matrix (section 4.1)."""

    rate_decades: tuple[int, int] = (-5, -2)
    delta: Literal["factored", "dense"] | None = "factored"
    dial_by: Literal["factors", "weights"] | None = "factors"
    size: Size | None = RANKS
    alone: bool = False
    """Whether it does more than add B A times a scale, so that it cannot train beside others."""

    def can_pack(self, arm: Arm) -> bool:
        """Dropout draws a mask for each arm alone."""
        return not self.alone and arm.dropout == 0.0

    def alpha_per_rank(self, arm: Arm) -> float | None:
        return arm.alpha / arm.rank if arm.alpha and arm.rank else None

    def trainable_parameters(self, arm: Arm, model: ModelShape) -> int:
        return (arm.rank or 0) * sum(sum(shape) for shape in adapted_shapes(arm, model).values())

    def misfits(self, arms: Sequence[Arm], model: ModelShape) -> tuple[list[Unfit], list[str]]:
        """A target that names no linear module of the blocks cannot be had, nor a rank above every target's smaller
        side, which could add nothing. A rank above some matrix's smaller side is a warning."""
        missing = [
            Unfit("targets", f"{target}, which is no linear module of {model.name}", _module_names(target, model))
            for target in _missing_targets(arms[0], model)
        ]
        shapes = {} if missing else adapted_shapes(arms[0], model)
        found = [self.rank_misfits(arm, model, shapes) for arm in arms] if shapes else []
        warnings = [warning for _, warned in found for warning in warned]
        return [*missing, *(one for unfit, _ in found for one in unfit)], warnings

    def rank_misfits(self, arm: Arm, model: ModelShape, shapes: dict[str, Matrix]) -> tuple[list[Unfit], list[str]]:
        """Of one arm, whose targets have these shapes."""
        rank, sides = arm.rank or 0, sorted({min(shape) for shape in shapes.values()})
        if rank > sides[-1]:
            found = f"rank {rank}, above the smaller side of every target of {model.name}"
            return [Unfit("ranks", found, f"at most {sides[-1]}")], []
        if rank > sides[0]:
            count = sum(rank > min(shape) for shape in shapes.values())
            warning = (
                f"{arm.label}: the rank is above the smaller side ({sides[0]}) of {count} of {len(shapes)} "
                f"targets of {model.name}; there it adds parameters but no rank"
            )
            return [], [warning]
        return [], []

    def described(self, arm: Arm) -> str:
        return f"A {self.title} adapter of rank {arm.rank}"

    def card_settings(self, arm: Arm) -> dict[str, object]:
        targets = arm.targets if isinstance(arm.targets, str) else ", ".join(arm.targets or ())
        return {"rank": arm.rank, "alpha": arm.alpha, "targets": targets, "dropout": arm.dropout}


class RsLoraMethod(LoraMethod):
    """The scale is alpha/sqrt(r) (arXiv 2312.03732), so that alpha/r is meant to differ."""

    def alpha_per_rank(self, arm: Arm) -> float | None:
        return None


class DoraMethod(LoraMethod):
    """Each row of W + B A alpha/r is scaled to a trained length (arXiv 2402.09353): `out` parameters more a matrix."""

    def trainable_parameters(self, arm: Arm, model: ModelShape) -> int:
        return super().trainable_parameters(arm, model) + sum(out for out, _ in adapted_shapes(arm, model).values())


class PissaMethod(LoraMethod):
    """B A starts at the weight's largest singular vectors, and the start is subtracted (arXiv 2404.02948).

    What is saved is a plain LoRA of twice the rank. Of a step 10 p: the frozen start is multiplied by too.
    """

    def stored_parameters(self, arm: Arm, model: ModelShape) -> int:
        return 2 * self.trainable_parameters(arm, model)

    def own_step_flops(self, arm: Arm, model: ModelShape) -> float:
        return 10.0 * self.trainable_parameters(arm, model)

    def rank_misfits(self, arm: Arm, model: ModelShape, shapes: dict[str, Matrix]) -> tuple[list[Unfit], list[str]]:
        """It starts with as many singular vectors of every target."""
        least = min(min(shape) for shape in shapes.values())
        if (arm.rank or 0) <= least:
            return [], []
        found = f"rank {arm.rank}, above the smaller side of a target of {model.name}"
        return [Unfit("ranks", found, f"at most {least}")], []

    def described(self, arm: Arm) -> str:
        rank = arm.rank or 0
        return f"A PiSSA adapter of rank {rank} (saved as a plain LoRA of rank {2 * rank} for the untouched base)"


def matches_target(module: str, target: str) -> bool:
    """PEFT's rule for a list of targets: the module's whole path, or the end of it after a dot."""
    return module == target or module.endswith(f".{target}")


def adapted_shapes(arm: Arm, model: ModelShape) -> dict[str, Matrix]:
    """(out, in) of the matrices that a low-rank arm adapts, by path; none for the other methods."""
    if arm.targets is None:
        return {}
    if isinstance(arm.targets, str):  # all-linear
        return dict(model.linear_shapes)
    targets = arm.targets
    return {m: shape for m, shape in model.linear_shapes.items() if any(matches_target(m, t) for t in targets)}


def _missing_targets(arm: Arm, model: ModelShape) -> list[str]:
    if arm.targets is None or isinstance(arm.targets, str):
        return []
    return [t for t in dict.fromkeys(arm.targets) if not any(matches_target(m, t) for m in model.linear_shapes)]


def _module_names(target: str, model: ModelShape) -> str:
    """The last parts of the linear modules' paths, and the nearest to what was asked for."""
    names = list(dict.fromkeys(module.rsplit(".", 1)[-1] for module in model.linear_shapes))
    return f"all-linear or some of {', '.join(names)}{did_you_mean(target, names)}"


METHODS = (
    LoraMethod(name="lora", entry=LoraArms, title="LoRA"),
    RsLoraMethod(name="rslora", entry=RsLoraArms, title="rank-stabilised LoRA"),
    DoraMethod(name="dora", entry=DoraArms, title="DoRA", delta="dense", dial_by=None, alone=True),
    PissaMethod(name="pissa", entry=PissaArms, title="PiSSA", alone=True, on_quantized=False),
)
