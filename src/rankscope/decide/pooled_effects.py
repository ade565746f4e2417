"""Pools what several studies found into default ranks and learning rates, each with an interval (random effects)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm, t

from rankscope.decide.looks import Evidence
from rankscope.decide.run_outcomes import ArmFacts
from rankscope.records import DefaultArm, Defaults, PooledInterval
from rankscope.study.study import Decision


@dataclass(frozen=True)
class Pooled:
    """The mean effect with its two-sided interval; `tau`: how much the true effect spreads over studies."""

    mean: float
    low: float
    high: float
    tau: float
    studies: int


def random_effects(effects: Sequence[float], variances: Sequence[float], confidence: float = 0.95) -> Pooled:
    """Pools effects of studies that may truly differ, with their variances.

    DerSimonian & Laird's (1986) between-study variance, and the interval of Hartung & Knapp (2001) with k - 1 degrees
    of freedom, its scale never below 1 (Röver, Knapp & Friede 2015: few studies that agree by chance are no certainty).
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


GRID_VARIANCE = 0.5**2 / 12
"""Of a searched rate, in decades: it lies anywhere within half a decade of the grid."""

Key = tuple[str, int | None, float | None, tuple[str, ...] | str | None, int | None]
"""What makes two arms of different studies the same: method, rank, alpha over rank, targets, decade of the rate. An arm
is a rank with its rate: at another rate it is another arm."""


@dataclass(frozen=True)
class StudyArm:
    """One arm in one study: difference of gain to the reference and forgetting as (effect, variance), and the rate that
    was searched; None where there is none. `is_reference`: it is what the others were compared with."""

    study: str
    key: Key
    trainable_parameters: int
    recommended: bool
    gain_difference: tuple[float, float] | None
    forgetting: tuple[float, float] | None
    searched_rate: float | None
    is_reference: bool = False


def study_arms(study: str, evidence: Evidence, searched: dict[str, float]) -> list[StudyArm]:
    """What a study says of each of its compared arms. `searched`: the chosen rates, by arm.

    The reference is the eligible arm with the most observed gain, of the same look: an arm that forgets too much, or
    was trained at a bad rate, is nothing that others should be as good as. Where no arm is eligible there is none. Arms
    with a remedy are left out, and those that were trained elsewhere: a default is of plain arms at known rates.
    """
    found = []
    eligible = {label for a, label in enumerate(evidence.labels) if evidence.ruling.standing.eligible[a]}
    for place, label in enumerate(evidence.labels):
        look, a = evidence.of(label)
        arm, parts = look.pairing.facts(label), look.measured
        if arm.remedy is not None or not arm.cost.trained_here:
            continue
        reference = None
        if parts.gain is not None and any(other in eligible for other in look.labels):
            kept = [i for i, other in enumerate(look.labels) if other in eligible]
            reference = max(kept, key=lambda i: float(parts.gain.mean[i]) if parts.gain is not None else 0.0)
        difference = None
        if parts.differences is not None and reference is not None and reference != a:
            pair = parts.pairs.index((min(a, reference), max(a, reference)))
            sign = 1.0 if a < reference else -1.0
            difference = (sign * float(parts.differences.mean[pair]), float(parts.differences.variance[pair]))
        lost = parts.forgetting
        found.append(
            StudyArm(
                study=study,
                key=_key(arm, searched.get(label, arm.learning_rate)),
                trainable_parameters=arm.trainable_parameters or 0,
                recommended=evidence.ruling.recommended == place,
                gain_difference=difference,
                forgetting=None if lost is None else (float(lost.mean[a]), float(lost.variance[a])),
                searched_rate=searched.get(label),
                is_reference=reference == a,
            )
        )
    return found


def _key(arm: ArmFacts, rate: float | None) -> Key:
    scale = round(arm.alpha / arm.rank, 6) if arm.alpha is not None and arm.rank else None
    targets = tuple(arm.targets) if isinstance(arm.targets, list) else arm.targets
    return arm.method, arm.rank, scale, targets, None if not rate else math.floor(math.log10(rate) + 1e-9)


def pool(arms: Sequence[StudyArm], decision: Decision) -> Defaults:
    """One row for each kind of arm and decade of its rate, by trainable parameters.

    The default is the smallest one whose pooled difference of gain is surely above -task_margin, and whose pooled
    forgetting is surely at most retention_margin. Raises ValueError for no arm.
    """
    groups: dict[Key, list[StudyArm]] = {}
    for arm in sorted(arms, key=lambda arm: arm.trainable_parameters):
        groups.setdefault(arm.key, []).append(arm)
    rows = [_row(key, group, decision.confidence) for key, group in groups.items()]
    good = [i for i, row in enumerate(rows) if _good(row, decision)]
    studies = sorted({arm.study for arm in arms})
    over = "1 study" if len(studies) == 1 else f"{len(studies)} studies"
    if good:
        row = rows[good[0]]
        said = (
            f"{_name(row)} is the smallest arm that surely forgets no more than the margin and surely gains what the "
            f"best of those arms gains, within the margin, over {over}."
        )
    else:
        said = f"No arm is surely within the margins over {over}: no default can be told yet."
    return Defaults(
        studies=studies,
        confidence=decision.confidence,
        task_margin=decision.task_margin,
        retention_margin=decision.retention_margin,
        default=good[0] if good else None,
        reason=said,
        arms=rows,
    )


def _row(key: Key, group: Sequence[StudyArm], confidence: float) -> DefaultArm:
    method, rank, scale, targets, decade = key
    rates = [(math.log10(arm.searched_rate), GRID_VARIANCE) for arm in group if arm.searched_rate is not None]
    rate = _pooled(rates, confidence)
    if rate is not None:
        powers = {name: 10.0 ** getattr(rate, name) for name in ("mean", "low", "high")}
        rate = rate.model_copy(update=powers)
    return DefaultArm(
        method=method,
        rank=rank,
        alpha_per_rank=scale,
        targets=list(targets) if isinstance(targets, tuple) else targets,
        studies=len({arm.study for arm in group}),
        recommended_in=sum(arm.recommended for arm in group),
        gain_difference=_pooled([arm.gain_difference for arm in group if arm.gain_difference is not None], confidence),
        forgetting=_pooled([arm.forgetting for arm in group if arm.forgetting is not None], confidence),
        learning_rate=rate,
        learning_rate_decade=decade,
        reference_in=len({arm.study for arm in group if arm.is_reference}),
    )


def _pooled(found: Sequence[tuple[float, float]], confidence: float) -> PooledInterval | None:
    if not found:
        return None
    pooled = random_effects([effect for effect, _ in found], [variance for _, variance in found], confidence)
    return PooledInterval(mean=pooled.mean, low=pooled.low, high=pooled.high, tau=pooled.tau, studies=pooled.studies)


def _good(row: DefaultArm, decision: Decision) -> bool:
    kept = row.forgetting is not None and row.forgetting.high <= decision.retention_margin
    if row.gain_difference is None:  # nothing is behind the best where it was itself the best in every study
        return kept and row.reference_in == row.studies
    return kept and row.gain_difference.low > -decision.task_margin


def _name(row: DefaultArm) -> str:
    name = row.method if row.rank is None else f"{row.method} r={row.rank}"
    if row.learning_rate_decade is None:
        return name
    return f"{name} (learning rate 1e{row.learning_rate_decade} to 1e{row.learning_rate_decade + 1})"
