"""Where and in which pieces a study's work is done: which executor, how many arms and devices together."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from rankscope.study.methods import Frozen
from rankscope.study.study_settings import Name, mismatch


class Execution(Frozen):
    """Where and in which pieces the work is done: results change by rounding only, so it is no part of a run's id."""

    on: Name = Field(default="local", description="the name of an executor. local is this machine.")
    address: Annotated[str, Field(min_length=1)] = Field(
        default="auto",
        description="with `on: ray`: auto (RAY_ADDRESS, else the cluster that this machine is part of), local (Ray on "
        "this machine alone, as long as the command runs), HOST:PORT of a head node, or ray://HOST:PORT.",
    )
    gpus_per_run: Literal["auto"] | Annotated[float, Field(ge=0, le=1)] = Field(
        default="auto",
        description="with `on: ray`: auto or a number from 0 to 1. What a run of one device holds; auto is a GPU where "
        "the cluster has any. 0.5: two runs share a GPU, whose memory is not planned for that. A gang holds one for "
        "each process.",
    )
    retries: Annotated[int, Field(ge=0, le=1000)] = Field(
        default=2,
        description="with `on: ray`: how often a job is begun again after its process died. A node that vanishes does "
        "not count.",
    )
    arms_together: Literal["auto"] | Annotated[int, Field(gt=0, le=64)] = Field(
        default="auto",
        description="auto or a whole number from 1 to 64. LoRA arms that train in one pack; auto measures a few steps "
        "when the study begins.",
    )
    micro_batch_tokens: Literal["auto"] | Annotated[int, Field(ge=16)] = Field(
        default="auto",
        description="auto or a whole number of at least 16. Tokens of one forward, of all arms together.",
    )
    shards: Literal["auto"] | Annotated[int, Field(ge=1, le=1024)] = Field(
        default="auto",
        description="auto or a power of two from 1 to 1024. Devices that share out the weights of a run; auto is the "
        "smallest number at which it fits. For full fine-tuning, of a part too, and LoRA without dropout.",
    )
    offload: Literal["auto", "always", "never"] = Field(
        default="auto",
        description="auto, always or never. Whether weights that are not computed with, gradients and moments lie in "
        "the host's memory, which takes two to three times as long; auto where a run fits no other way.",
    )

    @field_validator("address")
    @classmethod
    def _no_secret(cls, address: str) -> str:
        if "@" in address or "?" in address:
            raise mismatch("an address with more than host and port", "HOST:PORT; a token comes from RAY_AUTH_TOKEN")
        return address

    @field_validator("shards")
    @classmethod
    def _power_of_two(cls, shards: Literal["auto"] | int) -> Literal["auto"] | int:
        if isinstance(shards, int) and shards & (shards - 1):
            raise mismatch(str(shards), "auto or a power of two from 1 to 1024")
        return shards

    @model_validator(mode="after")
    def _one_way(self) -> Execution:
        if self.offload == "always" and self.shards not in ("auto", 1):
            raise mismatch(f"offload: always with shards: {self.shards}", "one of the two")
        return self
