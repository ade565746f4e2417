"""The reasons of a verdict, one sentence for each fact: what each arm did, who is behind whom, what would decide.

A margin or a difference of accuracy is in points (hundredths), of losses in nats per token.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from rankscope.decide.run_outcomes import ArmFacts, Floor
from rankscope.decide.verdict_bounds import Bounds
from rankscope.decide.verdict_rule import Standing, indices
from rankscope.records import ArmVerdict, DetectableEffect, Interval, Metric, MoreNeeded, SuiteNoise
from rankscope.records.readable_numbers import (
    amount,
    bare_amount,
    counted_points,
    listing,
    reason_amount,
    reason_points,
)
from rankscope.study.study import Decision


def rule_sentence(decision: Decision, metrics: Sequence[Metric], arm_count: int, alpha: float) -> str:
    """The rule in one sentence with the study's numbers. `alpha` is the error of each bound."""
    task, kept, least = (
        " and ".join(amount(decision.margins(metric)[part], metric) for metric in metrics) for part in range(3)
    )
    if decision.suite_margin is not None:
        kept += f" (and {counted_points(decision.suite_margin)} on any suite)"
    each = " (of each kind of suite)" if len(metrics) > 1 else ""
    return (
        "Recommend the arm with the fewest trainable parameters that surely gains, surely forgets at most "
        f"{kept}{each} and is surely less than {task} behind every rival that may forget as little; if no arm may gain "
        f"{least}, say so; if only arms that forget more may, show the trade-off; else say that it cannot be told. "
        f"'Surely' is {100 * decision.confidence:g} % confidence shared over the {arm_count} arms compared: each bound "
        f"is one-sided at {alpha:.4g}."
    )


# ---- one sentence per arm -------------------------------------------------------------------------------------------


def arm_sentence(arm: ArmVerdict, decision: Decision) -> str:
    """What an arm learns and forgets, and whether that is within the margins. Its intervals are simultaneous."""
    units: list[tuple[Metric, Interval, Interval]] = [("score", arm.gain, arm.forgetting)]
    if arm.gain_nats is not None or arm.forgetting_nats is not None:
        nothing = Interval(mean=None, low=None, high=None)
        units.append(("loss", arm.gain_nats or nothing, arm.forgetting_nats or nothing))
        units = [unit for unit in units if unit[1].mean is not None or unit[2].mean is not None]
    learned = [_within(gain, metric) for metric, gain, _ in units if gain.mean is not None]
    said = f"{arm.label} learns {listing(learned) if learned else 'an unmeasured number of points'}"
    lost = [(metric, interval) for metric, _, interval in units if interval.mean is not None]
    if not lost:
        return f"{said}; what it forgets was not measured."
    said += f" and forgets {listing([_within(interval, metric) for metric, interval in lost])}"
    if any((interval.mean or 0.0) < 0 for _, interval in lost):
        said += " (below 0 is an improvement)"
    margins = listing([bare_amount(decision.margins(metric).retention, metric) for metric, _ in lost])
    several = "s" if len(lost) > 1 else ""
    if decision.suite_margin is not None:
        margins += f" (of any suite {reason_points(decision.suite_margin)})"
    if arm.status == "eligible":
        return f"{said}, within your margin{several} of {margins}."
    if arm.status == "ineligible":
        return f"{said}, more than your margin{several} of {margins}."
    return f"{said}; whether that is within your margin{several} of {margins} is open."


def _within(interval: Interval, metric: Metric) -> str:
    assert interval.mean is not None
    mean = amount(interval.mean, metric, exact=False)
    if interval.low is None or interval.high is None:
        return mean
    return f"{mean} ({reason_amount(interval.low, metric)} to {reason_amount(interval.high, metric)})"


def rival_sentences(
    labels: Sequence[str], limits: Bounds, standing: Standing, decision: Decision, *, decided: bool
) -> list[str]:
    """For each arm that a rival refutes, or that is not yet good enough: which rival, and by how much.

    Where nothing is `decided` also the arms that may not have learned anything.
    """
    said = []
    for a, label in enumerate(labels):
        for unit in limits.units:
            sentence = _ahead_of(a, labels, unit, standing, decision) or _behind(a, labels, unit, standing, decision)
            if sentence:
                said.append(sentence)
            low = unit.gain_low[a]
            if not decided and not standing.refuted[a] and np.isfinite(low) and low <= 0:
                lowest = amount(low, unit.metric, exact=False)
                said.append(f"{label} may not learn anything: its gain may be as low as {lowest}.")
    return said


def _ahead_of(a: int, labels: Sequence[str], limits: Bounds, standing: Standing, decision: Decision) -> str | None:
    margin = decision.margins(limits.metric).task
    ahead = [b for b in indices(standing.eligible) if b != a and limits.better_by[b, a] > margin]
    if not ahead:
        return None
    best = max(ahead, key=lambda b: float(limits.better_by[b, a]))
    return (
        f"{labels[best]} is surely better than {labels[a]} by more than your margin of {amount(margin, limits.metric)} "
        f"(by at least {reason_amount(limits.better_by[best, a], limits.metric)})."
    )


def _behind(a: int, labels: Sequence[str], limits: Bounds, standing: Standing, decision: Decision) -> str | None:
    rivals = [b for b in indices(~standing.ineligible) if b != a]
    if standing.refuted[a] or standing.good_enough[a] or not rivals:
        return None
    best = min(rivals, key=lambda b: float(limits.better_by[a, b]))
    lag, margin = -limits.better_by[a, best], decision.margins(limits.metric).task
    if not np.isfinite(lag) or lag < margin:
        return None
    behind, allowed = amount(lag, limits.metric, exact=False), bare_amount(margin, limits.metric)
    return f"{labels[a]} may be up to {behind} behind {labels[best]} (your margin is {allowed})."


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
                f"After {count} seeds {listing(left)} could not be the answer any more, or further seeds would have "
                "helped the best bet less."
            )
    asked = f"The verdict was asked after {listing([str(count) for count, _ in looks])} of at most {most} seeds"
    said.append(f"{asked}; its bounds are wider for that.")
    if futile:
        said.append(f"No more seeds were added: {most} would hardly decide, even with some luck.")
    return said


def design_sentences(effect: DetectableEffect, more: MoreNeeded, seeds: int, items: int, *, decided: bool) -> list[str]:
    """What this design can see, and where nothing is `decided` what would decide."""
    said = []
    units: list[tuple[Metric, float | None, float | None]] = [("score", effect.gain, effect.forgetting)]
    units.append(("loss", effect.gain_nats, effect.forgetting_nats))
    for metric, gain, forgetting in units:
        if gain is None:
            continue
        sentence = (
            f"With {seeds} seeds and {items:,} in-domain items, a difference in gain of "
            f"{amount(gain, metric, exact=False)} would be found four times in five"
        )
        if forgetting is not None:
            sentence += f", and forgetting {amount(forgetting, metric, exact=False)} away from your margin"
        said.append(f"{sentence}.")
    if decided:
        return said
    nothing = "No reasonable number of further seeds or items would probably decide."
    return said + (what_would_decide(more) or [nothing])


def what_would_decide(more: MoreNeeded) -> list[str]:
    """The sentence on the seeds or items that would decide; none where no reasonable number would."""
    ways = [f"{more.seeds} more seed{'s' if more.seeds > 1 else ''}"] if more.seeds else []
    ways += [f"{more.items:,} more items in each suite"] if more.items else []
    return [f"What would probably decide: {listing(ways, 'or')}."] if ways else []


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
