"""Which runs would help a bet most, and what they can be expected to save.

One more seed each for the bet and for the two arms that it could most regret not to be. What they save is the fall of
the least mean regret, averaged over what they may show (preposterior analysis: Raiffa & Schlaifer 1961), by reweighting
the draws that the bet rests on. docs/measures.md, "The best bet".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rankscope.decide.best_bet import Outcomes
from rankscope.decide.bet_likelihood import Observed

Floats = NDArray[np.float64]

RIVALS = 2
HONEST_SHARE = 0.75
"""Of the computed saving: reweighting a few thousand draws finds more to save than there is."""
FUTURES = 200


class Wanted(NamedTuple):
    """Arms, by number, that would get one seed each, the bet first; `saving`: the fall of the least mean regret."""

    arms: tuple[int, ...]
    saving: float


def next_arms(outcomes: Outcomes, option: int, may: Sequence[bool]) -> list[int]:
    """The bet and its two most regretted rivals: those with the largest mean of max(0, regret of the bet - theirs).

    `may` (N,): arms that can get another seed; the base gets none.
    """
    arms = [a for a, able in enumerate(may) if able and a != option]
    lead = np.maximum(outcomes.regret[:, [option]] - outcomes.regret[:, arms], 0).mean(axis=0)
    rivals = [arms[i] for i in np.argsort(-lead, kind="stable")[:RIVALS]]
    return [option, *rivals] if option < len(may) and may[option] else rivals


def new_mean_variance(items: Floats, seeds: Floats, counts: NDArray[np.int64]) -> Floats:
    """Variance of an independent new mean that would do what one more seed does: V0 V1 / (V0 - V1).

    V0 = items + seeds / k and V1 = items + seeds / (k + 1), `seeds` the variance of one seed's mean. Infinite where a
    seed would add nothing.
    """
    before = items + seeds / counts
    after = items + seeds / (counts + 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        variance: Floats = np.where(before > after, before * after / (before - after), np.inf)
    return variance


def wanted(
    truths: Sequence[Floats],
    seen: Sequence[Observed],
    outcomes: Outcomes,
    arms: Sequence[int],
    rng: np.random.Generator,
) -> Wanted:
    """What one more seed for each of `arms` would save. `truths` are draws (D, N) of every axis, as `seen`.

    In each of 200 futures a draw is the truth, new means are drawn around it, all draws are weighted by how well they
    fit them, and the option of least mean regret is taken.
    """
    if not arms:
        return Wanted((), 0.0)
    draws = len(outcomes.regret)
    chosen = rng.choice(draws, FUTURES, replace=draws < FUTURES)
    log_weights = np.zeros((FUTURES, draws))
    for truth, axis in zip(truths, seen, strict=True):
        counts = axis.seed_counts
        variance = new_mean_variance(np.diag(axis.items), np.diag(axis.seeds) * counts, counts)
        for arm in arms:
            if not np.isfinite(variance[arm]):
                continue
            new = truth[chosen, arm] + np.sqrt(variance[arm]) * rng.standard_normal(FUTURES)
            log_weights -= 0.5 * (new[:, None] - truth[None, :, arm]) ** 2 / variance[arm]
    weights = np.exp(log_weights - log_weights.max(axis=1, keepdims=True))
    weights /= weights.sum(axis=1, keepdims=True)
    expected = weights @ outcomes.regret
    # Compared on the same futures: the mean of the weighted regrets is the mean regret but for the drawing of futures.
    fall = float(expected.mean(axis=0).min() - expected.min(axis=1).mean())
    return Wanted(tuple(arms), HONEST_SHARE * max(fall, 0.0))
