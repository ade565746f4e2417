"""The verdict's reasons, in plain words with numbers: accuracy in points (hundredths), one sentence for each fact."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from rankscope.decide.arm_outcomes import ArmFacts
from rankscope.decide.verdict_rule import Bounds, Ruling
from rankscope.records import DetectableEffect, Interval, MoreNeeded
from rankscope.study.study import Decision

Floats = NDArray[np.float64]


def points(value: float) -> str:
    """0.0312 as 3.1; a margin of 0.03 as 3."""
    rounded = round(100 * value, 1) + 0.0
    return f"{rounded:.0f}" if abs(100 * value - round(100 * value)) < 1e-9 else f"{rounded:.1f}"


def counted(value: float) -> str:
    """0.01 as "1 point", 0.03 as "3 points"."""
    return f"{points(value)} point{'' if points(value) == '1' else 's'}"


def one_decimal(value: float) -> str:
    return f"{round(100 * value, 1) + 0.0:.1f}"


def within(interval: Interval) -> str:
    if interval.mean is None:
        return "an unmeasured number of points"
    span = f" ({one_decimal(interval.low)} to {one_decimal(interval.high)})" if _both(interval) else ""  # type: ignore[arg-type]
    return f"{one_decimal(interval.mean)} points{span}"


def _both(interval: Interval) -> bool:
    return interval.low is not None and interval.high is not None


def percent(confidence: float) -> str:
    return f"{100 * confidence:g} %"


def rule_sentence(decision: Decision, arm_count: int, alpha: float) -> str:
    """The rule in one sentence with the study's numbers."""
    return (
        f"Recommend the arm with the fewest trainable parameters that surely gains, surely forgets at most "
        f"{counted(decision.retention_margin)} and is surely less than {counted(decision.task_margin)} "
        f"behind every rival that does not forget more; if no arm may gain {counted(decision.min_gain)}, say so; "
        f"if only arms that forget more may, show the trade-off; else say that it cannot be told. 'Surely' is "
        f"{percent(decision.confidence)} confidence shared over the {arm_count} arms compared: each bound is one-sided "
        f"at {alpha:.4g}."
    )


# ---- one sentence per arm -------------------------------------------------------------------------------------------


def arm_sentence(
    label: str,
    gain: Interval,
    forgetting: Interval,
    status: str,
    low: float,
    high: float,
    decision: Decision,
    arms: int,
) -> str:
    """What an arm learns and forgets. `low` and `high` are the simultaneous bounds of forgetting."""
    said = f"{label} learns {within(gain)}"
    if forgetting.mean is None:
        return f"{said}; what it forgets was not measured."
    said += f" and forgets {within(forgetting)}"
    if forgetting.mean < 0:
        said += " (below 0 is an improvement)"
    margin = points(decision.retention_margin)
    if status == "eligible":
        return f"{said}, within your margin of {margin}."
    if status == "ineligible":
        return f"{said}, more than your margin of {margin}."
    if not np.isfinite([low, high]).all():
        return f"{said}; whether that is within your margin of {margin} cannot be told from this."
    return (
        f"{said}; with the {arms} arms judged together it is {one_decimal(low)} to {one_decimal(high)}, so whether it "
        f"is within your margin of {margin} is open."
    )


def rival_sentences(labels: Sequence[str], bounds: Bounds, ruling: Ruling, decision: Decision) -> list[str]:
    """For each arm that a rival refutes, or that is not yet good enough: which rival, and by how much."""
    said = []
    for a, label in enumerate(labels):
        sentence = _ahead_of(a, labels, bounds, ruling, decision) or _behind(a, labels, bounds, ruling, decision)
        if sentence:
            said.append(sentence)
        low = bounds.gain_low[a]
        if ruling.answer == "cannot_distinguish" and a not in ruling.refuted and np.isfinite(low) and low <= 0:
            said.append(f"{label} may not learn anything: its gain may be as low as {one_decimal(low)} points.")
    return said


def _ahead_of(a: int, labels: Sequence[str], bounds: Bounds, ruling: Ruling, decision: Decision) -> str | None:
    margin = decision.task_margin
    rivals = [b for b, status in enumerate(ruling.status) if b != a and status == "eligible"]
    ahead = [b for b in rivals if bounds.better_by[b, a] > margin]
    if not ahead:
        return None
    best = max(ahead, key=lambda b: bounds.better_by[b, a])
    return (
        f"{labels[best]} is surely better than {labels[a]} by more than your margin of {points(margin)} points "
        f"(by at least {one_decimal(bounds.better_by[best, a])})."
    )


def _behind(a: int, labels: Sequence[str], bounds: Bounds, ruling: Ruling, decision: Decision) -> str | None:
    rivals = [b for b, status in enumerate(ruling.status) if b != a and status != "ineligible"]
    if a in ruling.refuted or ruling.good_enough[a] or not rivals:
        return None
    best = min(rivals, key=lambda b: bounds.better_by[a, b])
    lag = -bounds.better_by[a, best]
    if not np.isfinite(lag):
        return None
    margin = points(decision.task_margin)
    return f"{labels[a]} may be up to {one_decimal(lag)} points behind {labels[best]} (your margin is {margin})."


# ---- the answer -----------------------------------------------------------------------------------------------------


def headline(
    arms: Sequence[ArmFacts], gain: Floats, lost: Floats, bounds: Bounds, ruling: Ruling, decision: Decision
) -> list[str]:
    """The first sentences: what the answer is. `gain` and `lost` are the arms' observed gain and forgetting."""
    labels = [arm.label for arm in arms]
    if ruling.answer == "recommended" and ruling.recommended is not None:
        chosen = arms[ruling.recommended]
        said = [
            f"{chosen.label} ({chosen.trainable_parameters:,} trainable parameters) is the smallest arm that surely "
            f"learns, surely forgets at most {counted(decision.retention_margin)} and is surely less than "
            f"{counted(decision.task_margin)} behind every rival."
        ]
        if ruling.candidates:
            names = ", ".join(labels[a] for a in ruling.candidates)
            said.append(f"Cheaper, and not settled by this evidence: {names}.")
        return said
    if ruling.answer == "no_gain":
        best = int(np.argmax(bounds.gain_high))
        return [
            f"No arm learns as much as {counted(decision.min_gain)}: the most that any may have learned is "
            f"{one_decimal(bounds.gain_high[best])} points ({labels[best]})."
        ]
    if ruling.answer == "tradeoff":
        return [
            f"Every arm that may learn {counted(decision.min_gain)} forgets more than your margin of "
            f"{points(decision.retention_margin)}: there is a price to pay, and only you know what it is worth.",
            *front(labels, gain, lost),
        ]
    names = ", ".join(labels[a] for a in ruling.candidates)
    return ["The evidence cannot tell yet." + (f" Still possible: {names}." if names else "")]


def front(labels: Sequence[str], gain: Floats, lost: Floats) -> list[str]:
    """The arms that no other arm beats on both axes, by gain, each with its price."""
    kept = [
        a
        for a in range(len(labels))
        if gain[a] > 0
        and not any(
            gain[b] >= gain[a] and lost[b] <= lost[a] and (gain[b] > gain[a] or lost[b] < lost[a])
            for b in range(len(labels))
        )
    ]
    return [
        f"On the front: {labels[a]} learns {one_decimal(gain[a])} points for {one_decimal(lost[a])} forgotten "
        f"({lost[a] / gain[a]:.2f} forgotten for each point learned)."
        for a in sorted(kept, key=lambda a: gain[a])
    ]


def set_aside_sentence(arm: ArmFacts) -> str:
    detail = f" ({arm.reason})" if arm.reason else ""
    return f"{arm.label} could not be compared: {arm.problem}{detail}."


def seed_sentences(looks: Sequence[tuple[int, Sequence[str]]], most: int, *, futile: bool) -> list[str]:
    """What adaptive seeds did. `looks`: seeds and the arms that were compared on them."""
    said = []
    for (count, before), (_, after) in pairwise(looks):
        left = [label for label in before if label not in after]
        if left:
            said.append(
                f"After {count} seeds {_listed(left)} could not be the answer any more and got no further seeds."
            )
    asked = f"The verdict was asked after {_listed([str(count) for count, _ in looks])} of at most {most} seeds"
    said.append(f"{asked}; its bounds are wider for that.")
    if futile:
        said.append(f"No more seeds were added: {most} would hardly decide, even with some luck.")
    return said


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def design_sentences(effect: DetectableEffect, more: MoreNeeded, seeds: int, items: int, answer: str) -> list[str]:
    """What this design can see, and what would decide."""
    said = []
    if effect.gain is not None:
        sentence = (
            f"With {seeds} seeds and {items:,} in-domain items, a difference in gain of {one_decimal(effect.gain)} "
            "points would be found four times in five"
        )
        if effect.forgetting is not None:
            sentence += f", and forgetting {one_decimal(effect.forgetting)} points away from your margin"
        said.append(f"{sentence}.")
    if answer != "cannot_distinguish":
        return said
    if more.seeds is None and more.items is None:
        return [*said, "No reasonable number of further seeds or items would decide, were these estimates the truth."]
    ways = []
    if more.seeds is not None:
        ways.append(f"{more.seeds} more seed{'s' if more.seeds > 1 else ''}")
    if more.items is not None:
        ways.append(f"{more.items:,} more items in each suite")
    return [*said, f"What would decide, were these estimates the truth: {' or '.join(ways)}."]
