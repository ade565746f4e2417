"""When and where each job of a plan is expected to run; part of plan.json."""

from __future__ import annotations

from typing import Literal

from rankscope.records.machine_facts import Device
from rankscope.records.record_base import Record

JobKind = Literal["base", "samples", "search", "run", "pack", "derived"]


class ScheduledJob(Record):
    """One job on its devices. `ids`: the runs that it trains, its search, its base; of what has none a name.

    `stage`: jobs of one stage begin when all of the stage before have ended.
    """

    what: JobKind
    ids: list[str]
    stage: int
    devices: list[int]
    """GPUs as torch counts them, or workers from 0 on a CPU; a gang has as many as it has processes. On several nodes
    counted on from node to node."""
    start_seconds: float
    end_seconds: float
    host_bytes: int = 0

    @property
    def seconds(self) -> float:
        """How long it takes."""
        return self.end_seconds - self.start_seconds


class Schedule(Record):
    """Jobs on devices. `makespan_seconds`: until the last has ended; `idle_share` of all devices' time until then.

    `host_bytes`: what all jobs that run at once may take of the host's memory, on each of `node_count` nodes, which
    have equal shares of the devices.
    """

    device: Device
    devices: list[int]
    makespan_seconds: float
    gpu_hours: float
    """Of all GPUs together; 0 on a CPU."""
    idle_share: float
    host_bytes: int
    node_count: int = 1
    jobs: list[ScheduledJob]
