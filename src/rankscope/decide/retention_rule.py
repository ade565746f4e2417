"""The rule by which a change is chosen among candidates: what is best of those that keep two thirds of the margin.

The settings of arms (`setting_choice.py`) and the remedies of a finished change (`tools/repair_choice.py`) are chosen
by it, on items that never judge. A candidate's forgetting is known from few items, and how far it moves the first
answer token from many prompts without answers: over the choices where half or more of the suites have choices, else
over the whole vocabulary, of which most is the answer's new form. Both are fitted: over all candidates forgetting never
falls as the divergence rises; along the dials of one change it never falls as the dial rises. The share of the second
fit is n / (n + 64) for n labelled items a suite: from 64 on the labels lead. docs/measures.md has the formulas,
docs/log.md what the predictors were compared on.

Shapes: C candidates.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

Floats = NDArray[np.float64]

LABELS_LEAD = 64
"""Labelled items a suite from which on they have the larger say."""


class Rated(NamedTuple):
    """A candidate: its fitted `excess`, forgetting as a share of the limit (infinite where nothing was fitted), the
    `loss` that is to be low (a validation loss, or minus a gain), the divergence `moved` (infinite where it was not
    measured) and its `dial`."""

    excess: float
    loss: float
    moved: float
    dial: float

    @property
    def by_loss(self) -> tuple[float, float, float]:
        """The loss, then the divergence, then the dial."""
        return (self.loss, self.moved, self.dial)


def choose(candidates: Sequence[Rated]) -> tuple[int, Literal["retention", "none admissible"]]:
    """The place of the chosen one: of those whose excess is at most 1 the one of the lowest loss (`retention`), where
    there is none the one of the least excess (`none admissible`). Equals go to the smaller divergence, then to the
    smaller dial. Raises ValueError for no candidate."""
    if not candidates:
        raise ValueError("nothing to choose from")
    places = range(len(candidates))
    admissible = [place for place in places if candidates[place].excess <= 1]
    if admissible:
        return min(admissible, key=lambda place: candidates[place].by_loss), "retention"
    return min(places, key=lambda place: (candidates[place].excess, *candidates[place].by_loss)), "none admissible"


def over_choices(suites_with: int, suites: int) -> bool:
    """Whether the divergence over the choices speaks for all suites, where so many of them have choices: half do."""
    return suites > 0 and 2 * suites_with >= suites


def fitted_forgetting(
    measured: Floats, moved: Floats, dials: Floats, labels: Floats, changes: Sequence[Hashable]
) -> Floats:
    """Forgetting (C,) that the two isotonic fits give together; NaN where neither is known.

    `measured`: on the items that choose, NaN where it was not; `moved`: the divergence; `labels`: items a suite that
    `measured` is of; `changes`: which candidates are one change at several `dials`.
    """
    over_all = isotonic(moved, measured)
    own = np.full(len(measured), np.nan)
    members: dict[Hashable, list[int]] = {}
    for place, change in enumerate(changes):
        members.setdefault(change, []).append(place)
    for places in members.values():
        own[places] = isotonic(dials[places], measured[places])
    share = labels / (labels + LABELS_LEAD)
    both = share * own + (1 - share) * over_all
    fitted: Floats = np.where(np.isnan(own), over_all, np.where(np.isnan(over_all), own, both))
    return fitted


def isotonic(x: Floats, y: Floats) -> Floats:
    """The least-squares fit of `y` that never falls as `x` rises, at every `x`; what has no `y` is interpolated.

    Points with equal `x` have the mean of their `y`. NaN where `x` is NaN, and everywhere where no point has both.
    """
    fit = np.full(len(x), np.nan)
    both = ~(np.isnan(x) | np.isnan(y))
    if not both.any():
        return fit
    places, inverse, counts = np.unique(x[both], return_inverse=True, return_counts=True)
    means = np.bincount(inverse, weights=y[both]) / counts
    rising = isotonic_regression(means, weights=counts).x
    known = ~np.isnan(x)
    fit[known] = np.interp(x[known], places, rising)
    return fit
