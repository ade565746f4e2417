"""Bottleneck adapters: a small network after the feed-forward of every block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from rankscope.study.methods.arm import Arm, Entry, Method, ModelShape, Size, Sizes, code_on_base


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


METHODS = (BottleneckMethod(name="adapters", title="bottleneck adapters", entry=AdaptersArms),)
