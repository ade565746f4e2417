"""Asks the verdict of growing evidence: looks at the runs, arms that leave, and the rule on what all looks say.

A study with a list of seeds is one look at everything. With adaptive seeds each look compares the arms still in
contention on the seeds that these have; its bounds spend a share of the error, so that all of them hold together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from rankscope.decide.error_spending import nominal_alpha, simultaneous_alpha
from rankscope.decide.gain_and_forgetting import Measured, measure_pairing
from rankscope.decide.paired_items import Frames, Pairing, pair
from rankscope.decide.statistical_power import could_decide
from rankscope.decide.verdict_bounds import Bounds, bounds, closed_form_widths, tightest
from rankscope.decide.verdict_kinds import Ruling, judge, trusted, undecided
from rankscope.records import Metric
from rankscope.study.study import Decision

Floats = NDArray[np.float64]

NO_RETENTION = (
    "No suite of another domain, or of none, was scored: what the arms forget is not known, so none can be recommended."
)
NOTHING_TO_FORGET = (
    "On no suite of another domain, or of none, is the base surely better than guessing: nothing could be seen to be "
    "forgotten, so no arm can be recommended."
)
ONE_SEED = (
    "One seed: how much the result depends on the seed is not known. The intervals are over items only, a description "
    "and no decision."
)
UNKNOWN_RETENTION = (NO_RETENTION, NOTHING_TO_FORGET)


@dataclass(frozen=True)
class Look:
    """One comparison. `run_ids` are the runs that it needs; `alpha` the error of each of its bounds."""

    run_ids: frozenset[str]
    pairing: Pairing
    measured: Measured
    alpha: float
    limits: Bounds
    blocks: tuple[str, ...]
    """Why nothing can be decided on it; empty where the rule may speak."""

    @property
    def labels(self) -> tuple[str, ...]:
        """The arms that were compared."""
        return self.pairing.labels


@dataclass(frozen=True)
class Evidence:
    """All looks, and the rule on the tightest bounds that each arm, and each pair of arms, has.

    `labels` are the arms of the first look, in whose order `limits` and `ruling` are; `futile`: the looks ended since
    even the most seeds would hardly decide.
    """

    looks: tuple[Look, ...]
    labels: tuple[str, ...]
    cost: tuple[float, ...]
    limits: Bounds
    ruling: Ruling
    futile: bool = False

    @property
    def last(self) -> Look:
        return self.looks[-1]

    @property
    def last_cost(self) -> list[float]:
        """Trainable parameters of the arms of the last look."""
        return [self.cost[self.labels.index(label)] for label in self.last.labels]

    def of(self, label: str) -> tuple[Look, int]:
        """The last look that an arm took part in, and its place there."""
        return _last_of(label, self.looks)

    def means(self) -> dict[Metric, tuple[Floats, Floats]]:
        """In each unit that occurs the observed gain and forgetting (N,) of every arm, each from its last look; NaN
        where there is none."""
        return _means(self.labels, self.looks)

    @property
    def metrics(self) -> list[Metric]:
        """The units that occur."""
        return [unit.metric for unit in self.last.measured.units]


def _last_of(label: str, looks: Sequence[Look]) -> tuple[Look, int]:
    look = next(look for look in reversed(looks) if label in look.labels)
    return look, look.labels.index(label)


def _means(labels: Sequence[str], looks: Sequence[Look]) -> dict[Metric, tuple[Floats, Floats]]:
    found = [_last_of(label, looks) for label in labels]
    means: dict[Metric, tuple[Floats, Floats]] = {}
    for metric in (unit.metric for unit in looks[-1].measured.units):
        units = [(look.measured.unit(metric), a) for look, a in found]
        gain = [np.nan if unit is None or unit.gain is None else unit.gain.mean[a] for unit, a in units]
        lost = [np.nan if unit is None or unit.forgetting is None else unit.forgetting.mean[a] for unit, a in units]
        means[metric] = np.array(gain), np.array(lost)
    return means


def gather(frames: Frames, *, model: str, train_set: str, decision: Decision, looks: Sequence[int] = ()) -> Evidence:
    """Looks at the runs of one base model and training set until the rule answers.

    `looks`: numbers of seeds after which to look, none for one look at every run.

    The looks end where a run is still to do, where the rule answers, where no arm is left that could be the answer, or
    that has seeds enough for the next look. Raises ValueError where there is no such run.
    """
    runs = frames.runs
    mine = runs[(runs["model"] == model) & (runs["train_set"] == train_set)]
    seeds = sorted(mine["seed"].unique())
    unasked = mine[mine["state"] == "not needed"].groupby("arm")["seed"].min()
    reach = {str(arm): seeds.index(unasked[arm]) if arm in unasked else len(seeds) for arm in mine["arm"].unique()}

    def compared(count: int, arms: AbstractSet[str]) -> tuple[Pairing, Iterable[str]]:
        chosen = mine[mine["seed"].isin(seeds[:count]) & mine["arm"].isin(arms)]
        return pair(frames._replace(runs=chosen), model=model, train_set=train_set), chosen["run_id"]

    return follow(compared, set(mine["arm"]), len(seeds), decision, tuple(looks), reach)


def gather_all(frames: Frames, decision: Decision, looks: Sequence[int] = ()) -> dict[tuple[str, str], Evidence]:
    """`gather` of every base model and training set, in order of their names."""
    return {
        (model, train_set): gather(frames, model=model, train_set=train_set, decision=decision, looks=looks)
        for model, train_set in sorted(set(zip(frames.runs["model"], frames.runs["train_set"], strict=True)))
    }


def follow(
    compared: Callable[[int, AbstractSet[str]], tuple[Pairing, Iterable[str]]],
    arms: AbstractSet[str],
    seed_count: int,
    decision: Decision,
    looks: tuple[int, ...] = (),
    reach: Mapping[str, int] | None = None,
) -> Evidence:
    """The looks of `gather`: `compared(count, arms)` pairs these arms on the first `count` seeds and names the runs.

    `reach`: how many seeds each arm was given; after the first look an arm with fewer is no more compared. None: arms
    in contention get every seed, until the most would hardly decide.
    """
    evidence: Evidence | None = None
    for count in looks or (seed_count,):
        if evidence is not None and reach is not None:
            arms = {arm for arm in arms if reach[arm] >= count}
            if not arms:
                break
        pairing, run_ids = compared(count, arms)
        arm_count = len(pairing.labels) if evidence is None else len(evidence.labels)
        units = len({suite.metric for suite in pairing.suites})
        alpha = nominal_alpha(simultaneous_alpha(decision.confidence, arm_count, units), looks)
        evidence = add_look(evidence, take_look(pairing, run_ids, alpha, decision), decision)
        if evidence.last.pairing.unfinished or evidence.ruling.kind.decided:
            break
        arms = {evidence.labels[a] for a in evidence.ruling.candidates}
        if not arms:
            break
        if reach is None and looks and count < looks[-1] and _is_futile(evidence, decision, looks[-1]):
            evidence = replace(evidence, futile=True)
            break
    assert evidence is not None
    return evidence


def take_look(pairing: Pairing, run_ids: Iterable[str], alpha: float, decision: Decision) -> Look:
    """Measures the paired arms, with bounds of error `alpha` each."""
    measured = measure_pairing(pairing, by_suite=decision.suite_margin is not None)
    limits = bounds(measured, closed_form_widths(measured, alpha))
    return Look(frozenset(run_ids), pairing, measured, alpha, limits, tuple(blocks(pairing)))


def add_look(before: Evidence | None, look: Look, decision: Decision) -> Evidence:
    """The evidence with one more look: of each arm and pair the tightest bounds count."""
    looks = (look,) if before is None else (*before.looks, look)
    if before is None:
        labels, limits = look.labels, look.limits
        cost = tuple(float(look.pairing.facts(label).trainable_parameters or 0) for label in labels)
    else:
        labels, cost = before.labels, before.cost
        limits = tightest(before.limits, look.limits, [labels.index(label) for label in look.labels])
    gain = next(iter(_means(labels, looks).values()))[0]
    ruling = judge(limits, cost, [float(value) for value in np.nan_to_num(gain)], decision)
    if ruling.recommended is not None:
        ruling = trusted(ruling, len(_last_of(labels[ruling.recommended], looks)[0].pairing.seeds))
    if look.blocks and (ruling.kind.needs_forgetting or not set(look.blocks) <= set(UNKNOWN_RETENTION)):
        ruling = undecided(ruling)
    return Evidence(looks, labels, cost, limits, ruling)


def _is_futile(evidence: Evidence, decision: Decision, most: int) -> bool:
    """Whether the arms still in contention would stay undecided after `most` seeds, even with good luck."""
    look = evidence.last
    if look.blocks:
        return True
    return not could_decide(look.measured, evidence.last_cost, decision, look.alpha, most)


# ---- what cannot be decided -----------------------------------------------------------------------------------------


def blocks(pairing: Pairing) -> list[str]:
    """Why nothing can be decided, whatever the numbers say; empty where the rule may speak."""
    said = []
    if pairing.unfinished:
        said.append(f"The study is not finished: {pairing.unfinished} of its runs are still to be done.")
    if not pairing.labels:
        return [*said, "No arm has finished runs that could be compared."]
    if len(pairing.seeds) < 2:
        said.append(ONE_SEED if pairing.seeds else ONE_SEED.replace("One seed", "No seed in common"))
    if pairing.missing_suites:
        said.append(f"Not every suite could be compared: {', '.join(pairing.missing_suites)}.")
    if not any(suite.relation == "in-domain" for suite in pairing.suites):
        said.append("No suite of the training set's own domain was scored: what the arms learned is not known.")
    outside = [suite for suite in pairing.suites if suite.relation != "in-domain"]
    if not any(suite.left_out_of_mean is None for suite in outside):
        said.append(NOTHING_TO_FORGET if outside else NO_RETENTION)
    single = [suite.name for suite in pairing.suites if suite.arrays.unit_count < 2]
    if single:
        said.append(f"One item says nothing of others: {', '.join(single)} has a single scored item or cluster.")
    return said
