"""Methods that add parts beside the weights, so that no plain model holds them: adapters, prompt and prefix tuning.

PEFT has no bottleneck adapters: their files are rankscope's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from rankscope.study.methods.arm import Arm, Entry, Method
from rankscope.study.methods.method_types import OTHER_METHOD, ModelShape, Size, Sizes, Unfit, code_on_base

# ---- bottleneck adapters ---------------------------------------------------------------------------------------------


class AdaptersArms(Entry):
    """Bottleneck adapters after the feed-forward of every block (arXiv 1902.00751, placed as in 2005.00247)."""

    method: Literal["adapters"] = Field("adapters", description="the method")
    bottlenecks: Sizes = Field(
        description="a list of different whole numbers above 0, such as [16, 64]. Units of each adapter."
    )


BOTTLENECKS = Size("bottlenecks", "b", "bottleneck")


@dataclass(frozen=True, kw_only=True)
class BottleneckMethod(Method):
    """h + U gelu(D h + d) + u: two matrices and two biases a block. It acts on states, so no weight holds it, and PEFT
    has none: the files are rankscope's own."""

    rate_decades: tuple[int, int] = (-5, -2)
    size: Size | None = BOTTLENECKS
    merges: bool = False
    peft_format: bool = False

    def trainable_parameters(self, arm: Arm, model: ModelShape) -> int:
        units = int(arm.setting("bottleneck"))
        return model.layer_count * (2 * model.hidden_size * units + units + model.hidden_size)

    def described(self, arm: Arm) -> str:
        return f"Bottleneck adapters of {arm.setting('bottleneck')} units"

    def card_settings(self, arm: Arm) -> dict[str, object]:
        return {"bottleneck": arm.setting("bottleneck")}

    def loading_code(self, base: str) -> str:
        ours = "from rankscope.model.methods.bottleneck_modules import load_bottlenecks\n"
        load = 'load_bottlenecks(base, Path("PATH_OF_THIS_FOLDER"))  # in place\n'
        return code_on_base(base, "from pathlib import Path\n\n", ours, load)


# ---- virtual tokens -------------------------------------------------------------------------------------------------


class _VirtualTokensArms(Entry):
    virtual_tokens: Sizes = Field(
        description="a list of different whole numbers above 0, such as [16]. Virtual tokens before every sequence."
    )


class PromptTuningArms(_VirtualTokensArms):
    """Trained embeddings before every sequence (arXiv 2104.08691), which start as those of drawn tokens."""

    method: Literal["prompt-tuning"] = Field("prompt-tuning", description="the method")


class PrefixTuningArms(_VirtualTokensArms):
    """Trained keys and values before every sequence in every layer (arXiv 2101.00190), which start as drawn tokens'."""

    method: Literal["prefix-tuning"] = Field("prefix-tuning", description="the method")


TOKENS = Size("virtual_tokens", "v", "virtual_tokens")


@dataclass(frozen=True, kw_only=True)
class VirtualTokensMethod(Method):
    """v positions that stand before every row and take room of the context; nothing of it can be merged."""

    part: str
    """What the v virtual tokens are together."""
    merges: bool = False
    size: Size | None = TOKENS

    def virtual_tokens(self, arm: Arm) -> int:
        return int(arm.setting("virtual_tokens"))

    def own_step_flops(self, arm: Arm, model: ModelShape) -> float:
        """None: what they cost is that rows are longer."""
        return 0.0

    def own_forward_flops(self, arm: Arm, model: ModelShape) -> float:
        return 0.0

    def unfit(self, arm: Arm, model: ModelShape) -> list[Unfit]:
        if not model.key_value_width:
            found = f"{arm.method} of {model.name}, which keeps no keys and values"
            return [Unfit("method", found, OTHER_METHOD)]
        if self.virtual_tokens(arm) >= model.context_tokens:
            expected = f"less than the context of {model.name}, {model.context_tokens} tokens"
            return [Unfit("virtual_tokens", str(self.virtual_tokens(arm)), expected)]
        return super().unfit(arm, model)

    def described(self, arm: Arm) -> str:
        return f"A tuned {self.part} of {self.virtual_tokens(arm)} virtual tokens"

    def card_settings(self, arm: Arm) -> dict[str, object]:
        return {"virtual tokens": self.virtual_tokens(arm)}


class PromptTuningMethod(VirtualTokensMethod):
    """v embeddings of width D, which pass through every block as tokens do."""

    def computed_virtual_tokens(self, arm: Arm) -> int:
        return self.virtual_tokens(arm)

    def trainable_parameters(self, arm: Arm, model: ModelShape) -> int:
        return self.virtual_tokens(arm) * model.hidden_size


class PrefixTuningMethod(VirtualTokensMethod):
    """v keys and v values of width K in each of L layers, which only attention meets."""

    def trainable_parameters(self, arm: Arm, model: ModelShape) -> int:
        return 2 * self.virtual_tokens(arm) * model.layer_count * model.key_value_width


METHODS = (
    BottleneckMethod(name="adapters", title="bottleneck adapters", entry=AdaptersArms),
    PromptTuningMethod(
        name="prompt-tuning", title="prompt tuning", entry=PromptTuningArms, rate_decades=(-3, 0), part="prompt"
    ),
    PrefixTuningMethod(
        name="prefix-tuning", title="prefix tuning", entry=PrefixTuningArms, rate_decades=(-4, -1), part="prefix",
        loses_by_checkpointing="trained keys and values",
    ),
)  # fmt: skip
