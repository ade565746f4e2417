"""Four families of truths that were written after the best bet's code was frozen, and changed nothing in it."""

from __future__ import annotations

import numpy as np
from bet_families import ARMS, Family, Rng, Truth


def _spread(rng: Rng) -> np.ndarray:
    return np.full(ARMS, rng.uniform(0.03, 0.09))


def two_plateaus(rng: Rng) -> Truth:
    """Ranks below a step learn little, those from it on much; the large ones forget more, some too much."""
    high = np.arange(ARMS) >= rng.integers(2, 7)
    gain = np.where(high, rng.uniform(20, 35), rng.uniform(3, 18)) + 0.6 * rng.normal(size=ARMS)
    lost = np.where(high, rng.uniform(0.5, 4.5), rng.uniform(-0.5, 1.0)) + 0.4 * rng.normal(size=ARMS)
    return Truth(gain, lost, _spread(rng), np.zeros(ARMS))


def large_arms_forget_less(rng: Rng) -> Truth:
    """The reverse of a trade-off: what a small rank must overwrite a large one need not."""
    step = np.arange(ARMS)
    gain = rng.uniform(10, 30) + rng.uniform(-0.3, 0.8) * step + 0.5 * rng.normal(size=ARMS)
    lost = rng.uniform(3, 8) - rng.uniform(0.3, 0.9) * step + 0.4 * rng.normal(size=ARMS)
    return Truth(gain, lost, _spread(rng), np.zeros(ARMS))


def full_stands_apart(rng: Rng) -> Truth:
    """Adapters alike, full fine-tuning far better or far worse, in gain or in what it keeps."""
    gain = rng.uniform(10, 25) + rng.uniform(0, 1.0) * np.arange(ARMS) + 0.5 * rng.normal(size=ARMS)
    lost = rng.uniform(-0.5, 1.5) + 0.4 * rng.normal(size=ARMS)
    gain[-1] += rng.choice([-1, 1]) * rng.uniform(4, 12)
    lost[-1] += rng.choice([0.0, rng.uniform(1, 8)])
    return Truth(gain, lost, _spread(rng), np.zeros(ARMS))


def small_gains_and_wild_seeds(rng: Rng) -> Truth:
    """Gains of one to six points, seeds that scatter by several, and every arm's by another amount."""
    gain = rng.uniform(1, 5) + rng.uniform(0, 0.4) * np.arange(ARMS) + 0.5 * rng.normal(size=ARMS)
    lost = rng.uniform(-0.5, 2.5) + 0.5 * rng.normal(size=ARMS)
    return Truth(gain, lost, rng.uniform(0.04, 0.2, size=ARMS), np.zeros(ARMS))


HELD_OUT: tuple[Family, ...] = (two_plateaus, large_arms_forget_less, full_stands_apart, small_gains_and_wild_seeds)
