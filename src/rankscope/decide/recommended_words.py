"""What must not be left unsaid of a recommended arm: the suite that it loses most on, and arms that learn more but
forget too much."""

from __future__ import annotations

from collections.abc import Sequence

from rankscope.records import ArmVerdict, Interval, Metric, SuiteOutcome
from rankscope.records.readable_numbers import amount, interval_of, listing, points
from rankscope.study.study import Decision


def what_it_does(arm: ArmVerdict) -> str:
    """`it gains +30.3 points (...) and forgets 1.4 points (...), most on law (2.0 points)`."""
    lost = [interval_of(interval, metric, sign=False) for metric, _, interval in _units(arm) if interval is not None]
    gained = [interval_of(interval, metric) for metric, interval, _ in _units(arm) if interval is not None]
    said = f"it gains {listing(gained)} and forgets {listing(lost)}"
    if (arm.forgetting.mean or 0.0) < 0:
        said += ", below 0 being an improvement"
    worst = worst_suite(arm)
    if worst is not None and _lost(worst) > 0:
        said += f", most on {worst.suite} ({amount(_lost(worst), worst.metric, exact=False)})"
    return said


def lost_too_much(arm: ArmVerdict, decision: Decision) -> str:
    """`, though law loses 12.0 points` where a suite of scores loses more than the margin of their mean."""
    worst = worst_suite(arm)
    if worst is None or worst.metric == "loss" or _lost(worst) <= decision.retention_margin:
        return ""
    return f", though {worst.suite} loses {points(_lost(worst), sign=False)} points"


def ahead_and_out(arms: Sequence[ArmVerdict], chosen: ArmVerdict, decision: Decision) -> list[str]:
    """The arms that learn more than the chosen one by more than the margin, and surely forget too much."""
    said = []
    for other in (arm for arm in arms if arm.status == "ineligible"):
        for (metric, mine, _), (_, theirs, _) in zip(_units(chosen), _units(other), strict=True):
            if mine is None or theirs is None:
                continue
            ahead = (theirs.mean or 0.0) - (mine.mean or 0.0)
            if ahead > decision.margins(metric).task:
                more = amount(ahead, metric, exact=False)
                said.append(f"{other.label} learns {more} more, but surely forgets more than your margin.")
    return said


def worst_suite(arm: ArmVerdict) -> SuiteOutcome | None:
    """The suite of scores on which an arm forgets most; of losses where there are only those."""
    judged = [o for o in arm.per_suite if o.relation != "in-domain" and o.left_out is None]
    judged = [outcome for outcome in judged if outcome.change.mean is not None]
    judged = [outcome for outcome in judged if outcome.metric == "score"] or judged
    return max(judged, key=_lost, default=None)


def _lost(outcome: SuiteOutcome) -> float:
    return -(outcome.change.mean or 0.0)


def _units(arm: ArmVerdict) -> list[tuple[Metric, Interval | None, Interval | None]]:
    """Gain and forgetting of an arm in each unit, None where it has none."""
    gain, lost = (None if part.mean is None else part for part in (arm.gain, arm.forgetting))
    return [("score", gain, lost), ("loss", arm.gain_nats, arm.forgetting_nats)]
