"""How much error each bound of a verdict may have, so that all of them hold together: over arms, units and looks."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from scipy.optimize import brentq
from scipy.stats import norm

_NODES = 256
_FAR = 9.0


def simultaneous_alpha(confidence: float, arm_count: int, unit_count: int = 1) -> float:
    """The error of each one-sided bound: (1 - confidence) / (2 K U) for K arms judged in U units (Bonferroni)."""
    return (1 - confidence) / (2 * max(arm_count, 1) * max(unit_count, 1))


@lru_cache(maxsize=256)
def nominal_alpha(alpha: float, counts: tuple[int, ...]) -> float:
    """The one-sided error of a bound at each look, such that over all looks (after `counts` seeds) it is `alpha`.

    Pocock's (1977) constant bound, for seeds alone: items are the same at every look, so that looks are more alike than
    this takes them to be, and the error is smaller. Used on t quantiles by the significance-level approach (Jennison &
    Turnbull 2000, section 4.4).
    """
    if len(counts) < 2:
        return alpha
    low, high = float(norm.isf(alpha)), float(norm.isf(alpha / len(counts)))
    bound = brentq(lambda z: crossing_probability(z, counts) - alpha, low, high, xtol=1e-9)
    return float(norm.sf(bound))


def crossing_probability(bound: float, counts: Sequence[int]) -> float:
    """P that the standardised mean of counts[0], or of counts[1], ... independent normal values exceeds `bound`.

    By the recursion of Armitage, McPherson & Rowe (1969) on the sum, with Gauss-Legendre nodes.
    """
    total, before = 0.0, 0
    density = points = weights = np.empty(0)
    roots, root_weights = np.polynomial.legendre.leggauss(_NODES)
    for count in counts:
        limit, step = bound * np.sqrt(count), np.sqrt(count - before)
        if before == 0:
            total += float(norm.sf(bound))
        else:
            total += float((weights * density * norm.sf((limit - points) / step)).sum())
        low = -_FAR * np.sqrt(count)
        new = low + (limit - low) * (roots + 1) / 2
        if before == 0:
            density = norm.pdf(new, scale=step)
        else:
            density = (weights * density) @ norm.pdf(new[None, :], points[:, None], step)
        points, weights, before = new, root_weights * (limit - low) / 2, count
    return total
