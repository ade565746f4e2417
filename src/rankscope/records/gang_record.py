"""A gang of devices; what its processes are asked to train and what each of them answers, only while they live."""

from __future__ import annotations

from typing import Literal

from rankscope.records.record_base import Record
from rankscope.study.methods import Arm


class Gang(Record):
    """The devices that train a run together; `offload`: what is not computed with lies in the host's memory."""

    size: int = 1
    offload: bool = False


class GangCandidate(Record):
    """An arm of a rate search at one rate; `checkpoint` names the place of its state in the study folder."""

    arm: Arm
    learning_rate: float
    checkpoint: str


class GangTask(Record):
    """Runs to train together to the end, or candidates of a search up to a step.

    `checkpoint` names the place of the runs' state. `save_to`: a local folder that gets the weights of the one
    candidate. What differs by process: its `rank`, and `scratch`, a local folder for its answer; `parent` is the
    process that watches it.
    """

    folder: str
    model: str
    train_set: str
    seed: int
    size: int
    device: Literal["cpu", "cuda"]
    thread_count: int
    micro_batch_tokens: int
    offload: bool = False
    run_ids: list[str] = []
    rates: list[float] = []
    checkpoint: str = ""
    search_id: str = ""
    candidates: list[GangCandidate] = []
    until_step: int | None = None
    save_to: str | None = None
    rank: int = 0
    scratch: str = ""
    parent: int = 0


class GangOutcome(Record):
    """How one process of a gang ended. `memory`: a device did not hold it; `died`: nobody knows why.

    `losses` on the validation rows (None: diverged) and seconds trained, of the candidates of a search in their order.
    """

    rank: int
    state: Literal["done", "failed", "memory", "died"]
    error: str = ""
    details: str = ""
    losses: list[float | None] = []
    seconds: list[float] = []
