"""Simulated studies of suites that are judged by their loss, with known truth and heavy tails, for calibration.py.

An arm's loss on an item is the base's + its mean change + item + seed + item x seed. Items are log-normal, so that a
few move very far, or Student's t with three degrees of freedom; shared by the arms to a part.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from simulated_studies import Drawn, Scenario

from rankscope.decide.paired_items import SuiteScores
from rankscope.records import Metric, Relation

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class LossScenario(Scenario):
    """`learned` and `kept` are minus the mean losses in nats per token of the arms, `base_...` those of the base."""

    base_task: float = -2.0
    base_kept: float = -2.0
    tail: Literal["log-normal", "t3"] = "log-normal"
    item_sd: float = 0.15
    noise_sd: float = 0.05
    shared: float = 0.6
    metric: Metric = "loss"

    def draw(self, rng: np.random.Generator, seeds: int) -> Drawn:
        """A study of this truth."""
        task = [self._suite(rng, self.learned, self.base_task, seeds, "in-domain", n) for n in range(self.in_suites)]
        kept = [self._suite(rng, self.kept, self.base_kept, seeds, "out-of-domain", n) for n in range(self.out_suites)]
        loss = np.mean([-suite.scores.mean(axis=(1, 2)) for suite in task], axis=0)
        return Drawn((*task, *kept), loss + 0.01 * rng.normal(size=len(self.learned)))

    def _suite(
        self, rng: np.random.Generator, levels: tuple[float, ...], base: float, seeds: int, relation: Relation, n: int
    ) -> SuiteScores:
        arms = len(levels)
        difficulty = base - rng.gamma(4.0, 0.25, self.items) + 1.0
        own, common = self._tails(rng, (arms, self.items)), self._tails(rng, (1, self.items))
        moved = self.item_sd * (np.sqrt(self.shared) * common + np.sqrt(1 - self.shared) * own)
        seed_sd = np.broadcast_to(np.array(self.seed_sd), (arms,))
        by_seed = seed_sd[:, None] * rng.normal(size=(arms, seeds))
        change = np.array(levels)[:, None, None] - base + by_seed[:, :, None]
        change = change - moved[:, None, :] + self.noise_sd * rng.normal(size=(arms, seeds, self.items))
        return SuiteScores(f"{relation}-{n}", None, relation, None, (), difficulty, difficulty + change, metric="loss")

    def _tails(self, rng: np.random.Generator, shape: tuple[int, int]) -> Floats:
        """Mean 0 and variance 1; what is far away is a loss that rises."""
        if self.tail == "t3":
            return rng.standard_t(3, size=shape) / np.sqrt(3)
        return (rng.lognormal(0.0, 1.0, size=shape) - np.exp(0.5)) / np.sqrt((np.e - 1) * np.e)


_LEARNED = (-1.6,) * 6
_JUST_BEHIND = (-1.6203,) * 5 + (-1.6,)
_KEPT = (-2.005,) * 6
_TOO_MUCH = (-2.0203,) * 6

LOSSES = (
    LossScenario("losses, equal arms", _LEARNED, _KEPT, seed_sd=(0.003,)),
    LossScenario("losses, five just inferior", _JUST_BEHIND, _KEPT, seed_sd=(0.003,)),
    LossScenario("losses, all forget just too much", _LEARNED, _TOO_MUCH, seed_sd=(0.003,)),
    LossScenario("losses, forget just too much, 200 items", _LEARNED, _TOO_MUCH, items=200, seed_sd=(0.003,)),
    LossScenario("losses of t3, forget just too much", _LEARNED, _TOO_MUCH, seed_sd=(0.003,), tail="t3"),
)
