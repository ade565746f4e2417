"""Statistical power: what a design can see, what would decide it, and what a study can tell before any of its runs.

Everything is the closed form of `crossed_statistics.py` with other numbers of seeds and items plugged in: from the
estimates of a study where there are some, from assumed variances where a study is only planned. docs/measures.md,
"Intervals and bounds" and "Before the runs", has the formulas.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from rankscope.decide.crossed_statistics import Estimates, half_width
from rankscope.decide.gain_and_forgetting import Measured, Widths, nominal_alpha, simultaneous_alpha
from rankscope.decide.verdict_kinds import rule_on
from rankscope.records import DetectableEffect, MoreNeeded, Plan, PlannedPower
from rankscope.study.study import Decision

Floats = NDArray[np.float64]

POWER = 0.8
MOST_SEEDS = 32
MOST_MORE_ITEMS = 100_000
MOST_ITEMS = 1_000_000
LUCKY_SHARE = 0.75
FEWEST_SEEDS_TO_TRUST = 3
"""What a study of one seed is told to go to: below it the seed variance is a guess (see docs/measures.md)."""


def detectable(measured: Measured, alpha: float) -> DetectableEffect:
    """The smallest true difference found with 80 % power by a bound at `alpha`, from the mean variance over arms.

    gain: between two arms (or an arm and the base, where there is one arm); forgetting: from the retention margin.
    (t of the decision's error + normal quantile of 0.8) x standard error. None for a single seed.
    """
    return DetectableEffect(
        gain=_effect(measured.differences or measured.gain, alpha), forgetting=_effect(measured.forgetting, alpha)
    )


def _effect(part: Estimates | None, alpha: float) -> float | None:
    if part is None or part.seed_variance is None or min(part.unit_counts) < 2:
        return None
    error = math.sqrt(float(part.variance.mean()))
    bound = float(np.sqrt((part.half_width(alpha) ** 2).mean()))
    return bound + float(norm.ppf(POWER)) * error


def planned_half_width(part: Estimates, alpha: float, seeds: int, more_items: int) -> Floats:
    """Half widths (C,) of C contrasts with `seeds` seeds and `more_items` more items in every suite, were the estimates
    true. Raises ValueError for estimates of a single seed."""
    if part.seed_variance is None:
        raise ValueError("one seed does not say how seeds vary")
    counts = np.asarray(part.item_counts, dtype=float)[:, None]
    stretch = counts / (counts + more_items)
    items = np.maximum(part.item_variance - part.residual_variance / part.seed_count, 0.0)
    residual = part.residual_variance * stretch
    item_variance = items * stretch + residual / seeds
    from_seeds = np.maximum(part.seed_variance - part.residual_variance.sum(axis=0), 0.0)
    seed_variance = from_seeds + residual.sum(axis=0)
    seed_df = part.seed_df * (seeds - 1) / (part.seed_count - 1)
    variance = item_variance.sum(axis=0) + seed_variance / seeds
    new_counts = [
        round(units * (items + more_items) / items)
        for units, items in zip(part.unit_counts, part.item_counts, strict=True)
    ]
    return half_width(variance, item_variance, seed_variance, seed_df, seeds, new_counts, alpha)


def planned_widths(measured: Measured, alpha: float, seeds: int, more_items: int, share: float = 1.0) -> Widths:
    """`planned_half_width` of gain, forgetting and differences, times `share`."""
    gain, forgetting, differences = (
        None if part is None else share * planned_half_width(part, alpha, seeds, more_items)
        for part in (measured.gain, measured.forgetting, measured.differences)
    )
    return gain, forgetting, differences


def could_decide(measured: Measured, cost: Sequence[float], decision: Decision, alpha: float, seeds: int) -> bool:
    """Whether `seeds` seeds may decide: at these estimates, with bounds only `LUCKY_SHARE` as wide as expected.

    Stopping where not costs some power and no error: nothing is claimed by it.
    """
    widths = planned_widths(measured, alpha, seeds, 0, LUCKY_SHARE)
    return rule_on(measured, widths, cost, decision).kind.decided


def more_needed(measured: Measured, cost: Sequence[float], decision: Decision, alpha: float) -> MoreNeeded:
    """How many more seeds, or more items in every suite, would decide by bounds at `alpha`, were the estimates true.

    None where no number up to 32 seeds or 100,000 items would. A single seed asks for two more.
    """
    if measured.gain is None or measured.gain.seed_count < 2:
        seeds = None if measured.gain is None else FEWEST_SEEDS_TO_TRUST - measured.gain.seed_count
        return MoreNeeded(seeds=seeds, items=None)
    present = measured.gain.seed_count

    def decides(seeds: int, items: int) -> bool:
        widths = planned_widths(measured, alpha, seeds, items)
        return rule_on(measured, widths, cost, decision).kind.decided

    seeds = next((extra for extra in range(1, MOST_SEEDS - present + 1) if decides(present + extra, 0)), None)
    return MoreNeeded(seeds=seeds, items=_smallest(lambda items: decides(present, items), MOST_MORE_ITEMS))


def _smallest(holds: Callable[[int], bool], most: int) -> int | None:
    """The smallest number from 1 on that holds, found by doubling, then bisecting; None where `most` does not."""
    high = 1
    while not holds(high):
        if high >= most:
            return None
        high = min(2 * high, most)
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


# ---- before any run -------------------------------------------------------------------------------------------------


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
