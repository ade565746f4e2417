"""The rule of the verdict: where each arm stands on its bounds, and the sentences that give the reasons.

`verdict_kinds.py` makes the answer of how the arms stand. In a reason accuracy is in points (hundredths), and there is
one sentence for each fact.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rankscope.decide.gain_and_forgetting import Bounds
from rankscope.decide.run_outcomes import ArmFacts, Floor
from rankscope.records import ArmVerdict, DetectableEffect, Interval, MoreNeeded, SuiteNoise
from rankscope.records.readable_numbers import counted_points, listing, reason_decimal, reason_points
from rankscope.study.study import Decision

Truths = NDArray[np.bool_]


class Standing(NamedTuple):
    """Where N arms stand on their bounds, (N,) each. `cost` is trainable parameters, `preference` the observed gain."""

    eligible: Truths
    """Surely forgets at most the margin."""
    ineligible: Truths
    """Surely forgets more."""
    good_enough: Truths
    """Surely less than the margin behind every rival that is not ineligible."""
    refuted: Truths
    """Ineligible, or surely behind an eligible rival by more than the margin."""
    may_count: Truths
    """May have learned the least gain that counts."""
    may_gain: Truths
    surely_gains: Truths
    cost: Sequence[float]
    preference: Sequence[float]

    def status(self, arm: int) -> str:
        """`eligible`, `ineligible` or `open`."""
        return "eligible" if self.eligible[arm] else "ineligible" if self.ineligible[arm] else "open"

    def in_contention(self) -> list[int]:
        """The arms that may be the answer: not refuted, and with a gain that may be above 0."""
        return indices(~self.refuted & self.may_gain)


def stand(limits: Bounds, cost: Sequence[float], preference: Sequence[float], decision: Decision) -> Standing:
    """Compares every arm with the margins and with its rivals; `cost` and `preference`: (N,)."""
    eligible = limits.forgetting_high <= decision.retention_margin
    ineligible = limits.forgetting_low > decision.retention_margin
    rival = ~np.eye(len(eligible), dtype=bool)
    near = (limits.better_by > -decision.task_margin) | ~rival | ineligible[None, :]
    beaten_by = limits.better_by.T  # (N, N): by how much the rival in the column is ahead
    beaten = (beaten_by > decision.task_margin) & rival & eligible[None, :]
    return Standing(
        eligible=eligible,
        ineligible=ineligible,
        good_enough=np.logical_and.reduce(near, axis=1),
        refuted=ineligible | beaten.any(axis=1),
        may_count=limits.gain_high >= decision.min_gain,
        may_gain=limits.gain_high > 0,
        surely_gains=limits.gain_low > 0,
        cost=cost,
        preference=preference,
    )


def indices(arms: Truths) -> list[int]:
    """The arms of which it is true."""
    return [int(a) for a in np.flatnonzero(arms)]


def rule_sentence(decision: Decision, arm_count: int, alpha: float) -> str:
    """The rule in one sentence with the study's numbers. `alpha` is the error of each bound."""
    task, retention = counted_points(decision.task_margin), counted_points(decision.retention_margin)
    return (
        "Recommend the arm with the fewest trainable parameters that surely gains, surely forgets at most "
        f"{retention} and is surely less than {task} behind every rival that does not forget more; if no arm may gain "
        f"{counted_points(decision.min_gain)}, say so; if only arms that forget more may, show the trade-off; else say "
        f"that it cannot be told. 'Surely' is {100 * decision.confidence:g} % confidence shared over the {arm_count} "
        f"arms compared: each bound is one-sided at {alpha:.4g}."
    )


# ---- one sentence per arm -------------------------------------------------------------------------------------------


def arm_sentence(arm: ArmVerdict, low: float, high: float, decision: Decision, arm_count: int) -> str:
    """What an arm learns and forgets. `low` and `high` are the simultaneous bounds of forgetting over all arms."""
    said = f"{arm.label} learns {_within(arm.gain)}"
    if arm.forgetting.mean is None:
        return f"{said}; what it forgets was not measured."
    said += f" and forgets {_within(arm.forgetting)}"
    if arm.forgetting.mean < 0:
        said += " (below 0 is an improvement)"
    margin = reason_points(decision.retention_margin)
    if arm.status == "eligible":
        return f"{said}, within your margin of {margin}."
    if arm.status == "ineligible":
        return f"{said}, more than your margin of {margin}."
    if not np.isfinite([low, high]).all():
        return f"{said}; whether that is within your margin of {margin} cannot be told from this."
    return (
        f"{said}; with the {arm_count} arms judged together it is {reason_decimal(low)} to {reason_decimal(high)}, so "
        f"whether it is within your margin of {margin} is open."
    )


def _within(interval: Interval) -> str:
    if interval.mean is None:
        return "an unmeasured number of points"
    mean = f"{reason_decimal(interval.mean)} points"
    if interval.low is None or interval.high is None:
        return mean
    return f"{mean} ({reason_decimal(interval.low)} to {reason_decimal(interval.high)})"


def rival_sentences(
    labels: Sequence[str], limits: Bounds, standing: Standing, decision: Decision, *, decided: bool
) -> list[str]:
    """For each arm that a rival refutes, or that is not yet good enough: which rival, and by how much.

    Where nothing is `decided` also the arms that may not have learned anything.
    """
    said = []
    for a, label in enumerate(labels):
        sentence = _ahead_of(a, labels, limits, standing, decision) or _behind(a, labels, limits, standing, decision)
        if sentence:
            said.append(sentence)
        low = limits.gain_low[a]
        if not decided and not standing.refuted[a] and np.isfinite(low) and low <= 0:
            said.append(f"{label} may not learn anything: its gain may be as low as {reason_decimal(low)} points.")
    return said


def _ahead_of(a: int, labels: Sequence[str], limits: Bounds, standing: Standing, decision: Decision) -> str | None:
    margin = decision.task_margin
    ahead = [b for b in indices(standing.eligible) if b != a and limits.better_by[b, a] > margin]
    if not ahead:
        return None
    best = max(ahead, key=lambda b: float(limits.better_by[b, a]))
    return (
        f"{labels[best]} is surely better than {labels[a]} by more than your margin of {reason_points(margin)} points "
        f"(by at least {reason_decimal(limits.better_by[best, a])})."
    )


def _behind(a: int, labels: Sequence[str], limits: Bounds, standing: Standing, decision: Decision) -> str | None:
    rivals = [b for b in indices(~standing.ineligible) if b != a]
    if standing.refuted[a] or standing.good_enough[a] or not rivals:
        return None
    best = min(rivals, key=lambda b: float(limits.better_by[a, b]))
    lag = -limits.better_by[a, best]
    if not np.isfinite(lag):
        return None
    margin = reason_points(decision.task_margin)
    return f"{labels[a]} may be up to {reason_decimal(lag)} points behind {labels[best]} (your margin is {margin})."


# ---- what the study can tell ----------------------------------------------------------------------------------------


def set_aside_sentence(arm: ArmFacts) -> str:
    """Why an arm could not be compared."""
    detail = f" ({arm.reason})" if arm.reason else ""
    return f"{arm.label} could not be compared: {arm.problem}{detail}."


def seed_sentences(looks: Sequence[tuple[int, Sequence[str]]], most: int, *, futile: bool) -> list[str]:
    """What adaptive seeds did. `looks`: seeds and the arms that were compared on them."""
    said = []
    for (count, before), (_, after) in pairwise(looks):
        left = [label for label in before if label not in after]
        if left:
            said.append(
                f"After {count} seeds {listing(left)} could not be the answer any more and got no further seeds."
            )
    asked = f"The verdict was asked after {listing([str(count) for count, _ in looks])} of at most {most} seeds"
    said.append(f"{asked}; its bounds are wider for that.")
    if futile:
        said.append(f"No more seeds were added: {most} would hardly decide, even with some luck.")
    return said


def design_sentences(effect: DetectableEffect, more: MoreNeeded, seeds: int, items: int, *, decided: bool) -> list[str]:
    """What this design can see, and where nothing is `decided` what would decide."""
    said = []
    if effect.gain is not None:
        sentence = (
            f"With {seeds} seeds and {items:,} in-domain items, a difference in gain of {reason_decimal(effect.gain)} "
            "points would be found four times in five"
        )
        if effect.forgetting is not None:
            sentence += f", and forgetting {reason_decimal(effect.forgetting)} points away from your margin"
        said.append(f"{sentence}.")
    if decided:
        return said
    nothing = "No reasonable number of further seeds or items would decide, were these estimates the truth."
    return said + (what_would_decide(more) or [nothing])


def what_would_decide(more: MoreNeeded) -> list[str]:
    """The sentence on the seeds or items that would decide; none where no reasonable number would."""
    ways = [f"{more.seeds} more seed{'s' if more.seeds > 1 else ''}"] if more.seeds else []
    ways += [f"{more.items:,} more items in each suite"] if more.items else []
    return [f"What would decide, were these estimates the truth: {listing(ways, 'or')}."] if ways else []


def noise_sentences(found: Sequence[SuiteNoise], floor: Floor) -> list[str]:
    """What a second scoring of the base changed; nothing where there was none."""
    if not found:
        return []
    changed, count = sum(one.changed_items for one in found), sum(one.item_count for one in found)
    if not changed:
        return [f"Scored again in other batches, none of the base's {count:,} items changes."]
    return [
        f"Scored again in other batches, {changed:,} of the base's {count:,} items change by numerics alone: the "
        f"bounds of gain are wider by {100 * floor.gain:.2f} points for that, those of forgetting by "
        f"{100 * floor.forgetting:.2f}."
    ]
