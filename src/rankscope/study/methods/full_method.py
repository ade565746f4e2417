"""Full fine-tuning: of every weight, of all but the vocabulary's, or of the last blocks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from rankscope.study.methods.arm import Arm, Entry, Method
from rankscope.study.methods.method_types import ModelShape, Size, Sizes, StepWork, Unfit, code_of_folder


class FullArms(Entry):
    """Full fine-tuning: every weight is trained."""

    method: Literal["full"] = Field("full", description="the method")


class FrozenEmbeddingsArms(Entry):
    """Full fine-tuning but for the matrices of the vocabulary: embeddings of tokens and positions, output head."""

    method: Literal["full-frozen-embeddings"] = Field("full-frozen-embeddings", description="the method")


class LastLayersArms(Entry):
    """The last blocks are trained fully, nothing else."""

    method: Literal["last-k-layers"] = Field("last-k-layers", description="the method")
    layers: Sizes = Field(
        description="a list of different whole numbers above 0, such as [2, 4]. How many of the last blocks train."
    )


LAYERS = Size("layers", "k", "layers")


@dataclass(frozen=True, kw_only=True)
class FullMethod(Method):
    """Every weight is trained, in a copy of the base, and the whole model is saved.

    Of a step: the backward pass is two products for each of the forward, so 3 passes of matrices, attention and head.
    """

    rate_decades: tuple[int, int] = (-6, -3)
    whole: bool = True
    dial_by: Literal["factors", "weights"] | None = "weights"
    delta: Literal["factored", "dense"] | None = "dense"
    on_quantized: bool = False
    peft_format: bool = False
    head_passes: int = 3
    """2 where the output head is frozen: its input has a gradient and its weight none."""

    def trainable_parameters(self, arm: Arm, model: ModelShape) -> int:
        return model.parameter_count

    def step_work(self, arm: Arm, model: ModelShape, *, checkpointing: bool) -> StepWork:
        passes = 3 + (1 if checkpointing else 0)
        return StepWork(passes, passes, self.head_passes, 0.0)

    def own_forward_flops(self, arm: Arm, model: ModelShape) -> float:
        return 0.0

    def described(self, arm: Arm) -> str:
        return "A fully fine-tuned model"

    def loading_code(self, base: str) -> str:
        return code_of_folder()


@dataclass(frozen=True, kw_only=True)
class FrozenEmbeddingsMethod(FullMethod):
    """The vocabulary's matrices stay as they are, tied or not."""

    head_passes: int = 2

    def trainable_parameters(self, arm: Arm, model: ModelShape) -> int:
        return model.parameter_count - model.vocabulary_parameters

    def described(self, arm: Arm) -> str:
        return "A model fine-tuned but for its embeddings and output head,"


@dataclass(frozen=True, kw_only=True)
class LastLayersMethod(FullMethod):
    """The last k of L blocks are trained; the final norm and the head stay.

    Of a step: the forward of all blocks, and a backward of k of them.
    """

    head_passes: int = 2
    size: Size | None = LAYERS

    def trainable_parameters(self, arm: Arm, model: ModelShape) -> int:
        return sum(model.block_parameters[-arm.setting("layers") :])

    def step_work(self, arm: Arm, model: ModelShape, *, checkpointing: bool) -> StepWork:
        again = 1 if checkpointing else 0
        passes = 1 + (2 + again) * arm.setting("layers") / max(1, model.layer_count)
        return StepWork(passes, passes, self.head_passes, 0.0)

    def unfit(self, arm: Arm, model: ModelShape) -> list[Unfit]:
        if arm.setting("layers") > model.layer_count:
            expected = f"at most {model.layer_count}, the blocks of {model.name}"
            return [Unfit("layers", str(arm.setting("layers")), expected)]
        return super().unfit(arm, model)

    def described(self, arm: Arm) -> str:
        return f"A model whose last {arm.setting('layers')} blocks were fine-tuned,"

    def card_settings(self, arm: Arm) -> dict[str, object]:
        return {"last blocks trained": arm.setting("layers")}


METHODS = (
    FullMethod(name="full", title="full fine-tuning", entry=FullArms),
    FrozenEmbeddingsMethod(
        name="full-frozen-embeddings", title="fine-tuning of all but the embeddings", entry=FrozenEmbeddingsArms
    ),
    LastLayersMethod(name="last-k-layers", title="fine-tuning of the last blocks", entry=LastLayersArms),
)
