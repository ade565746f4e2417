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
        description="auto, local, HOST:PORT of a head node, or ray://HOST:PORT. With `on: ray`: auto is RAY_ADDRESS, "
        "else the cluster that this machine is part of; local a Ray on this machine alone while the command runs.",
    )
    gpus_per_run: Literal["auto"] | Annotated[float, Field(ge=0, le=1)] = Field(
        default="auto",
        description="auto or a number from 0 to 1. With `on: ray`, what a run of one device holds; auto is a GPU where "
        "the cluster has any. 0.5: two runs share a GPU, whose memory is not planned for that. A gang holds one for "
        "each process.",
    )
    retries: Annotated[int, Field(ge=0, le=1000)] = Field(
        default=2,
        description="a whole number from 0 to 1000. With `on: ray`, how often a job is begun again after its process "
        "died; a node that vanishes does not count.",
    )
    gpus: Literal["auto"] | Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)] = Field(
        default="auto",
        description="auto or a list of numbers, such as [0, 1, 3]. The GPUs of this machine that are used, as torch "
        "counts them (those of CUDA_VISIBLE_DEVICES, where that is set): a worker on each.",
    )
    device: Literal["auto", "mps"] = Field(
        default="auto",
        description="auto or mps. auto is CUDA where there is any, else the CPU; mps is the GPU of a Mac, in fp32, one "
        "worker, without `analysis`.",
    )
    workers: Literal["auto"] | Annotated[int, Field(ge=1, le=1024)] = Field(
        default="auto",
        description="auto or a whole number from 1 to 1024. Processes that work side by side on a CPU and share out "
        "its cores; auto is one a core as far as memory and the number of runs allow. On CUDA there is one a GPU.",
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
    scoring_shards: Literal["auto"] | Annotated[int, Field(ge=1, le=1024)] = Field(
        default="auto",
        description="auto or a power of two from 1 to 1024. The same for scoring and looking inside; auto is 1 where "
        "the model fits one device.",
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

    @field_validator("gpus")
    @classmethod
    def _each_once(cls, gpus: Literal["auto"] | tuple[int, ...]) -> Literal["auto"] | tuple[int, ...]:
        twice = sorted({gpu for gpu in gpus if gpus.count(gpu) > 1}) if isinstance(gpus, tuple) else []
        if twice:
            raise mismatch(f"GPU {twice[0]} twice", "each GPU once")
        return gpus

    @field_validator("shards", "scoring_shards")
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
