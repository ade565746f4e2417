"""The verdict's records of each arm: what was measured, by suite, and what it cost."""

from __future__ import annotations

from collections.abc import Callable

from rankscope.decide.arm_outcomes import ArmFacts
from rankscope.decide.crossed_statistics import estimate, gain_contrasts
from rankscope.decide.gain_and_forgetting import Measured, intervals, measure_pairing
from rankscope.decide.looks import Evidence
from rankscope.decide.paired_items import Pairing, SuiteScores
from rankscope.records import ArmVerdict, Interval, Recommended, SuiteOutcome
from rankscope.study.study import Decision

_NOTHING = Interval(mean=None, low=None, high=None)


def recommended(arm: ArmFacts) -> Recommended:
    """The settings of the chosen arm."""
    return Recommended(
        label=arm.label,
        method=arm.method,
        rank=arm.rank,
        alpha=arm.alpha,
        targets=arm.targets,
        learning_rate=arm.learning_rate,
        trainable_parameters=arm.trainable_parameters or 0,
    )


def arm_verdicts(evidence: Evidence, decision: Decision, pair_alone: Callable[[str], Pairing]) -> list[ArmVerdict]:
    """Every arm by trainable parameters; an arm that is not compared is described by its own done runs.

    `pair_alone` pairs one arm, by its label, with the base. An arm that left early stands as in its last look.
    """
    described = {
        label: rows
        for look in evidence.looks
        for label, rows in _described(look.pairing, look.measured, decision).items()
    }
    result = []
    for first in evidence.looks[0].pairing.arms:
        arm = first
        if first.label in evidence.labels:
            look, _ = evidence.of(first.label)
            arm = look.pairing.facts(first.label)
            gain, forgetting, outcomes = described[arm.label]
            status = evidence.ruling.status[evidence.labels.index(arm.label)]
            seeds = list(look.pairing.seeds)
        else:
            alone = pair_alone(arm.label)
            rows = _described(alone, measure_pairing(alone), decision) if alone.seeds else {}
            gain, forgetting, outcomes = rows.get(arm.label, (_NOTHING, _NOTHING, []))
            status, seeds = arm.problem or "failed", list(arm.seeds)
        result.append(
            ArmVerdict(
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
            )
        )
    return result


def _described(
    pairing: Pairing, measured: Measured, decision: Decision
) -> dict[str, tuple[Interval, Interval, list[SuiteOutcome]]]:
    count = len(pairing.labels)
    gain = intervals(measured.gain, decision.confidence, count)
    forgetting = intervals(measured.forgetting, decision.confidence, count)
    by_suite = [_outcomes(suite, decision, count) for suite in pairing.suites]
    return {
        label: (gain[a], forgetting[a], [outcomes[a] for outcomes in by_suite])
        for a, label in enumerate(pairing.labels)
    }


def _outcomes(suite: SuiteScores, decision: Decision, count: int) -> list[SuiteOutcome]:
    change = intervals(estimate([suite.arrays], gain_contrasts(count)), decision.confidence, count)
    return [
        SuiteOutcome(
            suite=suite.name,
            relation=suite.relation,
            kind=suite.kind,
            item_count=len(suite.item_ids),
            base_accuracy=float(suite.base.mean()),
            accuracy=float(suite.scores[a].mean()),
            change=change[a],
        )
        for a in range(count)
    ]
