"""Simulated studies with known truth, for calibration.py.

A study is drawn from a probit model: the latent score of an arm on an item is the arm's level + the item's difficulty
(shared by all arms and the base) + arm x item + the seed's effect (partly shared by the arms, which see the same order
of rows) + noise; the item is right where it is above 0. Accuracies over all items and seeds are then known exactly.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from rankscope.decide.chance_level import nothing_to_forget
from rankscope.decide.looks import Evidence, follow
from rankscope.decide.paired_items import Pairing, SuiteScores
from rankscope.decide.run_outcomes import ArmFacts
from rankscope.records import ArmCost, Metric
from rankscope.study.study import AdaptiveSeeds, Decision

Floats = NDArray[np.float64]

LOOKS = (3, 5, 8)


@dataclass(frozen=True)
class Spread:
    """Standard deviations on the latent scale. Two seeds of an arm correlate by (item² + arm_item²) / total², two arms
    by (item² + shared arm_item²) / total²."""

    item: float = 1.0
    arm_item: float = 0.5
    arm_item_shared: float = 0.64
    noise: float = 0.5


ALIKE = Spread()
"""Arms that agree on most items: 0.83 between seeds, 0.77 between arms."""

DEMO = Spread(item=0.707, arm_item=0.316, arm_item_shared=0.0, noise=0.632)
"""As the demo's predictions over three worlds have it (tetrachoric correlations, medians over suites): 0.6 between
seeds of an arm, 0.5 between arms, 0.45 between base and arm."""


@dataclass(frozen=True)
class Scenario:
    """Truth of a study, arms from the fewest parameters to the most; levels are accuracies over items and seeds.

    seed_sd: spread of the seeds on the latent scale, per arm (0.1 moves an accuracy of 0.7 by about 2 points);
    seed_correlation: how much of a seed's effect the arms share.
    """

    name: str
    learned: tuple[float, ...]
    kept: tuple[float, ...]
    base_task: float = 0.30
    base_kept: float = 0.85
    seeds: int = 3
    items: int = 1000
    in_suites: int = 1
    out_suites: int = 2
    seed_sd: tuple[float, ...] = (0.06,)
    seed_correlation: float = 0.3
    spread: Spread = ALIKE
    at_chance: int = 0
    """Suites outside the domain on which base and arms guess among four, beside those of `out_suites`."""
    looks: tuple[int, ...] = LOOKS
    metric: Metric = "score"

    @property
    def gain(self) -> Floats:
        return np.array(self.learned) - self.base_task

    @property
    def lost(self) -> Floats:
        return self.base_kept - np.array(self.kept)

    def bad(self, decision: Decision) -> NDArray[np.bool_]:
        """Which arms it is wrong to recommend: they forget too much, are too far behind, or gain nothing."""
        margins = decision.margins(self.metric)
        keeps = self.lost <= margins.retention
        best = self.gain[keeps].max() if keeps.any() else -np.inf
        return ~keeps | (self.gain < best - margins.task) | (self.gain <= 0)

    def draw(self, rng: np.random.Generator, seeds: int) -> Drawn:
        """A study of this truth."""
        return draw(rng, self, seeds)


@dataclass(frozen=True)
class Drawn:
    """One study: its suites, and each arm's validation loss on the task (up to a constant), mean over `seeds` seeds."""

    suites: tuple[SuiteScores, ...]
    validation_loss: Floats


def draw(rng: np.random.Generator, scenario: Scenario, seeds: int) -> Drawn:
    """A study of this truth with `seeds` seeds, which act alike on all suites of a relation."""
    task, task_level = _suites(
        rng, scenario, scenario.learned, scenario.base_task, scenario.in_suites, seeds, "in-domain"
    )
    kept, _ = _suites(rng, scenario, scenario.kept, scenario.base_kept, scenario.out_suites, seeds, "out-of-domain")
    kept += [_guessed(rng, scenario, seeds, number) for number in range(scenario.at_chance)]
    loss = -task_level.mean(axis=1) + 0.05 * rng.normal(size=len(scenario.learned))
    return Drawn((*task, *kept), loss)


def _suites(
    rng: np.random.Generator, scenario: Scenario, levels: tuple[float, ...], base: float, count: int, seeds: int,
    relation: str,
) -> tuple[list[SuiteScores], Floats]:  # fmt: skip
    """The suites, and the latent level (arms, seeds)."""
    arms, spread = len(levels), scenario.spread
    seed_sd = np.broadcast_to(np.array(scenario.seed_sd), (arms,))
    rho = scenario.seed_correlation
    shared, own = rng.normal(size=seeds), rng.normal(size=(arms, seeds))
    moved = seed_sd[:, None] * (np.sqrt(rho) * shared + np.sqrt(1 - rho) * own)
    total = np.sqrt(spread.item**2 + spread.arm_item**2 + spread.noise**2 + seed_sd**2)
    centre = ndtri(np.array(levels)) * total
    base_sd = np.sqrt(spread.arm_item**2 + spread.noise**2)
    base_centre = ndtri(base) * np.sqrt(spread.item**2 + base_sd**2)
    suites = []
    for number in range(count):
        item = rng.normal(size=scenario.items) * spread.item
        drift = np.sqrt(spread.arm_item_shared) * rng.normal(size=scenario.items)
        drift = drift + np.sqrt(1 - spread.arm_item_shared) * rng.normal(size=(arms, scenario.items))
        latent = (centre[:, None] + item + spread.arm_item * drift)[:, None, :] + moved[:, :, None]
        latent = latent + spread.noise * rng.standard_normal((arms, seeds, scenario.items), dtype=np.float32)
        right = base_centre + item + rng.normal(size=scenario.items) * base_sd > 0
        suites.append(
            SuiteScores(f"{relation}-{number}", None, relation, "recall", (), right.astype(float), (latent > 0) * 1.0)  # type: ignore[arg-type]
        )
    return suites, centre[:, None] + moved


def _guessed(rng: np.random.Generator, scenario: Scenario, seeds: int, number: int) -> SuiteScores:
    """A suite of questions with four choices on which everybody guesses; left out of the mean as a real one is."""
    shape = (len(scenario.learned), seeds, scenario.items)
    base, scores = (1.0 * (rng.random(size) < 0.25) for size in (scenario.items, shape))
    reason = nothing_to_forget(f"guessed-{number}", base, 0.25)
    suite = SuiteScores(f"guessed-{number}", None, "out-of-domain", "recall", (), base, scores)
    return replace(suite, chance=0.25, left_out_of_mean=reason)


def judged(drawn: Drawn, arm_count: int, seed_count: int, decision: Decision, looks: tuple[int, ...] = ()) -> Evidence:
    """What the verdict makes of it: at `seed_count` seeds, or look by look; by the code of a real study."""
    labels = tuple(f"arm-{a}" for a in range(arm_count))
    facts = {label: _facts(label, 1000 * (a + 1)) for a, label in enumerate(labels)}

    def compared(count: int, arms: AbstractSet[str]) -> tuple[Pairing, Iterable[str]]:
        kept = [a for a, label in enumerate(labels) if label in arms]
        suites = tuple(replace(suite, scores=suite.scores[kept, :count]) for suite in drawn.suites)
        names = tuple(labels[a] for a in kept)
        pairing = Pairing("m", "t", names, tuple(range(count)), suites, tuple(facts[name] for name in names))
        return pairing, [f"{name}-s{k}" for name in names for k in range(count)]

    return follow(compared, set(labels), seed_count, decision, looks)


def _facts(label: str, parameters: int) -> ArmFacts:
    cost = ArmCost(train_seconds=None, search_seconds=None, peak_memory_bytes=None, adapter_bytes=None)
    return ArmFacts(label, "lora", None, None, None, None, parameters, (), cost, None, None, None)


GOOD = (0.84,) * 6
EQUAL = (0.70,) * 6
RISING = (0.55, 0.60, 0.65, 0.69, 0.70, 0.70)
JUST_INFERIOR = (0.6695,) * 5 + (0.70,)
JUST_TOO_MUCH = (0.8195,) * 6
UNEVEN = (0.03, 0.04, 0.05, 0.06, 0.08, 0.12)
UNSTABLE = (0.25, 0.03, 0.03, 0.03, 0.03, 0.03)
FROM_TWO = AdaptiveSeeds(start=2, max=8).looks
DEMO_LEARNED = (0.54, 0.78, 0.84, 0.95, 0.98)
DEMO_KEPT = (0.861, 0.853, 0.555, 0.843, 0.504)
DEMO_SEEDS = (0.15, 0.10, 0.12, 0.10, 0.08)

SCENARIOS = (
    Scenario("equal arms", EQUAL, GOOD),
    Scenario("rising with rank", RISING, GOOD),
    Scenario("five just inferior", JUST_INFERIOR, GOOD),
    Scenario("five just inferior, 200 items", JUST_INFERIOR, GOOD, items=200),
    Scenario("five just inferior, 2,000 items", JUST_INFERIOR, GOOD, items=2000, seed_sd=(0.02,)),
    Scenario("five just inferior, seeds shared", JUST_INFERIOR, GOOD, items=2000, seed_correlation=0.8),
    Scenario("all forget just too much", EQUAL, JUST_TOO_MUCH),
    Scenario("all forget just too much, 2,000 items", EQUAL, JUST_TOO_MUCH, items=2000, seed_sd=(0.02,)),
    Scenario("trade-off", RISING, (0.84, 0.82, 0.80, 0.78, 0.76, 0.70)),
    Scenario("uneven seeds", RISING, (0.845, 0.84, 0.83, 0.82, 0.81, 0.78), seed_sd=UNEVEN),
    Scenario("uneven seeds, just inferior", JUST_INFERIOR, GOOD, seed_sd=UNEVEN, items=2000),
    Scenario("quiet seeds", EQUAL, GOOD, seed_sd=(0.005,), items=2000),
    Scenario("rare flips, 200 items", EQUAL, (0.985,) * 6, base_kept=0.99, seed_sd=(0.01,), items=200),
    Scenario("no gain", (0.30,) * 6, GOOD, items=2000, seed_sd=(0.02,)),
    Scenario("two seeds", JUST_INFERIOR, GOOD, seeds=2),
    Scenario("two seeds, one unstable arm", EQUAL, JUST_TOO_MUCH, seeds=2, seed_sd=UNSTABLE),
    Scenario("one unstable arm", EQUAL, JUST_TOO_MUCH, seed_sd=UNSTABLE),
    Scenario("one unstable arm just inferior", (0.6695, *EQUAL[1:]), GOOD, seed_sd=UNSTABLE, items=2000),
    Scenario("looks asked to begin with two, one unstable arm", EQUAL, JUST_TOO_MUCH, seed_sd=UNSTABLE, looks=FROM_TWO),
    Scenario("two suites at chance, forget just too much", EQUAL, JUST_TOO_MUCH, out_suites=1, at_chance=2),
    Scenario("five seeds", RISING, GOOD, seeds=5),
    Scenario("five seeds, just inferior", JUST_INFERIOR, GOOD, seeds=5, items=2000),
    Scenario("one arm", (0.5,), (0.8195,)),
    Scenario("two arms, just inferior", (0.6695, 0.70), (0.84, 0.84)),
    Scenario(
        "as the demo", DEMO_LEARNED, DEMO_KEPT, 0.25, 0.93, items=300, out_suites=5, seed_sd=DEMO_SEEDS,
        seed_correlation=0.1, spread=DEMO,
    ),
    Scenario("demo's spread, equal arms", EQUAL, GOOD, seed_sd=(0.1,), seed_correlation=0.1, spread=DEMO),
    Scenario(
        "demo's spread, just inferior, 2,000", JUST_INFERIOR, GOOD, items=2000, seed_sd=(0.05,), seed_correlation=0.1,
        spread=DEMO,
    ),
    Scenario(
        "demo's spread, forget just too much", EQUAL, JUST_TOO_MUCH, items=2000, seed_sd=(0.05,), seed_correlation=0.1,
        spread=DEMO,
    ),
)  # fmt: skip
