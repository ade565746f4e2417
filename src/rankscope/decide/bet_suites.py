"""What a bet is made from: the answers of every compared arm on all of its done seeds, by the unit they are judged in.

The sure verdict compares arms on the seeds that they share; a bet takes every done seed of every arm that is compared.
N arms, K seeds, I items.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from rankscope.decide.paired_items import METRICS, Frames, Pairing, SuiteScores, pair
from rankscope.decide.run_outcomes import floor_of
from rankscope.records import Metric
from rankscope.study.decision_settings import Margins
from rankscope.study.study import Decision

PRIOR_MARGIN = 3.0
"""The scales of the prior are in points at a margin of three: what is in nats is scaled until its margin is that."""


class Unit(NamedTuple):
    """Suites that are judged in one unit. Gains times `gain_scale` and forgetting times `lost_scale` have `margins`;
    `floor`: what numerics alone may move them, scaled likewise."""

    metric: Metric
    inside: Sequence[SuiteScores]
    outside: Sequence[SuiteScores]
    gain_scale: float
    lost_scale: float
    margins: Margins
    floor: tuple[float, float]


def units_of(suites: Sequence[SuiteScores], decision: Decision) -> list[Unit]:
    """The suites by the unit that they are judged in: points, and nats scaled until their margins are PRIOR_MARGIN.

    A suite outside the domain on which the base knows nothing is no part of forgetting.
    """
    units = []
    for metric in METRICS:
        mine = [suite for suite in suites if suite.metric == metric]
        inside = [suite for suite in mine if suite.relation == "in-domain"]
        outside = [suite for suite in mine if suite.relation != "in-domain" and suite.left_out_of_mean is None]
        task, retention, least = decision.margins(metric)
        gain_scale = 100.0 if metric == "score" else PRIOR_MARGIN / task
        lost_scale = 100.0 if metric == "score" else PRIOR_MARGIN / retention
        margins = Margins(gain_scale * task, lost_scale * retention, gain_scale * least)
        noise = floor_of([suite.noise for suite in inside], [suite.noise for suite in outside])
        floor = (gain_scale * noise.gain, lost_scale * noise.forgetting)
        if inside or outside:
            units.append(Unit(metric, inside, outside, gain_scale, lost_scale, margins, floor))
    return units


def all_seeds(pairing: Pairing, frames: Frames) -> list[SuiteScores]:
    """The paired suites with every done seed of the compared arms: scores (N, K, I), NaN where an arm lacks a seed.

    Items that were not scored in all of these runs are left out of every arm.
    """
    own = {label: pairing.facts(label).seeds for label in pairing.labels}
    runs = frames.runs
    mine = runs[(runs["model"] == pairing.model) & (runs["train_set"] == pairing.train_set) & (runs["state"] == "done")]
    own = {label: tuple(sorted(int(s) for s in mine.loc[mine["arm"] == label, "seed"])) for label in own}
    if set(own.values()) <= {pairing.seeds}:
        return list(pairing.suites)
    groups = [
        pair(frames, model=pairing.model, train_set=pairing.train_set, only=[a for a in own if own[a] == seeds])
        for seeds in sorted(set(own.values()))
    ]
    seeds = sorted({seed for mine in own.values() for seed in mine})
    return [_merged(suite, groups, pairing.labels, seeds) for suite in pairing.suites]


def _merged(suite: SuiteScores, groups: Sequence[Pairing], labels: Sequence[str], seeds: Sequence[int]) -> SuiteScores:
    """One suite of several pairings, on the items that all of them have."""
    parts = [(group, next(s for s in group.suites if s.name == suite.name)) for group in groups]
    items = sorted(set.intersection(set(suite.item_ids), *(set(part.item_ids) for _, part in parts)))
    scores = np.full((len(labels), len(seeds), len(items)), np.nan)
    for group, part in parts:
        at = {item: place for place, item in enumerate(part.item_ids)}
        wanted_items = [at[item] for item in items]
        rows = [labels.index(label) for label in group.labels]
        columns = [seeds.index(seed) for seed in group.seeds]
        scores[np.ix_(rows, columns)] = part.scores[:, :, wanted_items]
    at = {item: place for place, item in enumerate(suite.item_ids)}
    kept = [at[item] for item in items]
    clusters = None if suite.clusters is None else np.unique(suite.clusters[kept], return_inverse=True)[1]
    return replace(suite, item_ids=tuple(items), base=suite.base[kept], scores=scores, clusters=clusters)
