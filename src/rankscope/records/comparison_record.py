"""What changed between two studies: settings, arms, answers, and how far each arm moved."""

from __future__ import annotations

from rankscope.records.arm_record import Interval
from rankscope.records.record_base import FORMAT_VERSION, Record


class SettingDifference(Record):
    """A setting, or the content of a model or of data, that is not the same; None where a study has none."""

    name: str
    first: str | None
    second: str | None


class AnswerDifference(Record):
    """The answers of both studies for one base model and training set. `best_bet` and its probability are None where
    there is none."""

    kind: tuple[str, str]
    headline: tuple[str, str]
    sentence: tuple[str, str] = ("", "")
    recommended: tuple[str | None, str | None]
    best_bet: tuple[str | None, str | None]
    probability: tuple[float | None, float | None]


class ArmDifference(Record):
    """One arm, the second study minus the first: gain and forgetting in shares of accuracy, and of suites judged by
    their loss in nats per token (None where there are none).

    `paired`: on the same items and seeds; else `why` says what is not the same, and the interval is that of two
    independent samples. `suites` are those that both judge alike, over which the means are, `alone` those that only one
    study has so. `learning_rate` and `dial` are those at which it was judged in each.
    """

    arm: str
    learning_rate: tuple[float | None, float | None]
    dial: tuple[float, float]
    paired: bool
    why: str | None
    seeds: tuple[list[int], list[int]]
    gain: Interval
    forgetting: Interval
    gain_nats: Interval | None = None
    forgetting_nats: Interval | None = None
    suites: tuple[str, ...] = ()
    alone: tuple[str, ...] = ()


class PairComparison(Record):
    """One base model and training set: `name` in the first study and in the second."""

    name: tuple[str, str]
    answers: AnswerDifference
    arms: list[ArmDifference]
    only_first: list[str]
    only_second: list[str]


class Comparison(Record):
    """What changed from the study in `first` to that in `second`; intervals are two-sided at `confidence`, each for
    itself."""

    format_version: int = FORMAT_VERSION
    first: str
    second: str
    confidence: float
    settings: list[SettingDifference]
    main: list[SettingDifference] = []
    """What matters most of them, in a few rows: model, data, suites, arms, seeds, budget, margins."""
    pairs: list[PairComparison]
    unmatched: list[str]
    """Base models and training sets that only one study has."""
