"""Families of truths for the calibration of the best bet: every study draws its own, and chooses its settings.

A family says, for nine arms (LoRA of rank 1 to 128 and full), what each would gain and forget at a gentle setting, and
how far its seeds scatter. Every arm then has twelve settings (three rates, four dials); one is chosen as a study does:
the lowest validation loss among those whose forgetting, measured on few selection items, is at most two thirds of the
margin, else the one that forgets least. What is true of the chosen setting is the arm's truth. Points throughout.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from simulated_studies import ALIKE, Scenario

Floats = NDArray[np.float64]

RANKS = (1, 2, 4, 8, 16, 32, 64, 128)
ARMS = len(RANKS) + 1
PARAMETERS = (*(40_000.0 * rank for rank in RANKS), 30_000_000.0)
BASE_TASK, BASE_KEPT = 0.30, 0.85
MARGIN = 3.0
STRENGTHS = np.outer((0.45, 1.0, 2.2), (0.5, 0.7, 0.85, 1.0)).ravel()
"""Rate times dial of each setting, 1 being the rate of the lowest loss undialled."""
SELECTION_SD = 1.2
"""Points of forgetting: what few selection items leave unknown."""
LOSS_SD = 1.0
"""Points of gain: how well validation loss tells settings apart."""


@dataclass(frozen=True)
class Truth:
    """Gain, forgetting and the seeds' latent spread, (9,) each; `cliff`: what a strength beyond 0.7 forgets besides."""

    gain: Floats
    lost: Floats
    seed_sd: Floats
    cliff: Floats


Rng = np.random.Generator
Family = Callable[[Rng], "Truth"]


def _truth(rng: Rng, gain: Floats, lost: Floats) -> Truth:
    return Truth(gain, lost, np.full(ARMS, rng.uniform(0.03, 0.09)), np.zeros(ARMS))


def _step() -> Floats:
    return np.arange(ARMS, dtype=float)


def _level(rng: Rng) -> Floats:
    return rng.uniform(10, 40) + 0.5 * rng.normal(size=ARMS)


def _rise(rng: Rng) -> Floats:
    return rng.uniform(15, 45) * (1 - np.exp(-(_step() + 1) / rng.uniform(1, 4))) + 0.4 * rng.normal(size=ARMS)


def _mild(rng: Rng) -> Floats:
    return rng.uniform(-0.5, 1.5) + 0.4 * rng.normal(size=ARMS)


def flat(rng: Rng) -> Truth:
    return _truth(rng, _level(rng), _mild(rng))


def rising(rng: Rng) -> Truth:
    return _truth(rng, _rise(rng), _mild(rng))


def trade_off(rng: Rng) -> Truth:
    return _truth(rng, _rise(rng), rng.uniform(-1, 1) + rng.uniform(0.2, 1.5) * _step() + 0.3 * rng.normal(size=ARMS))


def bad_arm(rng: Rng) -> Truth:
    gain = _rise(rng)
    gain[rng.integers(ARMS)] -= rng.uniform(5, 20)
    return _truth(rng, gain, _mild(rng))


def cliff(rng: Rng) -> Truth:
    found = _truth(rng, _rise(rng), _mild(rng))
    return Truth(found.gain, found.lost, found.seed_sd, np.where(_step() >= rng.integers(2, 8), rng.uniform(4, 20), 0))


def noisy_arm(rng: Rng) -> Truth:
    found = _truth(rng, _rise(rng), _mild(rng))
    found.seed_sd[rng.integers(ARMS)] *= 4
    return found


def all_forget(rng: Rng) -> Truth:
    return _truth(rng, _rise(rng), rng.uniform(4, 12) + rng.normal(size=ARMS))


def no_gain(rng: Rng) -> Truth:
    return _truth(rng, rng.uniform(-1, 0.6) + 0.3 * rng.normal(size=ARMS), _mild(rng))


def just_inferior(rng: Rng) -> Truth:
    gain = _level(rng)
    gain[rng.integers(ARMS)] = gain.mean() + rng.uniform(3, 4)
    return _truth(rng, gain, _mild(rng))


def peak(rng: Rng) -> Truth:
    gain = rng.uniform(15, 40) - rng.uniform(0.3, 1.2) * (_step() - rng.uniform(1, 7)) ** 2
    return _truth(rng, gain + 0.4 * rng.normal(size=ARMS), _mild(rng))


def at_the_margin(rng: Rng) -> Truth:
    return _truth(rng, _rise(rng), MARGIN + rng.uniform(-0.7, 0.7) + 0.6 * rng.normal(size=ARMS))


def jagged(rng: Rng) -> Truth:
    return _truth(rng, rng.uniform(15, 35) + 4 * rng.normal(size=ARMS), 1.5 + 1.5 * rng.normal(size=ARMS))


def unstable_arm(rng: Rng) -> Truth:
    found = _truth(rng, _rise(rng), _mild(rng))
    wild = rng.integers(ARMS)
    found.seed_sd[wild] = rng.uniform(0.25, 0.5)
    found.lost[wild] += rng.uniform(0, 6)
    return found


def one_arm_alone_keeps(rng: Rng) -> Truth:
    lost = rng.uniform(5, 12) + rng.normal(size=ARMS)
    lost[rng.integers(ARMS)] = rng.uniform(-0.5, 1.5)
    return _truth(rng, _rise(rng), lost)


FAMILIES: tuple[Family, ...] = (
    flat, rising, trade_off, bad_arm, cliff, noisy_arm, all_forget, no_gain, just_inferior, peak, at_the_margin,
    jagged, unstable_arm, one_arm_alone_keeps,
)  # fmt: skip


def choose_settings(rng: Rng, truth: Truth) -> tuple[Floats, Floats]:
    """Gain and forgetting (9,) of the setting that each arm is judged at, as a study chooses it."""
    over = np.maximum(STRENGTHS - 1, 0)
    learned = 1 - 0.5 * np.maximum(1 - STRENGTHS, 0) ** 2 - 0.05 * over**2
    gain = truth.gain[:, None] * learned
    lost = truth.lost[:, None] + 4 * np.maximum(STRENGTHS - 0.5, 0) ** 1.5
    lost = lost + np.where(STRENGTHS > 0.7, truth.cliff[:, None], 0)
    seen_lost = lost + SELECTION_SD * rng.normal(size=lost.shape)
    seen_gain = gain + LOSS_SD * rng.normal(size=gain.shape)
    admissible = seen_lost <= 2 / 3 * MARGIN
    best = np.argmax(np.where(admissible, seen_gain, -np.inf), axis=1)
    least = np.argmin(seen_lost, axis=1)
    chosen = np.where(admissible.any(axis=1), best, least)
    arms = np.arange(ARMS)
    return gain[arms, chosen], lost[arms, chosen]


def scenario_of(rng: Rng, family: Family, seeds: int, items: int, *, chosen: bool = True) -> Scenario:
    """A study of a family, its truth drawn anew, as simulated_studies.py draws its answers. Not `chosen`: every arm has
    the gentle setting that the family describes."""
    truth = family(rng)
    gain, lost = choose_settings(rng, truth) if chosen else (truth.gain, truth.lost)
    learned = np.clip(BASE_TASK + gain / 100, 0.02, 0.98)
    kept = np.clip(BASE_KEPT - lost / 100, 0.02, 0.98)
    name = family.__name__.replace("_", " ")
    return Scenario(
        name, tuple(learned), tuple(kept), BASE_TASK, BASE_KEPT, seeds, items, 1, 2, tuple(truth.seed_sd),
        rng.uniform(0, 0.5), ALIKE,
    )  # fmt: skip
