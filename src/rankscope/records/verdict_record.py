"""The verdict and what it rests on, and default ranks and rates pooled over the verdicts of several studies."""

from __future__ import annotations

from typing import Literal, NamedTuple

from pydantic import Field

from rankscope.records.arm_record import TRAINED_ELSEWHERE, ArmVerdict, RemedyOutcome
from rankscope.records.record_base import FORMAT_VERSION, Record
from rankscope.records.settings_record import WorthAt
from rankscope.study.methods import MethodName

Tone = Literal["good", "bad", "open"]
"""How an answer is shown: with a choice that can be made, with bad news, or as not known yet."""


class Recommended(Record):
    """The arm that is recommended, with the settings to train it again."""

    label: str
    method: str
    rank: int | None
    alpha: float | None
    targets: list[str] | str | None
    learning_rate: float | None
    trainable_parameters: int


class DetectableEffect(Record):
    """The smallest true difference that this design would find with 80 % power."""

    gain: float | None
    forgetting: float | None
    gain_nats: float | None = None
    forgetting_nats: float | None = None


class MoreNeeded(Record):
    """How many seeds (or items per suite, at the present seeds) would probably decide; None where no number that can be
    asked for would."""

    seeds: int | None
    items: int | None


class SuiteNoise(Record):
    """How many items of a suite the base answers otherwise when it is merely scored in other batches."""

    suite: str
    item_count: int
    changed_items: int


class BetSetting(Record):
    """The learning rate and the dial at which an arm was judged."""

    learning_rate: float | None
    dial: float


class LeastBadArm(Record):
    """Where the base is bet on: the arm of least expected regret, the margin of forgetting that it keeps with a
    probability of 0.8, and its probability of being right at that margin."""

    label: str
    setting: BetSetting
    retention_margin: float | None
    retention_margin_nats: float | None = None
    probability: float | None


class NextRuns(Record):
    """One more seed for each of `arms`, the bet first, and by how much the least expected regret would fall."""

    arms: list[str]
    saving: float | None


class BestBet(Record):
    """The option of least expected regret: an arm, or the base (`base`, without a setting).

    `probability`: that it keeps the margin and is good enough (of the base: that no arm is); None, like all that rests
    on it, where nobody can say, for the reason in `sentence`. Regret and saving are in `unit`: shares of accuracy, or
    margins where a study is judged in nats too.
    """

    label: str
    setting: BetSetting | None
    probability: float | None
    expected_regret: float | None
    runner_up: str | None
    probability_base: float | None
    least_bad: LeastBadArm | None = None
    next_runs: NextRuns | None = None
    unit: Literal["accuracy", "margins"] = "accuracy"
    headline: str = ""
    """The bet in a few words."""
    sentence: str = ""
    """The bet in one sentence."""
    why: str = ""
    """What it is expected to miss, what comes next, and which runs would help."""


class Answer(NamedTuple):
    """One of the answers that stand side by side, in the order in which they are read; `details` may be empty."""

    headline: str
    sentence: str
    details: str = ""


class Verdict(Record):
    """The answer for one base model and training set. What is said of its kind comes with it (decide/verdict_kinds.py
    has the kinds), so that a reader of the record need not know them."""

    model: str
    train_set: str
    kind: str
    decided: bool
    headline: str
    """The answer in a few words, for a title."""
    sentence: str
    """The answer in one sentence."""
    tone: Tone
    reasons_with_answer: bool
    """Whether a short account of the answer, such as the terminal's, has the reasons too."""
    recommended: Recommended | None
    candidates: list[str]
    refuted: list[str]
    rule: str
    reasons: list[str]
    minimum_detectable_effect: DetectableEffect
    more_needed: MoreNeeded
    arms: list[ArmVerdict]
    findings: list[str] = []
    """What was forgotten, in plain words: by which arms, recall against reasoning."""
    dials: list[RemedyOutcome] = []
    """What the dial of each arm that has one below 1 is worth: the arm against itself as trained."""
    remedies: list[RemedyOutcome] = []
    noise: list[SuiteNoise] = []
    at_other_margins: list[WorthAt] = []
    """What each arm is worth if another amount of forgetting is allowed; descriptive."""
    interval_confidence: float | None = None
    """Of each interval of gain and forgetting for itself, so that all hold at once at the study's confidence."""
    best_bet: BestBet | None = None

    @property
    def in_nats(self) -> bool:
        """Whether some suite is judged by its loss."""
        return any(arm.gain_nats is not None or arm.forgetting_nats is not None for arm in self.arms)

    @property
    def elsewhere_sentence(self) -> str | None:
        """What nobody knows of the arms that were trained elsewhere; None where all were trained by the study."""
        labels = [arm.label for arm in self.arms if not arm.cost.trained_here]
        return f"{', '.join(labels)}: {TRAINED_ELSEWHERE}." if labels else None

    def status_of(self, arm: ArmVerdict) -> str:
        """The one word that is shown for an arm: recommended; refuted, where it may keep the margin and is behind; else
        its status."""
        if self.recommended is not None and arm.label == self.recommended.label:
            return "recommended"
        return "refuted" if arm.label in self.refuted and arm.status in ("eligible", "open") else arm.status

    @property
    def named_arms(self) -> list[str]:
        """The arms that the answers name: what is recommended, then the best bet."""
        recommended = [] if self.recommended is None else [self.recommended.label]
        bet = [] if self.best_bet is None or self.best_bet.setting is None else [self.best_bet.label]
        return list(dict.fromkeys([*recommended, *bet]))

    @property
    def answers(self) -> list[Answer]:
        """The sure verdict and the best bet; where the verdict recommends nothing the bet comes first."""
        sure = Answer(self.headline, self.sentence)
        if self.best_bet is None:
            return [sure]
        bet = Answer(self.best_bet.headline, self.best_bet.sentence, self.best_bet.why)
        return [sure, bet] if self.recommended is not None else [bet, sure]

    @property
    def name(self) -> str:
        """`MODEL trained on TRAINING SET`."""
        return f"{self.model} trained on {self.train_set}"

    @property
    def arms_by_size(self) -> list[ArmVerdict]:
        """Arms by trainable parameters; those whose count is unknown last."""
        return sorted(
            self.arms, key=lambda arm: (arm.trainable_parameters is None, arm.trainable_parameters or 0, arm.label)
        )


class VerdictFile(Record):
    """verdict.json: a verdict for every base model and training set of a study."""

    format_version: int = FORMAT_VERSION
    verdicts: list[Verdict]
    notes: list[str] = []


class PooledInterval(Record):
    """A mean over `studies` studies with its two-sided interval; `tau`: its spread over studies."""

    mean: float
    low: float
    high: float
    tau: float = Field(ge=0)
    studies: int = Field(gt=0)


class DefaultArm(Record):
    """One kind of arm at rates of one decade.

    `gain_difference`: to the best eligible arm of each study, None where it was that arm itself in all of them
    (`reference_in` counts those) or no arm was eligible; `learning_rate`: of those that were searched, on its own
    scale; `learning_rate_decade` d: rates from 10^d on and below 10^(d + 1); `recommended_in`: verdicts.
    """

    method: MethodName
    rank: int | None
    alpha_per_rank: float | None
    targets: list[str] | str | None
    studies: int = Field(gt=0)
    recommended_in: int = Field(ge=0)
    gain_difference: PooledInterval | None
    forgetting: PooledInterval | None
    learning_rate: PooledInterval | None
    learning_rate_decade: int | None = None
    reference_in: int = 0


class Defaults(Record):
    """defaults.yaml. `default` is the place of the arm in `arms`, None where the studies cannot tell, for `reason`."""

    format_version: Literal[1] = 1
    studies: list[str]
    confidence: float
    task_margin: float
    retention_margin: float
    default: int | None
    reason: str
    arms: list[DefaultArm] = Field(min_length=1)
