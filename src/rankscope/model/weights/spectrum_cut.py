"""What of a change's spectrum is signal: the optimal hard threshold of singular values for unknown noise, and the cut.

Gavish & Donoho 2014 (arXiv 1305.5870): a matrix of low rank in white noise of unknown level is recovered best, in mean
squared error among all thresholds, by dropping the singular values below omega(beta) times their median, where beta is
the smaller side over the larger.
"""

from __future__ import annotations

import functools
import math

import numpy as np
import torch
from torch import Tensor

from rankscope.model.weights.gram_spectrum import gram_spectrum

_QUADRATURE_POINTS = 20_001
"""Of the distribution function, whose error is then below 1e-7."""


def known_noise_coefficient(beta: float) -> float:
    """lambda*(beta): the threshold is so many times sqrt(larger side) times the noise's standard deviation (eq. 11);
    4 / sqrt(3) for square matrices."""
    return math.sqrt(2 * (beta + 1) + 8 * beta / (beta + 1 + math.sqrt(beta**2 + 14 * beta + 1)))


@functools.lru_cache(maxsize=256)
def marchenko_pastur_median(beta: float) -> float:
    """The median mu of the Marchenko-Pastur distribution: half of the integral of sqrt((high - t) (t - low)) / (2 pi
    beta t) from low to high, (1 -+ sqrt(beta))^2, lies below it.

    With t = centre - half cos(u) the integrand is smooth, so that the trapezoid rule is exact to rounding soon. Raises
    ValueError where beta is not above 0 and at most 1.
    """
    if not 0 < beta <= 1:
        raise ValueError(f"an aspect ratio of {beta}, expected one above 0 and at most 1")
    low, high = (1 - math.sqrt(beta)) ** 2, (1 + math.sqrt(beta)) ** 2
    centre, half = (low + high) / 2, (high - low) / 2
    angles = np.linspace(0, math.pi, _QUADRATURE_POINTS)
    t = centre - half * np.cos(angles)
    with np.errstate(invalid="ignore", divide="ignore"):
        density = (half * np.sin(angles)) ** 2 / (2 * math.pi * beta * t)
    if beta == 1:
        density[0] = half / math.pi  # the limit of sin^2 u / (1 - cos u) at 0
    steps = (density[1:] + density[:-1]) / 2 * (angles[1] - angles[0])
    cumulated = np.concatenate([[0.0], np.cumsum(steps)])
    place = int(np.searchsorted(cumulated, cumulated[-1] / 2))
    share = (cumulated[-1] / 2 - cumulated[place - 1]) / (cumulated[place] - cumulated[place - 1])
    angle = angles[place - 1] + share * (angles[place] - angles[place - 1])
    return float(centre - half * math.cos(angle))


def threshold_coefficient(out: int, in_: int) -> float:
    """omega(beta) = lambda*(beta) / sqrt(mu(beta)) for a matrix (out, in): 2.858 for a square one (section II.E)."""
    beta = min(out, in_) / max(out, in_)
    return known_noise_coefficient(beta) / math.sqrt(marchenko_pastur_median(beta))


def rank_above_noise(values: Tensor, out: int, in_: int) -> int:
    """How many of all singular values (K,) of a matrix (out, in) are above omega times their median.

    0 for a matrix of zeros, and all where the median is 0: a matrix of less than half its full rank has no noise to
    measure, which is why factored changes are cut at an energy instead.
    """
    median = float(torch.median(values.double()) if len(values) % 2 else values.double().quantile(0.5))
    return int((values.double() > threshold_coefficient(out, in_) * median).sum())


def cut_at_noise(change: Tensor) -> tuple[Tensor, int]:
    """The change (out, in) without the singular values below the threshold, in its dtype, and how many stay."""
    values, directions = gram_spectrum(change)
    rank = rank_above_noise(values, *change.shape)
    kept = directions[:rank]
    whole = change.double()
    cut = kept.T @ (kept @ whole) if whole.shape[0] <= whole.shape[1] else (whole @ kept.T) @ kept
    return cut.to(change.dtype), rank
