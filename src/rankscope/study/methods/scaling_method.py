"""Methods that train factors alone: IA3, which rescales activations, and LN tuning, which trains the norms' own."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from rankscope.study.methods.arm import Arm, Entry, Method
from rankscope.study.methods.lora_method import matches_target
from rankscope.study.methods.method_types import ModelShape

IA3_OUTPUTS = ("k_proj", "v_proj", "query_key_value", "qkv_proj", "attn.c_attn", "Wqkv")
"""Modules that make keys and values, of which IA3 scales each output. A fused one makes queries too."""

IA3_INPUTS = ("down_proj", "dense_4h_to_h", "mlp.c_proj", "fc2", "fc_out")
"""Modules that end a feed-forward, of which IA3 scales each input."""


class Ia3Arms(Entry):
    """IA3 (arXiv 2205.05638): keys, values and the feed-forward's inner activations are rescaled, unit by unit."""

    method: Literal["ia3"] = Field("ia3", description="the method")


class LnTuningArms(Entry):
    """The weights of every normalisation are trained, nothing else (arXiv 2312.11420)."""

    method: Literal["ln-tuning"] = Field("ln-tuning", description="the method")


def ia3_modules(modules: Iterable[str]) -> tuple[list[str], list[str]]:
    """Of linear modules by path: those whose outputs IA3 scales, and those whose inputs."""
    names = list(modules)
    outputs = [name for name in names if any(matches_target(name, end) for end in IA3_OUTPUTS)]
    return outputs, [name for name in names if any(matches_target(name, end) for end in IA3_INPUTS)]


@dataclass(frozen=True, kw_only=True)
class Ia3Method(Method):
    """One factor for each output of keys and values and each input of a feed-forward's last matrix."""

    rate_decades: tuple[int, int] = (-4, -1)
    delta: Literal["factored", "dense"] | None = "dense"

    def trainable_parameters(self, arm: Arm, model: ModelShape) -> int:
        outputs, inputs = ia3_modules(model.linear_shapes)
        shapes = model.linear_shapes
        return sum(shapes[name][0] for name in outputs) + sum(shapes[name][1] for name in inputs)

    def described(self, arm: Arm) -> str:
        return "An IA3 adapter"


@dataclass(frozen=True, kw_only=True)
class LnTuningMethod(Method):
    """The norms' weights and biases, which are no matrices: there is no delta."""

    rate_decades: tuple[int, int] = (-5, -2)

    def trainable_parameters(self, arm: Arm, model: ModelShape) -> int:
        return sum(model.norm_parameters.values())

    def described(self, arm: Arm) -> str:
        return "Tuned normalisations"


METHODS = (
    Ia3Method(name="ia3", title="IA3", entry=Ia3Arms),
    LnTuningMethod(name="ln-tuning", title="LN tuning", entry=LnTuningArms),
)
