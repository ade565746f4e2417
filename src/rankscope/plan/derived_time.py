"""How long what is made of trained runs takes, without training: every derived run is scored on every suite."""

from __future__ import annotations

from collections.abc import Sequence

from rankscope.plan.run_time import Clock
from rankscope.records import PlannedRun
from rankscope.study.study import Analysis

_OTHER_DERIVATIONS, _WHOLE_DERIVATIONS = 5, 3
"""Of an adapter besides its lower ranks: by energy, its intruders scaled, with a control, and two dials by layer. Of
each whole model's first seed: its spectrum cut, and the two."""


def seconds_of_derivations(analysis: Analysis, clock: Clock, runs: Sequence[PlannedRun]) -> list[float]:
    """Of each job that makes something of the largest LoRA of one base and training set: one for each lower rank of its
    method, and others."""
    factored = [run.arm for run in runs if run.arm.traits.delta == "factored" and run.fits]
    if not (analysis.enabled and analysis.derived and factored):
        return []
    largest = max(factored, key=lambda arm: arm.rank or 0)
    ranks = {arm.rank for arm in factored if arm.method == largest.method and arm.rank != largest.rank}
    return [clock.scoring(largest)] * (len(ranks) + _OTHER_DERIVATIONS)


def seconds_within_runs(analysis: Analysis, clock: Clock, runs: Sequence[PlannedRun]) -> dict[str, float]:
    """What the first run of each whole method takes beyond its own, by its id: it makes them while its weights are
    there."""
    if not (analysis.enabled and analysis.derived):
        return {}
    first: dict[str, PlannedRun] = {}
    for run in runs:
        if run.arm.traits.whole and run.fits:
            first.setdefault(run.arm.label, run)
    return {run.run_id: _WHOLE_DERIVATIONS * clock.scoring(run.arm) for run in first.values()}
