"""The kinds of answer that a verdict can be, each one value: when it holds, which arms it names, and all its words.

The words travel in verdict.json, so report, terminal and model card know no kind. A new kind is one more class here and
its place in KINDS. The same rule judges a study, its bootstrap, a planned study and a simulated one; docs/verdict.md
explains it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rankscope.decide.gain_and_forgetting import Measured, pareto_front
from rankscope.decide.recommended_words import ahead_and_out, lost_too_much, what_it_does
from rankscope.decide.run_outcomes import ArmFacts
from rankscope.decide.verdict_bounds import Bounds, Widths, bounds
from rankscope.decide.verdict_reasons import what_would_decide
from rankscope.decide.verdict_rule import Standing, Truths, indices, stand
from rankscope.records import ArmVerdict, Metric, MoreNeeded, Recommended, Tone
from rankscope.records.readable_numbers import (
    amount,
    bare_amount,
    listing,
    parameters,
    reason_amount,
)
from rankscope.study.study import Decision

Floats = NDArray[np.float64]


class Facts(NamedTuple):
    """What the words of an answer are made of, as verdict.json has it."""

    recommended: Recommended | None
    arms: Sequence[ArmVerdict]
    candidates: Sequence[str]
    more_needed: MoreNeeded
    decision: Decision = Decision()

    @property
    def chosen(self) -> ArmVerdict | None:
        """The recommended arm's row; None where nothing is recommended."""
        label = None if self.recommended is None else self.recommended.label
        return next((arm for arm in self.arms if arm.label == label), None)


class Judged(NamedTuple):
    """What the first reasons are made of. `observed` has for each unit that occurs the arms' observed gain and
    forgetting, (N,) each, NaN where there is none."""

    arms: Sequence[ArmFacts]
    observed: Mapping[Metric, tuple[Floats, Floats]]
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
        said = []
        for unit in (unit for unit in judged.bounds.units if unit.gain_known):
            most = int(np.argmax(unit.gain_high))
            least = amount(judged.decision.margins(unit.metric).least_gain, unit.metric)
            said.append(
                f"No arm learns as much as {least}: the most that any may have learned is "
                f"{amount(unit.gain_high[most], unit.metric, exact=False)} ({judged.arms[most].label})."
            )
        return said


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
        metrics, decision = list(judged.observed), judged.decision
        least = listing([amount(decision.margins(metric).least_gain, metric) for metric in metrics], "or")
        kept = listing([bare_amount(decision.margins(metric).retention, metric) for metric in metrics], "or")
        said = [
            f"Every arm that may learn {least} forgets more than your margin of {kept}: there is a price to pay, and "
            "only you know what it is worth."
        ]
        for metric, (gain, lost) in judged.observed.items():
            if np.isnan(gain).any() or np.isnan(lost).any():
                continue
            each = "for each point learned" if metric == "score" else "for each nat learned"
            said += [
                f"On the front: {judged.arms[a].label} learns {amount(gain[a], metric, exact=False)} for "
                f"{reason_amount(lost[a], metric)} forgotten ({lost[a] / gain[a]:.2f} forgotten {each})."
                for a in pareto_front(gain, lost)
            ]
        return said


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
        arm = facts.chosen
        return self.title if arm is None else f"{self.title}: {arm.label}{lost_too_much(arm, facts.decision)}"

    def sentence(self, facts: Facts) -> str:
        arm = facts.chosen
        assert arm is not None
        said = f"Use {arm.label}: {what_it_does(arm)}, training {parameters(arm.trainable_parameters)} parameters."
        return " ".join([said, *ahead_and_out(facts.arms, arm, facts.decision)])

    def reasons(self, judged: Judged) -> list[str]:
        ruling, decision = judged.ruling, judged.decision
        assert ruling.recommended is not None
        chosen = judged.arms[ruling.recommended]
        kept = listing([amount(decision.margins(metric).retention, metric) for metric in judged.observed])
        near = listing([amount(decision.margins(metric).task, metric) for metric in judged.observed])
        said = [
            f"{chosen.label} ({chosen.trainable_parameters:,} trainable parameters) is the smallest arm that surely "
            f"learns, surely forgets at most {kept} and is surely less than {near} behind every rival that may forget "
            "as little."
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

FEWEST_SEEDS = 3
"""From fewer seeds nothing is recommended: two do not tell an arm whose seeds scatter from one whose seeds do not."""


def judge(limits: Bounds, cost: Sequence[float], preference: Sequence[float], decision: Decision) -> Ruling:
    """Applies the rule to the bounds of N arms.

    `cost` (N,) is trainable parameters; where equal, the higher `preference` (observed gain) goes first.
    """
    standing = stand(limits, cost, preference, decision)
    kind = next(kind for kind in KINDS if kind.holds(standing))
    recommended, candidates = kind.named(standing)
    return Ruling(kind, recommended, tuple(candidates), standing)


def rule_on(
    measured: Measured, widths: Widths, cost: Sequence[float], decision: Decision, seeds: int | None = None
) -> Ruling:
    """Applies the rule to means and half widths, those of `seeds` seeds where it is another number than was measured;
    arms in order of `cost`."""
    preference = [float(value) for value in measured.observed_gain()]
    ruling = judge(bounds(measured, widths), cost, preference, decision)
    return trusted(ruling, measured.seed_count if seeds is None else seeds)


def trusted(ruling: Ruling, seeds: int) -> Ruling:
    """The ruling, but for a recommendation that rests on fewer than FEWEST_SEEDS seeds: that is undecided."""
    return undecided(ruling) if ruling.recommended is not None and seeds < FEWEST_SEEDS else ruling


def undecided(ruling: Ruling) -> Ruling:
    """The same standing of each arm, without an answer; the arms that remain are those not refuted."""
    return Ruling(CANNOT_DISTINGUISH, None, tuple(ruling.standing.in_contention()), ruling.standing)
