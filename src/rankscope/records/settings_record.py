"""How the settings of arms, rate and dial, are chosen, and what was chosen."""

from __future__ import annotations

from typing import Literal

from rankscope.records.record_base import FORMAT_VERSION, Record


class PlannedSplit(Record):
    """A suite outside a training set's domain: `select_count` of its items choose settings, in whole clusters, the
    others judge. 0: too small to be split, or in too few clusters; all judge. `plan/selection_split.py` says which.
    `cluster_count` is None where every item is its own, or where the plan is older than this field."""

    suite: str
    item_count: int
    select_count: int
    cluster_count: int | None = None


class PlannedChoice(Record):
    """How the settings (rate, dial) of the arms of one base model and training set are chosen.

    `retention`: the lowest validation loss of those that keep the margin on the items that choose; `loss`: the lowest
    validation loss, every dial 1; `given`: the study gives every rate and dial, nothing is chosen and all items judge.
    `reason`: why it is `loss` though the study does not say so. `limit` (a share of accuracy) and `limit_nats` are what
    fitted forgetting is held to: two thirds of the retention margins.
    """

    model: str
    train_set: str
    select: Literal["retention", "loss", "given"]
    reason: str | None = None
    limit: float | None = None
    limit_nats: float | None = None
    splits: list[PlannedSplit] = []

    def at_margin(self, share: float) -> PlannedChoice:
        """The same choice with limits that are `share` times as large."""
        limits = {name: getattr(self, name) for name in ("limit", "limit_nats")}
        return self.model_copy(update={name: None if v is None else share * v for name, v in limits.items()})

    @property
    def select_counts(self) -> dict[str, int]:
        """Items that choose, of every suite that is split."""
        return {split.suite: split.select_count for split in self.splits if split.select_count}


Source = Literal["search", "runs"]

How = Literal["retention", "none admissible", "loss", "given"]


class SettingPoint(Record):
    """An arm at one rate and one dial, as it was measured where settings are chosen.

    `source`: the search's one seed, or the mean over the `seeds` runs of the study. `validation_loss` is in nats per
    token. `forgetting` (a share of accuracy) and `forgetting_nats` (nats per token) are means over suites on the items
    that choose, `select_items` of them a suite in the mean; the divergences KL(base || arm) at the first answer token
    are means over prompts, then over suites, in nats. `fitted` and `fitted_nats` are the forgetting by the isotonic
    fit. None: not measured; a rate that is None is not known, of an arm that was trained elsewhere.
    """

    arm: str
    learning_rate: float | None
    dial: float
    source: Source
    seeds: int
    validation_loss: float | None
    forgetting: float | None = None
    forgetting_nats: float | None = None
    select_items: float = 0.0
    kl_first_token_nats: float | None = None
    kl_choices_nats: float | None = None
    fitted: float | None = None
    fitted_nats: float | None = None


class ArmSetting(Record):
    """The rate and the dial at which an arm is judged and exported, and what they were chosen from.

    `how`: `retention`, the lowest validation loss of the points whose fitted forgetting is at most the limit; `none
    admissible`, the least fitted forgetting, where none is; `loss`, the lowest validation loss, blind to forgetting;
    `given` by the study. `rate_given`: the rate stands in the study, and the dial alone was chosen. `limit` and
    `limit_nats` are what the fitted forgetting was held to.
    """

    model: str
    train_set: str
    arm: str
    learning_rate: float | None
    dial: float
    how: How
    rate_given: bool
    search_id: str | None = None
    """The search that the rate is of; None where the study gives it."""
    limit: float | None = None
    limit_nats: float | None = None
    points: list[SettingPoint] = []

    @property
    def point(self) -> SettingPoint | None:
        """What was measured at the setting; None where nothing was."""
        own = (p for p in self.points if (p.learning_rate, p.dial) == (self.learning_rate, self.dial))
        return next(own, None)


class WorthAt(Record):
    """What an arm is worth if `allowed` (a share of accuracy) may be forgotten: its setting by the same rule.

    `allowed_nats`: what then may be forgotten of suites judged by their loss, in nats per token, as margin is to
    margin; None where there are none. `admissible`: its fitted forgetting is within the limit. Gain and forgetting, in
    shares of accuracy and in nats, with intervals each for itself at the study's confidence, where the study's seeds
    were trained at that rate; else None, and `runs_needed` runs would tell.
    """

    allowed: float
    allowed_nats: float | None = None
    arm: str
    learning_rate: float | None
    dial: float
    admissible: bool
    runs_needed: int
    gain: float | None
    gain_low: float | None
    gain_high: float | None
    forgetting: float | None
    forgetting_low: float | None
    forgetting_high: float | None
    gain_nats: float | None = None
    gain_nats_low: float | None = None
    gain_nats_high: float | None = None
    forgetting_nats: float | None = None
    forgetting_nats_low: float | None = None
    forgetting_nats_high: float | None = None


class SettingsFile(Record):
    """settings.json: the setting of every arm of every base model and training set, as far as it is chosen."""

    format_version: int = FORMAT_VERSION
    settings: list[ArmSetting]

    def of(self, model: str, train_set: str, arm: str) -> ArmSetting | None:
        """An arm's setting; None where it is not chosen yet."""
        found = (s for s in self.settings if (s.model, s.train_set, s.arm) == (model, train_set, arm))
        return next(found, None)


class DialLosses(Record):
    """dials.json of a run: validation loss in nats per token by dial as it is written (`0.7`), None where it is not
    finite, and the seconds that scoring at the dials below 1 took."""

    format_version: int = FORMAT_VERSION
    run_id: str
    validation_losses: dict[str, float | None]
    seconds: float
