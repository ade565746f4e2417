"""How far an arm of one study lies from the same arm of another: paired on items and seeds where both are the same.

Paired, a difference is a contrast of crossed_statistics.py, like that of two arms. Unpaired, it is that of two
independent estimates, with their variances added and degrees of freedom after Welch (1947). docs/measures.md has it
under "Two studies".
"""

from __future__ import annotations

import math
from collections.abc import Set as AbstractSet
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from scipy import stats as distributions

from rankscope.decide.crossed_statistics import Estimates, SuiteArrays, estimate
from rankscope.decide.gain_and_forgetting import intervals
from rankscope.decide.paired_items import METRICS, Pairing, SuiteScores
from rankscope.records import Interval, Metric
from rankscope.records.arm_record import Relation

NOTHING = Interval(mean=None, low=None, high=None)


class Moved(NamedTuple):
    """The second study minus the first, for one arm; of losses None where neither study judges any.

    `why` says what is not the same, None where everything was paired. `suites`: what it is over, those that both judge
    by the same metric and for the same mean; `alone`: those that only one has so.
    """

    gain: Interval
    forgetting: Interval
    gain_nats: Interval | None
    forgetting_nats: Interval | None
    why: str | None
    suites: tuple[str, ...] = ()
    alone: tuple[str, ...] = ()


def moved(first: Pairing, second: Pairing, same_content: AbstractSet[str], confidence: float) -> Moved:
    """The differences of one arm; both pairings hold this arm alone. `same_content`: suites of the same items.

    Over other suites two means do not answer one question: what only one study has takes no part.
    """
    one, other, alone = shared_suites(first, second)
    why = unlike(one, other, same_content)
    found: list[Interval | None] = []
    for metric in METRICS:
        inside = one.in_domain_of(metric), other.in_domain_of(metric)
        outside = one.others_of(metric), other.others_of(metric)
        some = any(map(len, (*inside, *outside)))
        for suites, sign in ((inside, 1), (outside, -1)):
            found.append(_difference(suites, sign, confidence, paired=why is None) if some else None)
    over = tuple(suite.name for suite in one.suites)
    return Moved(found[0] or NOTHING, found[1] or NOTHING, found[2], found[3], why, over, alone)


def shared_suites(first: Pairing, second: Pairing) -> tuple[Pairing, Pairing, tuple[str, ...]]:
    """Both pairings with the suites alone that stand in the same mean of both, and the names of those that only one
    has, or has so. A suite that no mean of either is over is in none."""
    roles = [{suite.name: _role(suite) for suite in one.suites} for one in (first, second)]
    both = {name for name, role in roles[0].items() if roles[1].get(name) == role}
    kept = [
        replace(one, suites=tuple(s for s in one.suites if s.name in both and s.left_out_of_mean is None))
        for one in (first, second)
    ]
    return kept[0], kept[1], tuple(sorted((roles[0].keys() | roles[1].keys()) - both))


def unlike(first: Pairing, second: Pairing, same_content: AbstractSet[str]) -> str | None:
    """What keeps two studies of an arm, over suites of the same names, from being paired, in words; None where nothing
    does."""
    if first.seeds != second.seeds:
        return f"other seeds ({_seeds(first)} and {_seeds(second)})"
    others = {suite.name: suite for suite in second.suites}
    unlike_suites = [s.name for s in first.suites if s.name not in same_content or not _alike(s, others[s.name])]
    return f"other items in {', '.join(sorted(unlike_suites))}" if unlike_suites else None


def _seeds(pairing: Pairing) -> str:
    return ", ".join(map(str, pairing.seeds)) or "none"


def _role(suite: SuiteScores) -> tuple[Metric, Relation, bool]:
    return suite.metric, suite.relation, suite.left_out_of_mean is None


def _alike(first: SuiteScores, second: SuiteScores) -> bool:
    """Whether two suites judge by the same items and clusters."""
    clusters = (first.clusters is None) == (second.clusters is None) and (
        first.clusters is None or np.array_equal(first.clusters, second.clusters)  # type: ignore[arg-type]
    )
    return clusters and first.item_ids == second.item_ids


def _difference(
    suites: tuple[tuple[SuiteScores, ...], tuple[SuiteScores, ...]], sign: int, confidence: float, *, paired: bool
) -> Interval:
    """Mean over suites of the arm's change from the base, second minus first, times `sign`."""
    if not suites[0] or not suites[1]:
        return NOTHING
    if paired:
        by_name = {suite.name: suite for suite in suites[1]}
        both = [_side_by_side(suite, by_name[suite.name]) for suite in suites[0]]
        return intervals(estimate(both, sign * np.array([[0.0, -1.0, 1.0]])), confidence, 1)[0]
    contrast = sign * np.array([[-1.0, 1.0]])
    first, second = (estimate([suite.arrays for suite in part], contrast) for part in suites)
    return independent(first, second, confidence)


def _side_by_side(first: SuiteScores, second: SuiteScores) -> SuiteArrays:
    """Both studies' arm as two arms over one base: the second's scores are moved by what its own base differs."""
    moved_scores = second.scores[0] - second.base + first.base
    scores = np.stack([first.scores[0], moved_scores])
    return SuiteArrays(first.base, scores, first.clusters, bounded=first.metric == "score")


def independent(first: Estimates, second: Estimates, confidence: float) -> Interval:
    """The second estimate minus the first, as two independent samples; a suite of one item gives no interval."""
    mean = float(second.mean[0] - first.mean[0])
    parts = [(float(one.variance[0]), float(one.degrees[0])) for one in (first, second)]
    total = sum(variance for variance, _ in parts)
    if min(*first.unit_counts, *second.unit_counts) < 2 or total <= 0:
        return Interval(mean=mean, low=None, high=None)
    degrees = total**2 / sum(variance**2 / df for variance, df in parts)
    half = float(distributions.t.isf((1 - confidence) / 2, degrees)) * math.sqrt(total)
    return Interval(mean=mean, low=mean - half, high=mean + half)
