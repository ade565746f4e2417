"""The verdict in words, and numbers as people read them. Shared by the page, the model card and the terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import ROUND_HALF_UP, Decimal

from rankscope.records import ArmVerdict, Interval, SuiteOutcome, Verdict

HEADLINES = {
    "recommended": "Recommended",
    "tradeoff": "A trade-off",
    "no_gain": "No gain",
    "cannot_distinguish": "Not decided yet",
}
NOT_MEASURED = "not measured"


def is_number(value: object) -> bool:
    """Whether a cell holds a finite number (pandas writes a missing one as NaN, a record as None)."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def points(share: float | None, *, sign: bool = True) -> str:
    """A difference of accuracy as percentage points: 0.123 is `+12.3`."""
    if share is None or not math.isfinite(share):
        return "?"
    rounded = _one_decimal(100 * share)
    return f"{rounded:+}" if sign and rounded else str(rounded)


def _one_decimal(value: float) -> Decimal:
    """Halves away from 0, as the charts round, and no -0.0; float noise (8.749999999) is not seen."""
    return Decimal(f"{value:.6f}").quantize(Decimal("0.1"), ROUND_HALF_UP) + Decimal("0.0")


def interval_points(interval: Interval, *, sign: bool = True) -> str:
    """`+12.3 points (+10.1 to +14.5)`; without an interval it says so."""
    if interval.mean is None:
        return NOT_MEASURED
    mean = f"{points(interval.mean, sign=sign)} points"
    if interval.low is None or interval.high is None:
        return f"{mean} (no interval)"
    return f"{mean} ({points(interval.low, sign=sign)} to {points(interval.high, sign=sign)})"


def percent(share: float | None) -> str:
    return NOT_MEASURED if share is None or not math.isfinite(share) else f"{_one_decimal(100 * share)} %"


def parameters(count: int | float | None) -> str:
    """Three digits at most: 1_234_567 is `1.23 M`."""
    if count is None or not is_number(count):
        return NOT_MEASURED
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if count >= size:
            return f"{count / size:.3g}{unit}"
    return str(int(count))


def size(byte_count: int | float | None) -> str:
    """Decimal units, as disks and cards are sold: 1_500_000 is `1.5 MB`."""
    if byte_count is None or not is_number(byte_count):
        return NOT_MEASURED
    for unit_bytes, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if byte_count >= unit_bytes:
            number = byte_count / unit_bytes
            return f"{number:.0f} {unit}" if number >= 100 else f"{number:.1f} {unit}"
    return f"{int(byte_count)} B"


def duration(seconds: float | None) -> str:
    if seconds is None or not is_number(seconds):
        return NOT_MEASURED
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h"


def rate(learning_rate: float | None) -> str:
    """A learning rate as people write it: 0.0002 is `2e-4`."""
    if learning_rate is None or not math.isfinite(learning_rate):
        return "none"
    mantissa, exponent = f"{learning_rate:.1e}".split("e")
    return f"{mantissa.removesuffix('.0')}e{int(exponent)}"


def listing(names: Sequence[str], joiner: str = "and") -> str:
    if len(names) <= 1:
        return "".join(names)
    return f"{', '.join(names[:-1])} {joiner} {names[-1]}"


def arm_of(verdict: Verdict, label: str) -> ArmVerdict | None:
    return next((arm for arm in verdict.arms if arm.label == label), None)


def headline(verdict: Verdict) -> str:
    """The answer in a few words, for a title."""
    if verdict.recommended is not None:
        return f"{HEADLINES[verdict.kind]}: {verdict.recommended.label}"
    return HEADLINES[verdict.kind]


def sentence(verdict: Verdict) -> str:
    """The answer in one sentence."""
    if verdict.recommended is not None:
        return _recommended_sentence(verdict)
    if verdict.kind == "tradeoff":
        named = f", among {listing(verdict.candidates)}" if verdict.candidates else ""
        return f"Every arm that may gain enough forgets more than the margin allows, so the choice is yours{named}."
    if verdict.kind == "no_gain":
        return "No arm gains enough on the in-domain suites to be worth training: keep the base model."
    verb = "remains" if len(verdict.candidates) == 1 else "remain"
    remain = f": {listing(verdict.candidates)} {verb} possible" if verdict.candidates else ""
    return f"The evidence cannot tell the arms apart yet{remain}.{_more_needed(verdict)}"


def _recommended_sentence(verdict: Verdict) -> str:
    chosen = verdict.recommended
    assert chosen is not None
    arm = arm_of(verdict, chosen.label)
    size_words = f"training {parameters(chosen.trainable_parameters)} parameters"
    if arm is None:
        return f"Use {chosen.label}, {size_words}."
    forgetting = interval_points(arm.forgetting, sign=False)
    better = ", below 0 being an improvement" if (arm.forgetting.mean or 0.0) < 0 else ""
    return f"Use {chosen.label}: it gains {interval_points(arm.gain)} and forgets {forgetting}{better}, {size_words}."


def _more_needed(verdict: Verdict) -> str:
    needed = []
    if verdict.more_needed.seeds:
        needed.append(f"{verdict.more_needed.seeds:,} more seed{'s' if verdict.more_needed.seeds > 1 else ''}")
    if verdict.more_needed.items:
        needed.append(f"{verdict.more_needed.items:,} more items in each suite")
    return f" What would decide, were these estimates the truth: {listing(needed, 'or')}." if needed else ""


def confidence_sentence(verdict: Verdict, confidence: float | None) -> str:
    """How sure the answer is, and what the design could have found."""
    parts = []
    if confidence is not None:
        parts.append(f"Intervals and the decision hold at {100 * confidence:g} % confidence.")
    effect = verdict.minimum_detectable_effect
    found = [
        f"a difference of {points(value, sign=False)} points in {name}"
        for name, value in (("gain", effect.gain), ("forgetting", effect.forgetting))
        if value is not None
    ]
    if found:
        parts.append(f"This design finds {listing(found)} with 80 % power; smaller ones may stay unseen.")
    seeds = {len(arm.seeds) for arm in verdict.arms if arm.seeds}
    if seeds == {1}:
        parts.append("Every arm has one seed: that describes, it does not decide.")
    return " ".join(parts)


def lost_suites(arm: ArmVerdict) -> list[SuiteOutcome]:
    """The suites outside the training domain on which the arm went down, the greatest loss first."""
    lost = [
        outcome
        for outcome in arm.per_suite
        if outcome.relation != "in-domain" and outcome.change.mean is not None and outcome.change.mean < 0
    ]
    return sorted(lost, key=lambda outcome: outcome.change.mean or 0.0)


def forgotten_sentence(arm: ArmVerdict) -> str:
    """What an arm forgot, suite by suite, and which losses are surely losses."""
    others = [outcome for outcome in arm.per_suite if outcome.relation != "in-domain"]
    if not others:
        return f"{arm.label}: forgetting is unknown, because no suite lies outside the training domain."
    if all(outcome.change.mean is None for outcome in others):
        return f"{arm.label}: forgetting was not measured ({arm.status})."
    lost = lost_suites(arm)
    if not lost:
        return f"{arm.label} lost nothing on {listing([outcome.suite for outcome in others])}."
    sure = [outcome for outcome in lost if outcome.change.high is not None and outcome.change.high < 0]
    told = [f"{outcome.suite} {interval_points(outcome.change)}" for outcome in (sure or lost)[:5]]
    more = len(sure or lost) - len(told)
    where = "; ".join(told) + (f", and {more} more" if more > 0 else "")
    overall = f"{arm.label} forgets {interval_points(arm.forgetting, sign=False)} overall"
    if sure:
        return f"{overall}. It surely lost on {where}."
    return f"{overall}. No single suite's loss is beyond the noise: {where}."


def told_arms(verdict: Verdict) -> list[ArmVerdict]:
    """The arms whose forgetting is told: the recommended one, else those that remain, else all that were measured."""
    labels = [verdict.recommended.label] if verdict.recommended else list(verdict.candidates)
    arms = [arm for arm in verdict.arms if arm.label in labels]
    return arms or [arm for arm in verdict.arms if arm.forgetting.mean is not None]


def verdict_name(verdict: Verdict) -> str:
    return f"{verdict.model} trained on {verdict.train_set}"


def noise_sentence(verdict: Verdict) -> str | None:
    """How many items of the base numerics alone change; None where none does, or it was not scored twice."""
    changed, count = sum(n.changed_items for n in verdict.noise), sum(n.item_count for n in verdict.noise)
    return (
        f"Numerics alone change {changed:,} of the base's {count:,} items; no bound rests on less." if changed else None
    )
