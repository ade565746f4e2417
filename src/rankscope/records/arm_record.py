"""What one arm showed: gain and forgetting, suite by suite, what it cost, and what its remedy is worth."""

from __future__ import annotations

from typing import Literal

from rankscope.records.record_base import Record
from rankscope.study.study import Kind
from rankscope.study.study_settings import Metric

Relation = Literal["in-domain", "out-of-domain", "general"]


class Interval(Record):
    """A mean with its two-sided interval at the study's confidence; None where the data cannot give one."""

    mean: float | None
    low: float | None
    high: float | None


TRAINED_ELSEWHERE = (
    "trained elsewhere, at learning rates and on rows that are not known here: whether the comparison with the other "
    "arms is fair cannot be checked, and rows that are held out here may have been trained on there"
)
"""What is said of arms that are judged and were not trained by the study."""

NOT_TRAINED_HERE = "not trained here"
"""In the place of what training took."""


class ArmCost(Record):
    """What a run of an arm took: seconds of training (mean over seeds), the arm's search, and the most of memory and
    disk."""

    train_seconds: float | None
    search_seconds: float | None
    peak_memory_bytes: int | None
    adapter_bytes: int | None
    extra_tokens_share: float | None = None
    """Tokens that it trains on beside the task's, as a share of these; None of an arm without a remedy."""
    trained_here: bool = True
    """False of an arm that was trained elsewhere: what that took is not known."""


class SuiteOutcome(Record):
    """One arm on one suite: accuracy, and its change from the base (mean over seeds), with an interval for itself.

    Of a suite that is judged by its loss: the losses in nats per token, and by how many nats the arm's is smaller.
    """

    suite: str
    relation: Relation
    kind: Kind | None
    item_count: int
    base_accuracy: float | None
    accuracy: float | None
    change: Interval
    metric: Metric = "score"
    base_loss_nats: float | None = None
    loss_nats: float | None = None
    chance: float | None = None
    """The accuracy of guessing: of choices one over their number, else 0; None where it is not known."""
    left_out: str | None = None
    """Why the suite is no part of the mean that forgetting is; None where it is part of it."""


class ArmVerdict(Record):
    """One arm's row of the verdict. `status`: eligible, ineligible, open; or failed, diverged, does not fit.

    gain and forgetting are in shares of accuracy, gain_nats and forgetting_nats in nats per token over the suites that
    are judged by their loss, None where there is none. Their intervals are the bounds that `status` comes from: those
    of all compared arms hold at once at the study's confidence.
    """

    label: str
    method: str
    rank: int | None
    learning_rate: float | None
    trainable_parameters: int | None
    seeds: list[int]
    gain: Interval
    forgetting: Interval
    per_suite: list[SuiteOutcome]
    status: str
    cost: ArmCost
    dial: float = 1.0
    """How much of the trained change is applied: W0 + dial (W - W0)."""
    gain_nats: Interval | None = None
    forgetting_nats: Interval | None = None


class RemedyPart(Record):
    """What an arm forgets of the suites that gave prompts of what it replays, or of those that gave none: shares of
    accuracy, against the base and what is saved against its own arm."""

    gave_prompts: bool
    suites: list[str]
    forgetting: Interval
    forgetting_saved: Interval

    @property
    def which(self) -> str:
        """What these suites did, in words."""
        return "gave prompts" if self.gave_prompts else "gave none"


class RemedyOutcome(Record):
    """What an arm's remedy is worth against its own arm without it, paired by items and seeds: gain lost and forgetting
    saved, shares of accuracy, and of suites judged by their loss in nats per token (None where there are none); and its
    price, shares of the own arm's task tokens and training seconds."""

    arm: str
    own_arm: str
    remedy: str
    seeds: list[int]
    gain_lost: Interval
    forgetting_saved: Interval
    extra_tokens_share: float | None
    extra_seconds_share: float | None
    sentence: str
    gain_lost_nats: Interval | None = None
    forgetting_saved_nats: Interval | None = None
    parts: list[RemedyPart] = []
    """Forgetting apart, where suites gave prompts: what is kept of these is no evidence of others."""
