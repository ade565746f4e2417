"""From a study's runs to its best bet: what each arm showed, on all of its seeds, and the record of verdict.json.

The sure verdict compares arms on the seeds that they share; a bet takes every done seed of every arm that is compared.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rankscope.decide import bet_words
from rankscope.decide.best_bet import (
    COST_SHARE,
    Axes,
    Bet,
    LeastBad,
    Margins,
    Outcomes,
    doublings,
    judge_draws,
    least_bad,
    place_bet,
)
from rankscope.decide.bet_likelihood import Observed, observe
from rankscope.decide.bet_next_runs import Wanted, next_arms, wanted
from rankscope.decide.bet_posterior import Place, draw_truths, make_prior, seed_scales
from rankscope.decide.looks import Evidence
from rankscope.decide.paired_items import Frames, Pairing, SuiteScores, pair
from rankscope.decide.run_outcomes import ArmFacts, floor_of
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
PRIOR_MARGIN = 3.0
"""The scales of the prior are in points at a margin of three: what is in nats is scaled until its margin is that."""


class Unit(NamedTuple):
    """Suites that are judged in one unit. Gains times `gain_scale` and forgetting times `lost_scale` have `margins`;
    `floor`: what numerics alone may move them, scaled likewise."""

    inside: Sequence[SuiteScores]
    outside: Sequence[SuiteScores]
    gain_scale: float
    lost_scale: float
    margins: Margins
    floor: tuple[float, float]


@dataclass(frozen=True)
class Placed:
    """A bet with all that it rests on. `regret_scale` makes regrets shares of accuracy, or margins."""

    arms: tuple[ArmFacts, ...]
    axes: tuple[Axes, ...]
    seen: tuple[Observed, ...]
    truths: tuple[Floats, ...]
    outcomes: Outcomes
    bet: Bet
    regret_scale: float
    unknown: str | None
    """Why no probability can be said; None where one can."""

    @property
    def base(self) -> int:
        """The number of the base among the options."""
        return len(self.arms)

    def name(self, option: int) -> str:
        """An arm's label, or `base`."""
        return self.arms[option].label if option < self.base else bet_words.BASE


def units_of(suites: Sequence[SuiteScores], decision: Decision) -> list[Unit]:
    """The suites by the unit that they are judged in: points."""
    scored = [suite for suite in suites if suite.metric == "score"]
    inside = [suite for suite in scored if suite.relation == "in-domain"]
    outside = [suite for suite in scored if suite.relation != "in-domain" and suite.left_out_of_mean is None]
    margins = Margins(100 * decision.task_margin, 100 * decision.retention_margin, 100 * decision.min_gain)
    floor = floor_of([suite.noise for suite in inside], [suite.noise for suite in outside])
    return [Unit(inside, outside, 100.0, 100.0, margins, (100 * floor.gain, 100 * floor.forgetting))]


def place(evidence: Evidence, frames: Frames, decision: Decision) -> Placed | None:
    """The bet on what is known; None where no arm is compared or no suite is in the domain."""
    first = evidence.looks[0].pairing
    suites = all_seeds(first, frames)
    units = [unit for unit in units_of(suites, decision) if unit.inside]
    if not evidence.labels or not units:
        return None
    arms = tuple(first.facts(label) for label in evidence.labels)
    rng = np.random.default_rng(SEED)
    prior = make_prior(places_of(arms))
    axes, seen, truths = [], [], []
    for unit in units:
        gain = _observed(unit.inside, unit.gain_scale)
        lost = _observed(unit.outside, -unit.lost_scale) if unit.outside else None
        scales = seed_scales(gain.degrees) if gain.seed_counts.max() > 1 else None
        both = [
            _widened(draw_truths(one, prior, rng, DRAWS, scales), floor, rng)
            for one, floor in ((gain, unit.floor[0]), (lost, unit.floor[1]))
            if one is not None
        ]
        axes.append(Axes(both[0], both[1] if lost is not None else np.zeros_like(both[0]), unit.margins))
        seen += [gain] if lost is None else [gain, lost]
        truths += both
    outcomes = judge_draws(axes)
    cost = decision.task_margin * 100 * COST_SHARE * _doublings(arms)
    bet = place_bet(outcomes, cost, [True] * len(arms))
    return Placed(arms, tuple(axes), tuple(seen), tuple(truths), outcomes, bet, 0.01, _unknown(evidence, seen, suites))


def all_seeds(pairing: Pairing, frames: Frames) -> list[SuiteScores]:
    """The paired suites with every done seed of the compared arms: scores (N, K, I), NaN where an arm lacks a seed.

    Items that were not scored in all of these runs are left out of every arm.
    """
    own = {label: pairing.facts(label).seeds for label in pairing.labels}
    runs = frames.runs
    mine = runs[(runs["model"] == pairing.model) & (runs["train_set"] == pairing.train_set) & (runs["state"] == "done")]
    own = {label: tuple(sorted(int(s) for s in mine.loc[mine["arm"] == label, "seed"])) for label in own}
    if set(own.values()) <= {pairing.seeds}:
        return list(pairing.suites)
    groups = [
        pair(frames, model=pairing.model, train_set=pairing.train_set, only=[a for a in own if own[a] == seeds])
        for seeds in sorted(set(own.values()))
    ]
    seeds = sorted({seed for mine in own.values() for seed in mine})
    return [_merged(suite, groups, pairing.labels, seeds) for suite in pairing.suites]


def _merged(suite: SuiteScores, groups: Sequence[Pairing], labels: Sequence[str], seeds: Sequence[int]) -> SuiteScores:
    """One suite of several pairings, on the items that all of them have."""
    parts = [(group, next(s for s in group.suites if s.name == suite.name)) for group in groups]
    items = sorted(set.intersection(set(suite.item_ids), *(set(part.item_ids) for _, part in parts)))
    scores = np.full((len(labels), len(seeds), len(items)), np.nan)
    for group, part in parts:
        at = {item: place for place, item in enumerate(part.item_ids)}
        wanted_items = [at[item] for item in items]
        rows = [labels.index(label) for label in group.labels]
        columns = [seeds.index(seed) for seed in group.seeds]
        scores[np.ix_(rows, columns)] = part.scores[:, :, wanted_items]
    at = {item: place for place, item in enumerate(suite.item_ids)}
    kept = [at[item] for item in items]
    clusters = None if suite.clusters is None else np.unique(suite.clusters[kept], return_inverse=True)[1]
    return replace(suite, item_ids=tuple(items), base=suite.base[kept], scores=scores, clusters=clusters)


def _observed(suites: Sequence[SuiteScores], scale: float) -> Observed:
    seen = observe([suite.arrays for suite in suites], scale)
    return seen if seen.seed_counts.max() > 1 else seen.with_seeds(ASSUMED_SEED_SD**2)


def _widened(truths: Floats, floor: float, rng: np.random.Generator) -> Floats:
    """The draws, each moved by at most what numerics alone may move it."""
    return truths + rng.uniform(-floor, floor, truths.shape) if floor > 0 else truths


def places_of(arms: Sequence[ArmFacts]) -> list[Place]:
    """Where the arms stand on the curve over rank: it is of the method that has the most ranks."""
    ranked = Counter(arm.method for arm in arms if arm.rank)
    method = ranked.most_common(1)[0][0] if ranked else None
    return [
        Place(float(np.log2(arm.rank)) if arm.rank else None, apart=arm.method != method or not arm.rank)
        for arm in arms
    ]


def _doublings(arms: Sequence[ArmFacts]) -> Floats:
    return doublings(
        [float(arm.trainable_parameters or 0) for arm in arms],
        [arm.method in METHODS and METHODS[arm.method].whole for arm in arms],
    )


def _unknown(evidence: Evidence, seen: Sequence[Observed], suites: Sequence[SuiteScores]) -> str | None:
    """Why nobody can say how likely the bet is to be right."""
    if evidence.last.pairing.unfinished:
        return "the study is not finished"
    if max(int(axis.seed_counts.max()) for axis in seen) < 2:
        return "with one seed nobody knows how much the result depends on the seed"
    if all(suite.relation == "in-domain" for suite in suites):
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
        ),
        decision,
        unknown,
    )


def _setting(placed: Placed, option: int) -> BetSetting | None:
    if option == placed.base:
        return None
    arm = placed.arms[option]
    return BetSetting(learning_rate=arm.learning_rate, dial=arm.dial)


def _least_bad(placed: Placed, worst: LeastBad) -> LeastBadArm:
    setting = _setting(placed, worst.arm)
    assert setting is not None
    return LeastBadArm(
        label=placed.name(worst.arm),
        setting=setting,
        retention_margin=worst.margins[0] * placed.regret_scale,
        probability=None if placed.unknown else worst.probability,
    )
