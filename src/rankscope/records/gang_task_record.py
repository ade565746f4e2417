"""What the processes of a gang are asked to do and what each of them answers: records that live as long as they do."""

from __future__ import annotations

from typing import Literal

from rankscope.records.machine_facts import Device
from rankscope.records.record_base import Record
from rankscope.records.run_records import DialLoss
from rankscope.study.methods import Arm


class GangCandidate(Record):
    """An arm of a rate search at one rate; `checkpoint` names the place of its state in the study folder."""

    arm: Arm
    learning_rate: float
    checkpoint: str


GangWork = Literal["train", "search", "score", "base", "candidate", "derive", "samples"]
"""Train runs together to the end; train candidates of a search up to a step; score trained runs and look inside; score
a base; score a candidate's weights; make and score a derived run; let a base write the samples that a run replays."""


class GangTask(Record):
    """What the processes of a gang are asked to do, of one `work`.

    `checkpoint` names the place of the runs' state. Of a search's candidate: `save_to`, a local folder that gets its
    weights, or what it scored, and `weights`, where it lies. `model`: the base's name; `name`: the derived run's. What
    differs by process: its `rank`, and `scratch`, a local folder for its answer; `parent` is the process that watches.
    """

    folder: str
    work: GangWork
    size: int
    device: Device
    thread_count: int
    micro_batch_tokens: int
    evaluate_tokens: int
    """Of a scoring batch."""
    offload: bool = False
    run_ids: list[str] = []
    rates: list[float] = []
    checkpoint: str = ""
    search_id: str = ""
    candidates: list[GangCandidate] = []
    until_step: int | None = None
    save_to: str | None = None
    weights: str = ""
    model: str = ""
    name: str = ""
    rank: int = 0
    scratch: str = ""
    parent: int = 0


class GangOutcome(Record):
    """How one process of a gang ended. `memory`: a device did not hold it; `died`: nobody knows why.

    `losses` on the validation rows (None: diverged) and seconds trained, of the candidates of a search in their order;
    `dial_losses` of one that was scored.
    """

    rank: int
    state: Literal["done", "failed", "memory", "died"]
    error: str = ""
    details: str = ""
    losses: list[float | None] = []
    seconds: list[float] = []
    dial_losses: list[DialLoss] = []
