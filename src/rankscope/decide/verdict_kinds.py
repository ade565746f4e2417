"""The kinds of answer that a verdict can be, each one value: when it holds, which arms it names, and all its words.

The words travel in verdict.json, so report, terminal and model card know no kind. A new kind is one more class here and
its place in KINDS. The same rule judges a study, its bootstrap, a planned study and a simulated one; docs/verdict.md
explains it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rankscope.decide.gain_and_forgetting import Bounds, Measured, Widths, bounds, pareto_front
from rankscope.decide.run_outcomes import ArmFacts
from rankscope.decide.verdict_rule import Standing, Truths, indices, stand, what_would_decide
from rankscope.records import ArmVerdict, MoreNeeded, Recommended, Tone
from rankscope.records.readable_numbers import (
    counted_points,
    interval_points,
    listing,
    parameters,
    reason_decimal,
    reason_points,
)
from rankscope.study.study import Decision

Floats = NDArray[np.float64]


class Facts(NamedTuple):
    """What the words of an answer are made of, as verdict.json has it."""

    recommended: Recommended | None
    arms: Sequence[ArmVerdict]
    candidates: Sequence[str]
    more_needed: MoreNeeded


class Judged(NamedTuple):
    """What the first reasons are made of. `gain` and `lost` (N,) are the arms' observed gain and forgetting."""

    arms: Sequence[ArmFacts]
    gain: Floats
    lost: Floats
    bounds: Bounds
    ruling: Ruling
    decision: Decision


@dataclass(frozen=True)
class Ruling:
    """What the rule says: its kind of answer, the arms that it names by index, and where every arm stands."""

    kind: VerdictKind
    recommended: int | None
    candidates: tuple[int, ...]
    standing: Standing


# ---- the kinds of answer --------------------------------------------------------------------------------------------


class VerdictKind(ABC):
    """A kind of answer. `name` stands in verdict.json, `title` is what people read."""

    name: ClassVar[str]
    title: ClassVar[str]
    tone: ClassVar[Tone]
    decided: ClassVar[bool] = True
    reasons_with_answer: ClassVar[bool] = False
    """Whether a short account of the answer, such as the terminal's, has the reasons too."""
    needs_forgetting: ClassVar[bool] = True
    """Whether nothing can be answered so where what the arms forget is not known."""

    @abstractmethod
    def holds(self, standing: Standing) -> bool:
        """Whether the arms stand so that this is the answer; the first of KINDS that holds is."""

    def named(self, standing: Standing) -> tuple[int | None, list[int]]:
        """The recommended arm, and those that may still be the answer."""
        return None, []

    def headline(self, facts: Facts) -> str:
        """The answer in a few words."""
        return self.title

    @abstractmethod
    def sentence(self, facts: Facts) -> str:
        """The answer in one sentence."""

    @abstractmethod
    def reasons(self, judged: Judged) -> list[str]:
        """The reasons that come first: why this is the answer."""


class NoGain(VerdictKind):
    """Every upper bound of gain is below `min_gain`."""

    name, title, tone = "no_gain", "No gain", "bad"
    needs_forgetting = False

    def holds(self, standing: Standing) -> bool:
        return not standing.may_count.any()

    def sentence(self, facts: Facts) -> str:
        return "No arm gains enough on the in-domain suites to be worth training: keep the base model."

    def reasons(self, judged: Judged) -> list[str]:
        most = int(np.argmax(judged.bounds.gain_high))
        return [
            f"No arm learns as much as {counted_points(judged.decision.min_gain)}: the most that any may have learned "
            f"is {reason_decimal(judged.bounds.gain_high[most])} points ({judged.arms[most].label})."
        ]


class Tradeoff(VerdictKind):
    """Every arm that may gain `min_gain` surely forgets more than the margin."""

    name, title, tone = "tradeoff", "A trade-off", "bad"
    reasons_with_answer = True

    def holds(self, standing: Standing) -> bool:
        return bool(standing.ineligible[standing.may_count].all())

    def sentence(self, facts: Facts) -> str:
        named = f", among {listing(facts.candidates)}" if facts.candidates else ""
        return f"Every arm that may gain enough forgets more than the margin allows, so the choice is yours{named}."

    def reasons(self, judged: Judged) -> list[str]:
        return [
            f"Every arm that may learn {counted_points(judged.decision.min_gain)} forgets more than your margin of "
            f"{reason_points(judged.decision.retention_margin)}: there is a price to pay, and only you know what it is "
            "worth.",
            *(
                f"On the front: {judged.arms[a].label} learns {reason_decimal(judged.gain[a])} points for "
                f"{reason_decimal(judged.lost[a])} forgotten ({judged.lost[a] / judged.gain[a]:.2f} forgotten for each "
                "point learned)."
                for a in pareto_front(judged.gain, judged.lost)
            ),
        ]


class SmallestGoodEnough(VerdictKind):
    """An arm surely gains, surely keeps what it must and is surely good enough: the one with the fewest trainable
    parameters is recommended, and cheaper ones that are not settled are its candidates."""

    name, title, tone = "recommended", "Recommended", "good"

    def holds(self, standing: Standing) -> bool:
        return bool(self._winners(standing).any())

    def named(self, standing: Standing) -> tuple[int | None, list[int]]:
        cost = standing.cost
        chosen = min(indices(self._winners(standing)), key=lambda a: (cost[a], -standing.preference[a], a))
        return chosen, [a for a in standing.in_contention() if cost[a] < cost[chosen]]

    def _winners(self, standing: Standing) -> Truths:
        return standing.eligible & standing.good_enough & standing.surely_gains & ~standing.refuted

    def headline(self, facts: Facts) -> str:
        return self.title if facts.recommended is None else f"{self.title}: {facts.recommended.label}"

    def sentence(self, facts: Facts) -> str:
        chosen = facts.recommended
        assert chosen is not None
        trained = f"training {parameters(chosen.trainable_parameters)} parameters"
        arm = next((arm for arm in facts.arms if arm.label == chosen.label), None)
        if arm is None:
            return f"Use {chosen.label}, {trained}."
        lost = interval_points(arm.forgetting, sign=False)
        better = ", below 0 being an improvement" if (arm.forgetting.mean or 0.0) < 0 else ""
        return f"Use {chosen.label}: it gains {interval_points(arm.gain)} and forgets {lost}{better}, {trained}."

    def reasons(self, judged: Judged) -> list[str]:
        ruling, decision = judged.ruling, judged.decision
        assert ruling.recommended is not None
        chosen = judged.arms[ruling.recommended]
        said = [
            f"{chosen.label} ({chosen.trainable_parameters:,} trainable parameters) is the smallest arm that surely "
            f"learns, surely forgets at most {counted_points(decision.retention_margin)} and is surely less than "
            f"{counted_points(decision.task_margin)} behind every rival."
        ]
        if ruling.candidates:
            names = ", ".join(judged.arms[a].label for a in ruling.candidates)
            said.append(f"Cheaper, and not settled by this evidence: {names}.")
        return said


class CannotDistinguish(VerdictKind):
    """The rest: some arms may be the answer, and the evidence cannot tell which."""

    name, title, tone = "cannot_distinguish", "Not decided yet", "open"
    decided = False
    reasons_with_answer = True

    def holds(self, standing: Standing) -> bool:
        return True

    def named(self, standing: Standing) -> tuple[int | None, list[int]]:
        return None, standing.in_contention()

    def sentence(self, facts: Facts) -> str:
        verb = "remains" if len(facts.candidates) == 1 else "remain"
        remain = f": {listing(facts.candidates)} {verb} possible" if facts.candidates else ""
        return " ".join(
            [f"The evidence cannot tell the arms apart yet{remain}.", *what_would_decide(facts.more_needed)]
        )

    def reasons(self, judged: Judged) -> list[str]:
        names = ", ".join(judged.arms[a].label for a in judged.ruling.candidates)
        return ["The evidence cannot tell yet." + (f" Still possible: {names}." if names else "")]


CANNOT_DISTINGUISH = CannotDistinguish()
KINDS: tuple[VerdictKind, ...] = (NoGain(), Tradeoff(), SmallestGoodEnough(), CANNOT_DISTINGUISH)
"""In the order in which they are asked: an arm whose gain is sure to be below `min_gain` is not recommended for being
surely above 0 where no arm, or none that keeps what it must, may gain enough."""


# ---- the rule -------------------------------------------------------------------------------------------------------


def judge(limits: Bounds, cost: Sequence[float], preference: Sequence[float], decision: Decision) -> Ruling:
    """Applies the rule to the bounds of N arms.

    `cost` (N,) is trainable parameters; where equal, the higher `preference` (observed gain) goes first.
    """
    standing = stand(limits, cost, preference, decision)
    kind = next(kind for kind in KINDS if kind.holds(standing))
    recommended, candidates = kind.named(standing)
    return Ruling(kind, recommended, tuple(candidates), standing)


def rule_on(measured: Measured, widths: Widths, cost: Sequence[float], decision: Decision) -> Ruling:
    """Applies the rule to means and half widths; arms in order of `cost`."""
    preference = measured.gain.mean if measured.gain is not None else np.zeros(measured.arm_count)
    return judge(bounds(measured, widths), cost, [float(value) for value in preference], decision)
