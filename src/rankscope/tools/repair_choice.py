"""Which remedy of a finished change is taken: chosen on some items, judged on others. Arithmetic on scores alone.

Shapes: C candidates, the change as it is first; I items of a suite.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

from rankscope.decide.crossed_statistics import SuiteArrays, estimate, gain_contrasts
from rankscope.decide.gain_and_forgetting import intervals
from rankscope.records import Interval

Floats = NDArray[np.float64]

LIMIT_SHARE = 2 / 3
"""Of the margin, what the fitted forgetting of a chosen candidate may be: the rest is room for the fit's error."""

LABELS_LEAD = 64
"""Items a suite at which what was measured counts as much as the fit on the divergence."""


class SuiteScores(NamedTuple):
    """One suite: scores of the base (I,) and of every candidate (C, I), the items that choose (I,), and the cluster of
    each item (I,), numbered from 0 (None: each its own)."""

    base: Floats
    scores: Floats
    selects: NDArray[np.bool_]
    clusters: NDArray[np.int64] | None = None

    def judging(self) -> SuiteArrays:
        """The items that judge, with one seed."""
        kept = ~self.selects
        clusters = None if self.clusters is None else np.unique(self.clusters[kept], return_inverse=True)[1]
        return SuiteArrays(self.base[kept], self.scores[:, None, kept], clusters)

    def change_where_selecting(self) -> Floats:
        """(C,): the mean score minus the base's over the items that choose."""
        difference: Floats = (self.scores - self.base)[:, self.selects].mean(axis=1)
        return difference


class Chosen(NamedTuple):
    """The place of the chosen candidate among all, and what the choice was made from: (C,) each."""

    place: int
    select_gain: Floats
    select_forgetting: Floats
    fitted: Floats


def choose(
    task: Sequence[SuiteScores],
    keep: Sequence[SuiteScores],
    divergences: Floats,
    margin: float,
    may_be_chosen: NDArray[np.bool_] | None = None,
) -> Chosen:
    """The candidate of the largest gain among those whose fitted forgetting is at most two thirds of the margin; where
    there is none, the one of the least fitted forgetting. Among equals the smaller divergence. `may_be_chosen` (C,)
    leaves out what is there for comparison.

    The fit: forgetting on the items that choose, weighted against its isotonic regression on the divergences (C,) of
    the first answer token as n : 64, n the items that choose in a suite on average.
    """
    gain = np.mean([suite.change_where_selecting() for suite in task], axis=0)
    lost = -np.mean([suite.change_where_selecting() for suite in keep], axis=0)
    items = float(np.mean([suite.selects.sum() for suite in keep]))
    share = items / (items + LABELS_LEAD)
    fitted = share * lost + (1 - share) * _isotonic(divergences, lost)
    allowed = np.ones(len(gain), dtype=bool) if may_be_chosen is None else may_be_chosen
    admissible = np.flatnonzero(allowed & (fitted <= LIMIT_SHARE * margin + 1e-12))
    if len(admissible):
        place = min(admissible.tolist(), key=lambda c: (-float(gain[c]), float(divergences[c])))
    else:
        place = min(np.flatnonzero(allowed).tolist(), key=lambda c: (float(fitted[c]), float(divergences[c])))
    return Chosen(place, gain, lost, fitted)


def _isotonic(x: Floats, y: Floats) -> Floats:
    """The least-squares fit of y that never falls as x rises; equal x have one value."""
    _, inverse, counts = np.unique(x, return_inverse=True, return_counts=True)
    means = np.bincount(inverse, weights=y) / counts
    fit: Floats = isotonic_regression(means, weights=counts).x[inverse]
    return fit


def judged(suites: Sequence[SuiteScores], confidence: float, *, sign: int = 1) -> list[Interval]:
    """Of every candidate the mean change against the base (times `sign`) on the items that judge, with a two-sided
    interval over items."""
    arrays = [suite.judging() for suite in suites]
    count = len(suites[0].scores)
    return intervals(estimate(arrays, sign * gain_contrasts(count)), confidence, count)


def against_first(suites: Sequence[SuiteScores], place: int, confidence: float, *, sign: int = 1) -> Interval:
    """Candidate `place` minus the first (times `sign`), paired by items that judge: the mean and its one-sided bounds,
    each at `confidence`."""
    arrays = [suite.judging() for suite in suites]
    contrast = np.zeros((1, 1 + len(suites[0].scores)))
    contrast[0, 1], contrast[0, 1 + place] = -sign, sign
    found = estimate(arrays, contrast)
    half = float(found.half_width(1 - confidence)[0])
    mean = float(found.mean[0])
    return Interval(mean=mean, low=mean - half, high=mean + half)


def why_not(place: int, before: Interval, gain: Interval, saved: Interval | None) -> str:
    """Why the chosen candidate does not help surely, or nothing: `before` is the forgetting as trained, `gain` what is
    left of it, `saved` the forgetting against the change as it is."""
    if place == 0:
        return "the change as it is was chosen: it keeps the margin, or nothing that was tried keeps more"
    assert saved is not None
    if saved.low is None or saved.low <= 0:
        return "the forgetting that it saves is not surely above 0"
    if gain.low is None or gain.low <= 0:
        return "the gain that it leaves is not surely above 0"
    return ""


def select_counts(suites: Mapping[str, SuiteScores]) -> tuple[dict[str, int], dict[str, int]]:
    """By suite the items that choose, and those that judge."""
    return (
        {name: int(suite.selects.sum()) for name, suite in suites.items()},
        {name: int((~suite.selects).sum()) for name, suite in suites.items()},
    )
