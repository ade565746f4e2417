"""Every arm's row of a verdict: gain and forgetting with the bounds that its status comes from, and each suite."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from rankscope.decide.crossed_statistics import Estimates, estimate, gain_contrasts
from rankscope.decide.gain_and_forgetting import Measured, intervals, measure_pairing
from rankscope.decide.looks import Evidence, Look
from rankscope.decide.paired_items import Pairing, SuiteScores
from rankscope.decide.run_outcomes import ArmFacts
from rankscope.records import ArmVerdict, Interval, Metric, SuiteOutcome
from rankscope.study.study import Decision

NOTHING = Interval(mean=None, low=None, high=None)


def arm_verdicts(evidence: Evidence, decision: Decision, pair_alone: Callable[[str], Pairing]) -> list[ArmVerdict]:
    """Every arm by trainable parameters; an arm that is not compared is described by its own done runs.

    `pair_alone` pairs one arm, by its label, with the base. An arm that left early stands as in its last look.
    """
    result = []
    for first in evidence.looks[0].pairing.arms:
        label = first.label
        if label in evidence.labels:
            look, place = evidence.of(label)
            arm, pairing, measured = look.pairing.facts(label), look.pairing, look.measured
            parts = {unit.metric: _bounded(evidence, look, label, unit.metric) for unit in measured.units}
            status = evidence.ruling.standing.status(evidence.labels.index(label))
        else:
            arm, pairing, place = first, pair_alone(label), 0
            measured = measure_pairing(pairing)
            some = label in pairing.labels
            parts = {unit.metric: _alone(unit, evidence.last.alpha, 0) for unit in measured.units} if some else {}
            status = arm.problem or "failed"
        seeds = list(pairing.seeds) if label in evidence.labels else list(arm.seeds)
        outcomes = _outcomes(pairing, decision, place) if label in pairing.labels else []
        result.append(_row(arm, parts, outcomes, status, seeds))
    return result


def _row(
    arm: ArmFacts,
    parts: dict[Metric, tuple[Interval, Interval]],
    outcomes: list[SuiteOutcome],
    status: str,
    seeds: list[int],
) -> ArmVerdict:
    gain, forgetting = parts.get("score", (NOTHING, NOTHING))
    gain_nats, forgetting_nats = (None if p.mean is None else p for p in parts.get("loss", (NOTHING, NOTHING)))
    return ArmVerdict(
        label=arm.label,
        method=arm.method,
        rank=arm.rank,
        learning_rate=arm.learning_rate,
        trainable_parameters=arm.trainable_parameters,
        seeds=seeds,
        gain=gain,
        forgetting=forgetting,
        per_suite=outcomes,
        status=status,
        cost=arm.cost,
        dial=arm.dial,
        gain_nats=gain_nats,
        forgetting_nats=forgetting_nats,
    )


def _bounded(evidence: Evidence, look: Look, label: str, metric: Metric) -> tuple[Interval, Interval]:
    """Gain and forgetting of a compared arm with the simultaneous bounds of all looks, in one unit.

    A single seed has no such bounds; what it has are those of its look over items only, as a description.
    """
    unit, place, a = look.measured.unit(metric), evidence.labels.index(label), look.labels.index(label)
    limits = next((limits for limits in evidence.limits.units if limits.metric == metric), None)
    if unit is None or limits is None:
        return NOTHING, NOTHING
    own = _alone(unit, look.alpha, a)
    gain = _within(own[0], float(limits.gain_low[place]), float(limits.gain_high[place]))
    return gain, _within(own[1], float(limits.forgetting_low[place]), float(limits.forgetting_high[place]))


def _within(own: Interval, low: float, high: float) -> Interval:
    known = own.mean is not None and np.isfinite([low, high]).all() and low <= high
    return own.model_copy(update={"low": low, "high": high}) if known else own


def _alone(unit: Measured, alpha: float, a: int) -> tuple[Interval, Interval]:
    """Gain and forgetting of arm `a` with one-sided bounds of error `alpha` on either side, from one look."""
    return _interval(unit.gain, unit.floor.gain, alpha, a), _interval(unit.forgetting, unit.floor.forgetting, alpha, a)


def _interval(part: Estimates | None, floor: float, alpha: float, a: int) -> Interval:
    if part is None:
        return NOTHING
    mean, half = float(part.mean[a]), float(part.half_width(alpha)[a]) + floor
    if min(part.unit_counts) < 2:
        return Interval(mean=mean, low=None, high=None)
    return Interval(mean=mean, low=mean - half, high=mean + half)


# ---- suites ---------------------------------------------------------------------------------------------------------


def _outcomes(pairing: Pairing, decision: Decision, a: int) -> list[SuiteOutcome]:
    return [_outcome(suite, decision, a, len(pairing.labels)) for suite in pairing.suites]


def _outcome(suite: SuiteScores, decision: Decision, a: int, count: int) -> SuiteOutcome:
    """One arm on one suite; its interval is for itself."""
    change = intervals(estimate([suite.arrays], gain_contrasts(count)), decision.confidence, count)[a]
    base, mine = float(suite.base.mean()), float(suite.scores[a].mean())
    losses = suite.metric == "loss"
    return SuiteOutcome(
        suite=suite.name,
        relation=suite.relation,
        kind=suite.kind,
        item_count=len(suite.item_ids),
        base_accuracy=None if losses else base,
        accuracy=None if losses else mine,
        change=change,
        metric=suite.metric,
        base_loss_nats=-base if losses else None,
        loss_nats=-mine if losses else None,
        chance=suite.chance,
        left_out=suite.left_out_of_mean,
    )
