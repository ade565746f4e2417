"""Draws of what is true of all arms at once: partial pooling along log rank, with at most one arm that stands apart.

Prior of one axis (gain, or forgetting): a flat level; a Gaussian process over log2 rank with a linear term; an effect
of each arm's own; at most one outlier. Its scales are summed over a grid by marginal likelihood (Rasmussen & Williams
2006, sections 2.2 and 2.7). docs/measures.md, "The best bet", has the formulas and what the simulations say.

N arms, C prior covariances, Q scales of the seeds' variance, D draws. Everything is in points.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2

from rankscope.decide.bet_likelihood import Observed

Floats = NDArray[np.float64]

CURVE_SDS = (0.3, 1.5, 6.0, 20.0)
OWN_SDS = (0.2, 0.6, 2.0, 6.0)
OUTLIER_SD = 10.0
LENGTH = 2.5
"""Doublings of rank over which the curve forgets itself."""
FEWEST_RANKS = 4
"""With fewer different ranks there is no curve: arms are only drawn towards each other."""
SCALES = 10


class Place(NamedTuple):
    """Where an arm stands on the curve: log2 of its rank (None: not on it), and whether it may differ from the curve by
    a further effect (full fine-tuning, and methods other than the one that the curve is of)."""

    log_rank: float | None
    apart: bool


@dataclass(frozen=True)
class Prior:
    """Prior covariances (C, N, N) without the level, each with the logarithm of its weight (C,)."""

    covariances: Floats
    log_weights: Floats


def make_prior(places: Sequence[Place]) -> Prior:
    """Every combination of the curve's and the arms' own standard deviations, and of the outlier (none, or one arm)."""
    count = len(places)
    ranks = {place.log_rank for place in places if place.log_rank is not None and not place.apart}
    curve = _curve(places) if len(ranks) >= FEWEST_RANKS else None
    apart = np.diag([float(place.apart or place.log_rank is None) for place in places])
    eye = np.eye(count)
    found = []
    for sd in CURVE_SDS if curve is not None else (0.0,):
        for own in OWN_SDS if curve is not None else (*OWN_SDS, CURVE_SDS[-1]):
            plain = own**2 * eye if curve is None else sd**2 * (curve + apart) + own**2 * eye
            found.append(plain)
            if count > 2:
                found += [plain + OUTLIER_SD**2 * np.outer(unit, unit) for unit in eye]
    return Prior(np.array(found), np.zeros(len(found)))


def _curve(places: Sequence[Place]) -> Floats:
    """Covariance (N, N) of a curve of variance 1: a squared exponential and a line through the middle rank; arms off
    the curve stand at the largest rank."""
    known = [place.log_rank for place in places if place.log_rank is not None]
    x = np.array([max(known) if place.log_rank is None else place.log_rank for place in places])
    middle = (min(known) + max(known)) / 2
    far = (x - middle) / LENGTH
    smooth: Floats = np.exp(-0.5 * ((x[:, None] - x[None, :]) / LENGTH) ** 2) + np.outer(far, far)
    return smooth


class Conditioned(NamedTuple):
    """What an axis says given each scale and prior covariance: log marginal likelihood (Q, C) up to a constant, mean
    (Q, C, N) and covariance (Q, C, N, N) of the truth."""

    log_likelihood: Floats
    mean: Floats
    covariance: Floats


def condition(mean: Floats, noise: Floats, priors: Floats) -> Conditioned:
    """Exact Gaussian conditioning on `mean` (N,) with noise covariances (Q, N, N) and prior ones (C, N, N).

    The level is flat: it is integrated out of the likelihood, and its uncertainty stands in the covariance.
    """
    total = noise[:, None] + priors[None]
    inverse = np.linalg.inv(total)
    ones_row = inverse.sum(axis=-1)  # V^-1 1, (Q, C, N)
    precision = ones_row.sum(axis=-1)
    level = (ones_row @ mean) / precision
    left = mean - level[..., None]
    solved = (inverse @ left[..., None])[..., 0]
    log_determinant = np.linalg.slogdet(total)[1]
    log_likelihood = -0.5 * (log_determinant + np.log(precision) + (left * solved).sum(axis=-1))
    gain = priors[None] @ inverse  # P V^-1
    truth = level[..., None] + (gain @ left[..., None])[..., 0]
    free = 1.0 - (gain.sum(axis=-1))
    covariance = priors[None] - gain @ priors[None]
    covariance = covariance + free[..., :, None] * free[..., None, :] / precision[..., None, None]
    return Conditioned(log_likelihood, truth, covariance)


def seed_scales(degrees: float, count: int = SCALES) -> Floats:
    """The seeds' variance as multiples (Q,) of its estimate, equally likely: degrees / chi-square at mid-quantiles."""
    quantiles = (np.arange(count) + 0.5) / count
    scales: Floats = degrees / chi2.ppf(quantiles, degrees)
    return scales


def draw_truths(seen: Observed, prior: Prior, rng: np.random.Generator, draws: int, scales: Floats | None) -> Floats:
    """Draws (D, N) of the arms' true values on one axis. `scales` (Q,): draw i has the seeds' variance times
    `scales[i % Q]`, so that axes drawn with the same ones share it; None: it is known."""
    used = np.ones(1) if scales is None else scales
    count = len(seen.mean)
    uniform = rng.random(draws)
    noise = rng.standard_normal((draws, count))
    truths = np.empty((draws, count))
    for number, scale in enumerate(used):  # one at a time: all matrices of many arms at once would be large
        mine = np.arange(number, draws, len(used))
        known = condition(seen.mean, (seen.items + scale * seen.seeds)[None], prior.covariances)
        log_weights = known.log_likelihood[0] + prior.log_weights
        steps = np.cumsum(np.exp(log_weights - log_weights.max()))
        chosen = np.minimum(np.searchsorted(steps / steps[-1], uniform[mine]), len(steps) - 1)
        at, back = np.unique(chosen, return_inverse=True)
        covariance = known.covariance[0, at]
        trace = np.trace(covariance, axis1=1, axis2=2)[:, None, None]
        roots = np.linalg.cholesky(covariance + 1e-10 * trace * np.eye(count))
        truths[mine] = known.mean[0, at][back] + np.einsum("dij,dj->di", roots[back], noise[mine])
    return truths
