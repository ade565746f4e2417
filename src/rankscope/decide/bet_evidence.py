"""From what each arm showed to the best bet: draws of the truth, the bet, the runs that would help, and the record."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rankscope.decide import bet_words
from rankscope.decide.best_bet import (
    COST_SHARE,
    Axes,
    Bet,
    LeastBad,
    Outcomes,
    doublings,
    judge_draws,
    least_bad,
    place_bet,
)
from rankscope.decide.bet_likelihood import Observed, observe
from rankscope.decide.bet_next_runs import Wanted, next_arms, wanted
from rankscope.decide.bet_posterior import Place, Prior, draw_truths, make_prior, seed_scales
from rankscope.decide.bet_suites import Unit, all_seeds, units_of
from rankscope.decide.bet_words import Told
from rankscope.decide.looks import Evidence
from rankscope.decide.paired_items import Frames
from rankscope.decide.run_outcomes import ArmFacts
from rankscope.records import BestBet, BetSetting, LeastBadArm, NextRuns
from rankscope.study.methods import METHODS
from rankscope.study.study import Decision

Floats = NDArray[np.float64]

DRAWS = 4000
SEED = 20_251_126
"""The draws are the same whenever the same records are looked at."""
ASSUMED_SEED_SD = 2.0
"""Points: how much one arm's seeds are taken to scatter where there is one seed (docs/measures.md, "Before the runs").
"""


@dataclass(frozen=True)
class Placed:
    """A bet with all that it rests on. `in_margins`: regrets are in margins, else in points."""

    arms: tuple[ArmFacts, ...]
    units: tuple[Unit, ...]
    axes: tuple[Axes, ...]
    seen: tuple[Observed, ...]
    truths: tuple[Floats, ...]
    outcomes: Outcomes
    bet: Bet
    in_margins: bool
    unknown: str | None
    """Why no probability can be said; None where one can."""

    @property
    def base(self) -> int:
        """The number of the base among the options."""
        return len(self.arms)

    @property
    def unit(self) -> Literal["accuracy", "margins"]:
        """What regrets are told in."""
        return "margins" if self.in_margins else "accuracy"

    @property
    def regret_scale(self) -> float:
        """What makes regrets shares of accuracy; they stay margins where they are."""
        return 1.0 if self.in_margins else 0.01

    def name(self, option: int) -> str:
        """An arm's label, or `base`."""
        return self.arms[option].label if option < self.base else bet_words.BASE


def place(evidence: Evidence, frames: Frames, decision: Decision) -> Placed | None:
    """The bet on what is known; None where no arm is compared or no suite is in the domain."""
    first = evidence.looks[0].pairing
    suites = all_seeds(first, frames)
    units = units_of(suites, decision)
    if not evidence.labels or not any(unit.inside for unit in units):
        return None
    arms = tuple(first.facts(label) for label in evidence.labels)
    rng = np.random.default_rng(SEED)
    prior = make_prior(places_of(arms))
    axes, seen, truths = [], [], []
    for unit in units:
        found = [_drawn(unit, inside, prior, rng) for inside in (True, False)]
        gain, lost = (None if one is None else one[1] for one in found)
        axes.append(Axes(gain, lost, unit.margins))
        seen += [one[0] for one in found if one is not None]
        truths += [one[1] for one in found if one is not None]
    in_margins = any(unit.metric != "score" for unit in units)
    outcomes = judge_draws(axes, in_margins=in_margins)
    cost = COST_SHARE * (1.0 if in_margins else 100 * decision.task_margin) * _doublings(arms)
    bet = place_bet(outcomes, cost, [arm.remedy is None for arm in arms])
    unknown = _unknown(evidence, seen, units)
    return Placed(arms, tuple(units), tuple(axes), tuple(seen), tuple(truths), outcomes, bet, in_margins, unknown)


def _drawn(unit: Unit, inside: bool, prior: Prior, rng: np.random.Generator) -> tuple[Observed, Floats] | None:
    """What was seen of gain (`inside`) or forgetting in a unit, and draws of its truth; None where nothing was."""
    suites = unit.inside if inside else unit.outside
    if not suites:
        return None
    seen = observe([suite.arrays for suite in suites], unit.gain_scale if inside else -unit.lost_scale)
    several = seen.seed_counts.max() > 1
    seen = seen if several else seen.with_seeds(ASSUMED_SEED_SD**2)
    truths = draw_truths(seen, prior, rng, DRAWS, seed_scales(seen.degrees) if several else None)
    floor = unit.floor[0 if inside else 1]
    return seen, truths + rng.uniform(-floor, floor, truths.shape) if floor > 0 else truths


def places_of(arms: Sequence[ArmFacts]) -> list[Place]:
    """Where the arms stand on the curve over rank: it is of the method that has the most ranks, without remedies."""
    ranked = Counter(arm.method for arm in arms if arm.rank)
    method = ranked.most_common(1)[0][0] if ranked else None
    return [
        Place(
            float(np.log2(arm.rank)) if arm.rank else None,
            apart=arm.method != method or not arm.rank or arm.remedy is not None,
        )
        for arm in arms
    ]


def _doublings(arms: Sequence[ArmFacts]) -> Floats:
    return doublings(
        [float(arm.trainable_parameters or 0) for arm in arms],
        [arm.method in METHODS and METHODS[arm.method].whole for arm in arms],
    )


def _unknown(evidence: Evidence, seen: Sequence[Observed], units: Sequence[Unit]) -> str | None:
    """Why nobody can say how likely the bet is to be right."""
    if evidence.last.pairing.unfinished:
        return "the study is not finished"
    if max(int(axis.seed_counts.max()) for axis in seen) < 2:
        return "with one seed nobody knows how much the result depends on the seed"
    if not any(unit.outside for unit in units):
        return "what the arms forget was not measured"
    if min(count for axis in seen for count in axis.item_counts) < 2:
        return "a suite of one item says nothing of others"
    return None


# ---- the runs that would help, and the record ------------------------------------------------------------------------


def next_runs(placed: Placed, most_seeds: int | None = None) -> Wanted:
    """One more seed for the arms that would help the bet most; `most_seeds`: arms that have so many get no more."""
    counts = placed.seen[0].seed_counts
    may = [most_seeds is None or count < most_seeds for count in counts.tolist()]
    arms = next_arms(placed.outcomes, placed.bet.option, may)
    rng = np.random.default_rng(SEED + 1)
    found = wanted(placed.truths, placed.seen, placed.outcomes, arms, rng)
    return found._replace(saving=found.saving * placed.regret_scale)


def arms_worth_a_seed(evidence: Evidence, frames: Frames, decision: Decision, most_seeds: int) -> list[str]:
    """The arms that get one more seed, none where a further run would save less than the study says that it must."""
    placed = place(evidence, frames, decision)
    if placed is None:
        return []
    more = next_runs(placed, most_seeds)
    runs = NextRuns(arms=[placed.name(a) for a in more.arms], saving=more.saving)
    return runs.arms if bet_words.is_worth(runs, placed.unit, decision) else []


def best_bet(evidence: Evidence, frames: Frames, decision: Decision, most_seeds: int | None = None) -> BestBet | None:
    """The best bet as verdict.json has it. `most_seeds`: with adaptive seeds the most that an arm gets."""
    placed = place(evidence, frames, decision)
    if placed is None:
        return None
    bet, base, unknown = placed.bet, placed.base, placed.unknown
    probability = None if unknown else float(bet.probability[bet.option])
    worst = least_bad(placed.axes, placed.outcomes) if bet.option == base else None
    more = next_runs(placed, most_seeds)
    runs = NextRuns(arms=[placed.name(a) for a in more.arms], saving=None if unknown else more.saving)
    return bet_words.worded(
        BestBet(
            label=placed.name(bet.option),
            setting=_setting(placed, bet.option),
            probability=probability,
            expected_regret=None if unknown else float(bet.regret[bet.option]) * placed.regret_scale,
            runner_up=None if bet.runner_up is None else placed.name(bet.runner_up),
            probability_base=None if unknown else float(bet.probability[base]),
            least_bad=None if worst is None else _least_bad(placed, worst),
            next_runs=runs if runs.arms else None,
            unit=placed.unit,
        ),
        Told(
            decision,
            tuple(unit.metric for unit in placed.units),
            unknown,
            {arm.label: int(count) for arm, count in zip(placed.arms, placed.seen[0].seed_counts, strict=True)},
        ),
    )


def _setting(placed: Placed, option: int) -> BetSetting | None:
    if option == placed.base:
        return None
    arm = placed.arms[option]
    return BetSetting(learning_rate=arm.learning_rate, dial=arm.dial)


def _least_bad(placed: Placed, worst: LeastBad) -> LeastBadArm:
    setting = _setting(placed, worst.arm)
    assert setting is not None
    kept = {
        unit.metric: margin / unit.lost_scale
        for unit, margin in zip(placed.units, worst.margins, strict=True)
        if margin is not None
    }
    return LeastBadArm(
        label=placed.name(worst.arm),
        setting=setting,
        retention_margin=kept.get("score"),
        retention_margin_nats=kept.get("loss"),
        probability=None if placed.unknown else worst.probability,
    )
