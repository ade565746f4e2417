"""How long what is made of trained runs takes, without training: every derived run is scored on every suite."""

from __future__ import annotations

from collections.abc import Sequence

from rankscope.plan.gang_choice import gang_seconds
from rankscope.plan.placement import Claim
from rankscope.plan.run_time import Clock
from rankscope.records import PlannedRun
from rankscope.study.study import Analysis

_OTHER_DERIVATIONS, _WHOLE_DERIVATIONS = 5, 3
"""Of an adapter besides its lower ranks: by energy, its intruders scaled, with a control, and two dials by layer. Of
each whole model's first seed: its spectrum cut, and the two."""


def derivations(analysis: Analysis, clock: Clock, runs: Sequence[PlannedRun]) -> list[Claim]:
    """What each job takes that makes something of the largest LoRA of one base and training set: one for each lower
    rank of its method, and others."""
    factored = [run for run in runs if run.arm.traits.delta == "factored" and run.fits]
    if not (analysis.enabled and analysis.derived and factored):
        return []
    largest = max(factored, key=lambda run: run.arm.rank or 0)
    arm, gang = largest.arm, largest.scoring
    ranks = {run.arm.rank for run in factored if run.arm.method == arm.method and run.arm.rank != arm.rank}
    each = Claim(gang.size, largest.host_bytes, gang_seconds(clock.scoring(arm), gang))
    return [each] * (len(ranks) + _OTHER_DERIVATIONS)


def seconds_within_runs(analysis: Analysis, clock: Clock, runs: Sequence[PlannedRun]) -> dict[str, float]:
    """What the first run of each whole method takes beyond its own, by its id: it makes them while its weights are
    there."""
    if not (analysis.enabled and analysis.derived):
        return {}
    first: dict[str, PlannedRun] = {}
    for run in runs:
        if run.arm.traits.whole and run.fits:
            first.setdefault(run.arm.label, run)
    return {
        run.run_id: gang_seconds(_WHOLE_DERIVATIONS * clock.scoring(run.arm), run.scoring) for run in first.values()
    }
