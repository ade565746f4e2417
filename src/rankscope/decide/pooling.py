"""One effect over several studies: random effects, since models and data sets differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm, t


@dataclass(frozen=True)
class Pooled:
    """The mean effect with its two-sided interval; `tau`: how much the true effect spreads over studies."""

    mean: float
    low: float
    high: float
    tau: float
    studies: int


def random_effects(effects: Sequence[float], variances: Sequence[float], confidence: float = 0.95) -> Pooled:
    """DerSimonian & Laird's (1986) between-study variance, and the interval of Hartung & Knapp (2001) with k - 1
    degrees of freedom, its scale never below 1 (Röver, Knapp & Friede 2015: few studies that agree by chance are no
    certainty).

    A single study has its own interval: how much studies differ is then not known, and `tau` is 0. Raises ValueError
    for no study, or for a variance that is not above 0.
    """
    y, v = np.asarray(effects, dtype=float), np.asarray(variances, dtype=float)
    if not len(y) or len(y) != len(v) or not (v > 0).all():
        raise ValueError("effects and as many variances above 0 are needed")
    tail = (1 - confidence) / 2
    if len(y) == 1:
        half = float(norm.isf(tail) * np.sqrt(v[0]))
        return Pooled(float(y[0]), float(y[0]) - half, float(y[0]) + half, 0.0, 1)
    fixed = 1 / v
    spread = float((fixed * (y - (fixed * y).sum() / fixed.sum()) ** 2).sum())
    tau2 = max(0.0, (spread - (len(y) - 1)) / float(fixed.sum() - (fixed**2).sum() / fixed.sum()))
    weights = 1 / (v + tau2)
    mean = float((weights * y).sum() / weights.sum())
    scale = max(1.0, float((weights * (y - mean) ** 2).sum() / (len(y) - 1)))
    half = float(t.isf(tail, len(y) - 1) * np.sqrt(scale / weights.sum()))
    return Pooled(mean, mean - half, mean + half, float(np.sqrt(tau2)), len(y))
