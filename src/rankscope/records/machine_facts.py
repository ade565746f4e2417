"""What a machine is, as a plan counts on it: found by looking, or described by the user."""

from __future__ import annotations

from typing import Literal

from rankscope.records.record_base import Record

Device = Literal["cpu", "cuda", "mps"]
"""Where a study's work is done; mps is the GPU of a Mac."""


class MachineFacts(Record):
    """What the plan may count on."""

    device: Device
    device_name: str
    core_count: int
    memory_bytes: int
    device_memory_bytes: int
    bfloat16_is_fast: bool
    disk_free_bytes: int
    bitsandbytes: bool = False
    """Whether the package that quantises is installed."""
    flops_per_second: float | None = None
    """Matrix-product speed measured in the dtype that `auto` takes, one worker; None where it was not measured."""
    flops_per_second_float32: float | None = None
    """The same in float32, for a study that asks for it."""
    mps: bool = False
    """Whether torch can use the GPU of a Mac, which a study asks for (`execution: {device: mps}`)."""
    device_count: int = 1
    """GPUs that a process of this machine sees, or those of them that are used."""
    device_memories_bytes: list[int] = []
    """Of each GPU that is seen; empty where all are alike."""
    node_count: int = 1
    """Machines such as this one on which runs go; everything else here is of each of them."""
    described: bool = False
    """Whether nobody looked at it: the user said what it is."""

    def speed_in(self, dtype: str) -> float | None:
        """Matrix-product speed in a compute dtype; None where it was not measured."""
        return (self.flops_per_second_float32 if dtype == "float32" else None) or self.flops_per_second
