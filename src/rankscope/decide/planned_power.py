"""What a study can be expected to tell before any of its runs, on assumed variances (docs/measures.md).

It is the closed form of `larger_study.py` with the variances of a known study in place of estimates.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

from rankscope.decide.crossed_statistics import Estimates
from rankscope.decide.error_spending import nominal_alpha, simultaneous_alpha
from rankscope.decide.larger_study import planned_half_width
from rankscope.decide.statistical_power import MOST_SEEDS, POWER
from rankscope.records import Plan, PlannedPower
from rankscope.study.study import Decision

MOST_ITEMS = 1_000_000


@dataclass(frozen=True)
class Assumed:
    """Variances of one contrast: of an item's mean over seeds, of item x seed, and the seeds' standard deviation."""

    item: float
    residual: float
    seed_sd: float


DIFFERENCE = Assumed(item=0.04, residual=0.17, seed_sd=0.03)
FORGETTING = Assumed(item=0.05, residual=0.08, seed_sd=0.02)
"""As the demo's predictions have them: medians over suites, arms and three worlds (docs/log.md)."""


@dataclass(frozen=True)
class Design:
    """A planned comparison: arms, seeds, items of each suite in the domain and outside, looks of adaptive seeds."""

    arms: int
    seeds: int
    in_domain: Sequence[int]
    others: Sequence[int]
    decision: Decision
    looks: tuple[int, ...] = ()

    def bounds(self, seeds: int, stretch: float = 1.0) -> tuple[tuple[float, float], tuple[float, float]]:
        """(half width of a bound, standard error) of a difference of gain, and of forgetting."""
        alpha = nominal_alpha(simultaneous_alpha(self.decision.confidence, self.arms), self.looks)
        gain = assumed_bound(DIFFERENCE, self.in_domain, self.arms, seeds, alpha, stretch)
        return gain, assumed_bound(FORGETTING, self.others, self.arms, seeds, alpha, stretch)

    def chances(self, seeds: int, stretch: float = 1.0) -> tuple[float, float]:
        """That an equal arm is found good enough, and that one which forgets nothing is found eligible."""
        margins = (self.decision.task_margin, self.decision.retention_margin)
        found = zip(margins, self.bounds(seeds, stretch), strict=True)
        good, kept = (float(norm.cdf((margin - half) / error)) for margin, (half, error) in found)
        return (good if self.arms > 1 else 1.0), (kept if self.others else 0.0)

    def expected_runs(self) -> int | None:
        """Runs that adaptive seeds take where all arms are equal and none forgets; None without adaptive seeds."""
        if not self.looks:
            return None
        left = [1.0, *(1.0 - math.prod(self.chances(count)) for count in self.looks[:-1])]
        grown = np.diff([0, *self.looks])
        return round(float(self.arms * sum(add * share for add, share in zip(grown, left, strict=True))))


def planned_power(plan: Plan, decision: Decision) -> list[PlannedPower]:
    """What a plan can be expected to tell: one row for each base model and training set that can be decided on."""
    found = []
    for model, train_set in sorted({(run.model, run.train_set) for run in plan.runs}):
        mine = [run for run in plan.runs if (run.model, run.train_set) == (model, train_set) and run.fits]
        arms = len({run.arm.label for run in mine})
        seeds = len({run.seed for run in mine})
        domain = next(facts.domain for facts in plan.train_sets if (facts.model, facts.name) == (model, train_set))
        suites = [suite for suite in plan.suites if suite.model == model and suite.form != "text"]
        suites = [suite for suite in suites if suite.metric == "score"]  # of losses no variance is known beforehand
        inside = [suite.item_count for suite in suites if suite.domain is not None and suite.domain == domain]
        chosen = plan.choice_of(model, train_set).select_counts  # items that choose settings do not judge
        outside = [suite for suite in suites if suite.domain is None or suite.domain != domain]
        others = [suite.item_count - chosen.get(suite.name, 0) for suite in outside]
        if arms and seeds >= 2 and inside:
            design = Design(arms, seeds, inside, others, decision, tuple(plan.looks))
            found.append(design_power(design, model, train_set))
    return found


def design_power(design: Design, model: str, train_set: str) -> PlannedPower:
    """The power of one design, and the seeds or items that would bring both chances to four in five."""

    def enough(seeds: int, stretch: float = 1.0) -> bool:
        return min(design.chances(seeds, stretch)) >= POWER

    smallest = min([*design.in_domain, *design.others])
    steps = [2 ** (power / 4) for power in range(80) if 2 ** (power / 4) * smallest <= MOST_ITEMS]
    stretch = next((step for step in steps if enough(design.seeds, step)), None)
    (half, error), (half_kept, error_kept) = design.bounds(design.seeds)
    good, kept = design.chances(design.seeds)
    power = PlannedPower(
        model=model,
        train_set=train_set,
        arms=design.arms,
        seeds=design.seeds,
        in_domain_items=sum(design.in_domain),
        other_items=sum(design.others),
        detectable_gain=half + float(norm.ppf(POWER)) * error,
        detectable_forgetting=half_kept + float(norm.ppf(POWER)) * error_kept if design.others else None,
        chance_good_enough=good,
        chance_eligible=kept,
        seeds_for_power=next((count for count in range(design.seeds, MOST_SEEDS + 1) if enough(count)), None),
        items_for_power=None if stretch is None else math.ceil(stretch * smallest),
        expected_runs=design.expected_runs(),
    )
    return power.model_copy(update={"said": power_sentences(power, design.decision)})


def assumed_bound(
    assumed: Assumed, items: Sequence[int], arms: int, seeds: int, alpha: float, stretch: float = 1.0
) -> tuple[float, float]:
    """Half width of a bound at `alpha`, and the standard error, with `stretch` times the items of every suite."""
    if not items:
        return math.inf, 1.0
    counts = tuple(max(2, round(stretch * count)) for count in items)
    weight = 1.0 / len(counts) ** 2
    sizes = np.array(counts, dtype=float)[:, None]
    residual = weight * assumed.residual / sizes
    part = Estimates(
        mean=np.zeros(1),
        item_variance=weight * assumed.item / sizes + residual / seeds,
        residual_variance=residual,
        own_seed_variance=None,
        seed_variance=np.array([assumed.seed_sd**2]) + residual.sum(axis=0),
        seed_df=np.array([max(arms - 1.0, 1.0) * (seeds - 1)]),
        seed_count=seeds,
        item_counts=counts,
        unit_counts=counts,
    )
    half = float(planned_half_width(part, alpha, seeds, 0)[0])
    return half, float(np.sqrt(part.variance[0]))


def power_sentences(power: PlannedPower, decision: Decision) -> list[str]:
    """The plan's power in plain words."""
    chances = (
        f"{power.chance_good_enough:.0%} that an arm as good as the best is found to be within "
        f"{100 * decision.task_margin:g} points of it, {power.chance_eligible:.0%} that one that forgets nothing is "
        f"found to forget at most {100 * decision.retention_margin:g}"
    )
    said = [
        f"{power.train_set}: with {power.seeds} seeds and {power.in_domain_items:,} in-domain items the chances are "
        f"{chances}; a difference of {100 * power.detectable_gain:.1f} points in gain is found four times in five."
    ]
    if min(power.chance_good_enough, power.chance_eligible) < POWER:
        ways = [] if power.seeds_for_power is None else [f"{power.seeds_for_power} seeds"]
        if power.items_for_power is not None:
            ways.append(f"{power.items_for_power:,} items in the smallest suite and more in the others alike")
        said.append(f"Both would be four in five with {' or '.join(ways) if ways else 'wider margins only'}.")
    if power.expected_runs is not None:
        said.append(f"About {power.expected_runs} runs are expected, were all arms equal and did none forget.")
    return said
