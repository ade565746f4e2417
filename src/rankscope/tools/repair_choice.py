"""Which remedy of a finished change is taken: chosen on some items, judged on others. Arithmetic on scores alone.

The choice is that of an arm's setting (`decide/retention_rule.py`), with the gain in the place of the validation loss.

Shapes: C candidates, the change as it is first; I items of a suite.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rankscope.decide.crossed_statistics import SuiteArrays, estimate, gain_contrasts
from rankscope.decide.gain_and_forgetting import intervals
from rankscope.decide.retention_rule import Rated, fitted_forgetting
from rankscope.decide.retention_rule import choose as choose_by_rule
from rankscope.records import Interval, RepairHow

Floats = NDArray[np.float64]


class Tried(NamedTuple):
    """What a candidate is: one `change` at a `dial`, and whether it `may_be_chosen` or is there for comparison."""

    change: str
    dial: float = 1.0
    may_be_chosen: bool = True


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
    """The place of the chosen candidate among all, how it was chosen, and what from: (C,) each."""

    place: int
    how: RepairHow
    select_gain: Floats
    select_forgetting: Floats
    fitted: Floats


def choose(
    task: Sequence[SuiteScores], keep: Sequence[SuiteScores], divergences: Floats, tried: Sequence[Tried], limit: float
) -> Chosen:
    """The candidate of the largest gain among those whose fitted forgetting is at most `limit`; where there is none,
    the one of the least fitted forgetting. Gain and forgetting are those on the items that choose, `divergences` (C,)
    those of the first answer token, over the choices where half or more of the suites have choices, else over the
    whole vocabulary."""
    gain = np.mean([suite.change_where_selecting() for suite in task], axis=0)
    lost = -np.mean([suite.change_where_selecting() for suite in keep], axis=0)
    labels = np.full(len(tried), np.mean([suite.selects.sum() for suite in keep]))
    dials = np.array([one.dial for one in tried])
    fitted = fitted_forgetting(lost, divergences, dials, labels, [one.change for one in tried])
    may = [place for place, one in enumerate(tried) if one.may_be_chosen]
    rated = [Rated(float(fitted[c] / limit), -float(gain[c]), float(divergences[c]), tried[c].dial) for c in may]
    place, how = choose_by_rule(rated)
    return Chosen(may[place], how, gain, lost, fitted)


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
