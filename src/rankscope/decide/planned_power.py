"""What a study can be expected to tell, before any of its runs: the closed form on assumed variances."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

from rankscope.decide.crossed_statistics import Estimates
from rankscope.decide.design_power import POWER, planned_half_width
from rankscope.decide.looks import nominal_alpha
from rankscope.decide.verdict_rule import simultaneous_alpha
from rankscope.records import Plan, PlannedPower
from rankscope.study.study import Decision

MOST_SEEDS = 32
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


def planned_power(plan: Plan, decision: Decision) -> list[PlannedPower]:
    """One row for each base model and training set of a plan."""
    found = []
    for model, train_set in sorted({(run.model, run.train_set) for run in plan.runs}):
        mine = [run for run in plan.runs if (run.model, run.train_set) == (model, train_set) and run.fits]
        arms = len({run.arm.label for run in mine})
        seeds = len({run.seed for run in mine})
        domain = next(facts.domain for facts in plan.train_sets if (facts.model, facts.name) == (model, train_set))
        suites = [suite for suite in plan.suites if suite.model == model and suite.form != "text"]
        inside = [suite.item_count for suite in suites if suite.domain is not None and suite.domain == domain]
        others = [suite.item_count for suite in suites if suite.domain is None or suite.domain != domain]
        if not arms or seeds < 2 or not inside:
            continue
        found.append(_one(model, train_set, arms, seeds, inside, others, decision, tuple(plan.looks)))
    return found


def _one(
    model: str, train_set: str, arms: int, seeds: int, inside: list[int], others: list[int], decision: Decision,
    looks: tuple[int, ...],
) -> PlannedPower:  # fmt: skip
    alpha = nominal_alpha(simultaneous_alpha(decision.confidence, arms), looks)
    asked = (DIFFERENCE, inside, decision.task_margin), (FORGETTING, others, decision.retention_margin)

    def bounds(count: int, stretch: float = 1.0) -> list[tuple[float, float]]:
        return [_bound(assumed, items, arms, count, alpha, stretch) for assumed, items, _ in asked]

    def chances(count: int, stretch: float = 1.0) -> tuple[float, float]:
        """That an equal arm is found good enough, and that one which forgets nothing is found eligible."""
        found = zip(asked, bounds(count, stretch), strict=True)
        good, kept = (float(norm.cdf((margin - half) / error)) for (_, _, margin), (half, error) in found)
        return (good if arms > 1 else 1.0), (kept if others else 0.0)

    def enough(count: int, stretch: float = 1.0) -> bool:
        return min(chances(count, stretch)) >= POWER

    good, kept = chances(seeds)
    more_seeds = next((count for count in range(seeds, MOST_SEEDS + 1) if enough(count)), None)
    smallest = min([*inside, *others])
    steps = [2 ** (power / 4) for power in range(80) if 2 ** (power / 4) * smallest <= MOST_ITEMS]
    stretch = next((step for step in steps if enough(seeds, step)), None)
    (half, error), (half_kept, error_kept) = bounds(seeds)
    expected = None
    if looks:
        left = [1.0, *(1.0 - math.prod(chances(count)) for count in looks[:-1])]
        grown = np.diff([0, *looks])
        expected = round(float(arms * sum(add * share for add, share in zip(grown, left, strict=True))))
    power = PlannedPower(
        model=model,
        train_set=train_set,
        arms=arms,
        seeds=seeds,
        in_domain_items=sum(inside),
        other_items=sum(others),
        detectable_gain=half + float(norm.ppf(POWER)) * error,
        detectable_forgetting=half_kept + float(norm.ppf(POWER)) * error_kept if others else None,
        chance_good_enough=good,
        chance_eligible=kept,
        seeds_for_power=more_seeds,
        items_for_power=None if stretch is None else math.ceil(stretch * smallest),
        expected_runs=expected,
    )
    return power.model_copy(update={"said": power_sentences(power, decision)})


def _bound(
    assumed: Assumed, items: list[int], arms: int, seeds: int, alpha: float, stretch: float = 1.0
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
        seed_df=float(max(arms - 1, 1) * (seeds - 1)),
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
