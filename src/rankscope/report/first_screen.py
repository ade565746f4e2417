"""What a report says before anybody scrolls: the answer, three numbers of the arm that it names, and the next step."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field

from rankscope.records import Answer, ArmVerdict, Interval, Verdict, WorthAt
from rankscope.records.readable_numbers import (
    NOT_MEASURED,
    duration,
    in_units,
    listing,
    parameters,
    rate,
    size,
    training_time,
    unit_name,
)
from rankscope.report.chart_drawing import Figure, Pair
from rankscope.report.margins_text import amount_allowed
from rankscope.report.units import Unit, units_in
from rankscope.report.verdict_text import lost_on, lost_suites
from rankscope.study.methods import METHODS

MOST_NAMED = 3
"""Arms that a sentence on another margin names."""


@dataclass(frozen=True)
class Number:
    """One of the three: what it is, its value, its range or parts, and what it was measured on."""

    name: str
    value: str
    parts: str
    about: str = ""


@dataclass(frozen=True)
class Step:
    """What to do next, and the command that does it (empty where there is none)."""

    text: str
    command: str = ""


@dataclass(frozen=True)
class Allowed:
    """What arms are worth at one amount of forgetting, as the picture shows it and in words; `own`: it is the study's
    margin."""

    amount: float
    label: str
    sentence: str
    own: bool


@dataclass(frozen=True)
class FirstScreen:
    """The answer for one base model and training set. `picture` is the id and the figure of its chart.

    `answers` are said in full below: at once come the first one's headline, and of the others `beside`; `arm` is what
    the numbers are of, with its setting, and `ranges` says at what level their ranges hold.
    """

    name: str
    tone: str
    answers: Sequence[Answer]
    beside: list[str]
    margin: str
    arm: str | None
    setting: str
    numbers: list[Number]
    ranges: str
    steps: list[Step]
    allowed: list[Allowed] = field(default_factory=list)
    picture: tuple[str, Figure] | None = None
    caveat: str | None = None
    """What cannot be checked, where arms were trained elsewhere."""


def first_screen(pair: Pair, place: str, picture: tuple[str, Figure] | None, keep_full: str) -> FirstScreen:
    """What is said at once of one base model and training set; `place` is the study's folder as commands name it,
    `keep_full` what the study keeps of full models."""
    verdict = pair.verdict
    arm = named_arm(verdict)
    return FirstScreen(
        name=pair.name,
        tone=verdict.tone,
        answers=verdict.answers,
        beside=[_beside(answer, verdict) for answer in verdict.answers[1:]],
        margin=margin_words(pair),
        arm=None if arm is None else arm.label,
        setting="" if arm is None else _setting(arm),
        numbers=[] if arm is None else [_gain(arm), _forgetting(arm), _cost(arm)],
        ranges="" if arm is None else _ranges(pair),
        steps=next_steps(verdict, place, keep_full),
        allowed=allowed_sentences(pair),
        picture=picture,
        caveat=verdict.elsewhere_sentence,
    )


def _beside(answer: Answer, verdict: Verdict) -> str:
    """A second answer's headline; of the sure verdict beside a bet with what it is, for it may seem to contradict."""
    said = answer.headline
    return said if verdict.recommended is not None else f"The sure verdict: {said[0].lower()}{said[1:]}"


def margin_words(pair: Pair) -> str:
    """`3 points`, `0.02 nats`, or both: what the study allows to be forgotten."""
    units = units_in(pair.verdict, "forgetting") or [pair.units["forgetting"]]
    return listing([amount_allowed(unit.margin(pair.decision, "forgetting"), unit) for unit in units])


def _setting(arm: ArmVerdict) -> str:
    """`lora-r16 at rate 1e-3, dial 0.7`."""
    known = [] if arm.learning_rate is None else [f"rate {rate(arm.learning_rate)}"]
    known += [] if arm.dial == 1 else [f"dial {arm.dial:g}"]
    return f"{arm.label} at {', '.join(known)}" if known else arm.label


def _ranges(pair: Pair) -> str:
    percent = f"{100 * pair.decision.confidence:g} %"
    return f"Ranges, and bars in the picture: {percent} for all arms at once; of a single suite: {percent} for itself."


def named_arm(verdict: Verdict) -> ArmVerdict | None:
    """The arm that the answer is about: recommended, else bet on, else the least bad one where the base is bet on."""
    labels = verdict.named_arms
    if not labels and verdict.best_bet is not None and verdict.best_bet.least_bad is not None:
        labels = [verdict.best_bet.least_bad.label]
    return next((arm for label in labels[:1] for arm in verdict.arms if arm.label == label), None)


# ---- three numbers --------------------------------------------------------------------------------------------------


def _gain(arm: ArmVerdict) -> Number:
    inside = [outcome.suite for outcome in arm.per_suite if outcome.relation == "in-domain"]
    value, parts = _amount(arm.gain, arm.gain_nats, lost=False)
    return Number("Gain", value, parts, f"on {_few(inside)}" if inside else "no suite lies in the training domain")


def _forgetting(arm: ArmVerdict) -> Number:
    value, parts = _amount(arm.forgetting, arm.forgetting_nats, lost=True)
    worst = next(iter(lost_suites(arm)), None)
    told = "no suite went down" if value != NOT_MEASURED else "no suite lies outside the training domain"
    if worst is not None:
        told = f"worst: {lost_on(worst)} on {worst.suite}"
    return Number("Forgetting", value, parts, told)


def _cost(arm: ArmVerdict) -> Number:
    cost = arm.cost
    parts = [] if cost.peak_memory_bytes is None else [f"{size(cost.peak_memory_bytes)} of memory"]
    if cost.search_seconds:
        parts.append(f"{duration(cost.search_seconds)} for its rate")
    whole = arm.method in METHODS and METHODS[arm.method].whole
    left = "the whole model" if whole and cost.adapter_bytes is None else f"{size(cost.adapter_bytes)} adapter"
    about = f"{parameters(arm.trainable_parameters)} trainable parameters, {left}"
    return Number("Cost of a run", training_time(cost), ", ".join(parts), about)


def _amount(share: Interval, loss: Interval | None, *, lost: bool) -> tuple[str, str]:
    """A mean with its unit, and its range; of suites judged by loss too where there are some."""
    found = in_units(share, loss, sign=not lost)
    if not found:
        return NOT_MEASURED, ""
    values = " and ".join(f"{value} {unit_name(metric)}" for metric, value, _ in found)
    return values, "; ".join(span for _, _, span in found)


def _few(names: Sequence[str], most: int = 3) -> str:
    shown = list(names[:most])
    return listing(shown) if len(names) <= most else f"{', '.join(shown)} and {len(names) - most} more"


# ---- the next step --------------------------------------------------------------------------------------------------


def next_steps(verdict: Verdict, place: str, keep_full: str) -> list[Step]:
    """What to do with the answer, at most two things: take the arm, and what would make the answer surer (first, where
    it is not decided)."""
    taken = _taken(verdict, place, keep_full)
    steps = []
    needed = verdict.more_needed
    if not verdict.decided and (needed.seeds or needed.items):
        more = (
            ("1 more seed" if needed.seeds == 1 else f"{needed.seeds} more seeds")
            if needed.seeds
            else f"{needed.items:,} more items a suite"
        )
        told = "seeds" if needed.seeds else "suites"
        steps.append(Step(f"{more} would probably decide it: add them to `{told}` of the study file and run it again."))
    steps = [*taken, *steps] if verdict.decided else [*steps, *taken]
    if not steps:
        steps.append(Step("Look at what each arm gains and forgets below, and choose, or allow another margin."))
    return steps


def _taken(verdict: Verdict, place: str, keep_full: str) -> list[Step]:
    """How the arm that is named is had: exported, or trained once more where its weights were not kept."""
    label, arm = next(iter(verdict.named_arms), None), named_arm(verdict)
    if label is None or arm is None:
        return []
    if not arm.cost.trained_here:
        return [Step(f"Take {label} from where the study found it, at dial {arm.dial:g}.")]
    if arm.method in METHODS and METHODS[arm.method].whole and keep_full == "none":
        words = ["rankscope", "run", place, "--out", f"{place.rstrip('/')}-kept", "--set", "keep.full=best"]
        return [Step(f"The study kept no weights of {label}. To have them, once more and kept:", shlex.join(words))]
    words = ["rankscope", "export", place, "--out", label]
    if verdict.recommended is None:
        words += ["--arm", label]
    told = f"Take {label}, ready to load:" if verdict.decided else f"Or take {label}, the best bet, as it is:"
    return [Step(told, shlex.join(words))]


# ---- other margins --------------------------------------------------------------------------------------------------


def allowed_sentences(pair: Pair) -> list[Allowed]:
    """For each amount of forgetting with known settings, the least first, what gains most."""
    found, verdict, unit = [], pair.verdict, pair.units["forgetting"]
    for allowed in sorted({one.allowed for one in verdict.at_other_margins}):
        mine = [one for one in verdict.at_other_margins if one.allowed == allowed]
        shown = unit.worth(mine[0], "allowed")
        if shown is None:
            continue
        own = abs(shown - pair.margin("forgetting")) < 1e-6
        words = amount_allowed(shown, unit)
        label = f"{words} (the study's margin)" if own else words
        said = "The answer is for this margin." if own else _most_gain(mine, words, pair.units["gain"])
        found.append(Allowed(round(shown, 6), label, said, own))
    return found


def _most_gain(worth: Sequence[WorthAt], amount: str, unit: Unit) -> str:
    judged = [(gain, one) for one in worth if one.admissible and (gain := unit.worth(one, "gain")) is not None]
    if not judged:
        return f"No arm was judged at a setting that is expected to forget at most {amount}."
    judged.sort(key=lambda entry: -entry[0])
    told = [f"{one.arm} {unit.said(gain)} {unit.short} (dial {one.dial:g})" for gain, one in judged[:MOST_NAMED]]
    return f"If {amount} may be forgotten, most gain: {', '.join(told)}."
