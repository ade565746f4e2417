"""What `rankscope repair` found: every remedy that was tried, the one that was chosen, and what it is worth."""

from __future__ import annotations

from typing import Literal

from rankscope.records.arm_record import Interval
from rankscope.records.record_base import FORMAT_VERSION, Record

RepairHow = Literal["retention", "none admissible"]


class RepairSide(Record):
    """Gain and forgetting, as shares of right answers, on the items that judge, with two-sided intervals over items."""

    gain: Interval
    forgetting: Interval


class RepairPoint(RepairSide):
    """One remedy. `select_gain` and `select_forgetting` are on the items that choose, `kl_nats` the divergence of the
    first answer token there (over the choices where half or more of the suites have choices, else over the whole
    vocabulary), and `fitted` the forgetting by which it may be chosen."""

    name: str
    select_gain: float
    select_forgetting: float
    kl_nats: float
    fitted: float
    ranks_left: float | None = None
    """Mean rank of the matrices whose spectrum was cut; None where none was."""


class RepairRecord(Record):
    """repair.json: the front of a repaired adapter or model.

    `points` begin with the change as it is. `how`: as an arm's setting is chosen, `retention`, the largest gain of
    those whose fitted forgetting is at most `limit`, or `none admissible`, the least fitted forgetting. `chosen` is
    None where nothing helps surely: then nothing is written beside this. `saved` is the forgetting that the chosen one
    saves, `lost` the gain that it costs, both paired by items, with one-sided bounds at `confidence`.
    """

    format_version: int = FORMAT_VERSION
    base: str
    repaired: str
    """The adapter or the model, as it was named."""
    task: list[str]
    keep: list[str]
    margin: float
    limit: float
    """What the fitted forgetting of the chosen one is held to: two thirds of the margin."""
    how: RepairHow
    confidence: float
    chosen: str | None
    reason: str
    before: RepairSide
    after: RepairSide | None
    saved: Interval | None
    lost: Interval | None
    points: list[RepairPoint]
    select_items: dict[str, int]
    judge_items: dict[str, int]
    notes: list[str] = []
