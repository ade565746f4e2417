"""The verdict as text: sentences that page, card and terminal share, and what the terminal prints of it.

Readable from 80 columns on. The answers' own words come with the record (`Verdict.answers`).
"""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from rankscope.records import Answer, ArmVerdict, Interval, Metric, RemedyOutcome, SuiteOutcome, Verdict, VerdictFile
from rankscope.records.readable_numbers import (
    amount,
    arm_rate,
    interval_in_units,
    interval_of,
    listing,
    lost_interval,
    nats,
    parameters,
    percent,
    points,
    training_time,
)
from rankscope.report.margins_text import margins_text
from rankscope.report.plain_table import plain_table
from rankscope.report.terminal_tables import WIDE_COLUMNS
from rankscope.report.units import IN_NATS, IN_POINTS, MEASURES, units_in, units_of

_STYLES = {
    "recommended": "bold green",
    "eligible": "green",
    "ineligible": "red",
    "refuted": "red",
    "failed": "red",
    "diverged": "red",
    "does not fit": "red",
    "open": "yellow",
}


# ---- sentences ------------------------------------------------------------------------------------------------------


def confidence_sentence(verdict: Verdict, confidence: float | None) -> str:
    """How sure the answer is, and what the design could have found."""
    parts = []
    if confidence is not None:
        parts.append(_level(verdict, confidence))
    effect = verdict.minimum_detectable_effect
    told: list[tuple[str, float | None, Metric]] = [("gain", effect.gain, "score"), ("gain", effect.gain_nats, "loss")]
    told += [("forgetting", effect.forgetting, "score"), ("forgetting", effect.forgetting_nats, "loss")]
    found = [
        f"a difference of {amount(value, metric, exact=False)} in {name}"
        for name, value, metric in told
        if value is not None
    ]
    if found:
        parts.append(f"This design finds {listing(found)} with 80 % power; smaller ones may stay unseen.")
    seeds = {len(arm.seeds) for arm in verdict.arms if arm.seeds}
    if seeds == {1}:
        parts.append("Every arm has one seed: that describes, it does not decide.")
    return " ".join(parts)


def _level(verdict: Verdict, confidence: float) -> str:
    """At which level the arms' ranges hold: all at once, and each for itself."""
    said = f"The ranges of gain and forgetting of all compared arms hold at once at {100 * confidence:g} % confidence"
    if verdict.interval_confidence is not None:
        said += f" (each for itself at {100 * verdict.interval_confidence:.4g} %)"
    return f"{said}, and so does the decision; a single suite's range holds for itself at {100 * confidence:g} %."


def suite_sentences(verdict: Verdict) -> list[str]:
    """What the base has on every suite, and guessing would have; which suites are no part of the mean of forgetting."""
    arm = max(verdict.arms, key=lambda arm: len(arm.per_suite), default=None)
    if arm is None or not arm.per_suite:
        return []
    told = [f"{outcome.suite} {_known(outcome)}" for outcome in arm.per_suite]
    said = [f"The base before training: {listing(told)}."]
    return said + [f"{outcome.left_out}." for outcome in arm.per_suite if outcome.left_out is not None]


def _known(outcome: SuiteOutcome) -> str:
    if outcome.metric == "loss":
        return f"{nats(outcome.base_loss_nats, sign=False)} nats per token"
    guessing = f" (guessing {percent(outcome.chance)})" if outcome.chance else ""
    return f"{percent(outcome.base_accuracy)}{guessing}"


def lost_suites(arm: ArmVerdict) -> list[SuiteOutcome]:
    """The suites outside the training domain on which the arm went down, the greatest loss first."""
    lost = [
        outcome
        for outcome in arm.per_suite
        if outcome.relation != "in-domain" and outcome.left_out is None and (outcome.change.mean or 0.0) < 0
    ]
    return sorted(lost, key=lambda outcome: (outcome.metric == "loss", outcome.change.mean or 0.0))


def lost_on(outcome: SuiteOutcome) -> str:
    """`4.5 points (1.9 to 7.0)`: what an arm lost on a suite, above 0 a loss."""
    return interval_of(lost_interval(outcome.change), outcome.metric, sign=False)


def forgotten_sentence(arm: ArmVerdict) -> str:
    """What an arm forgot, suite by suite, and which losses are surely losses."""
    others = [outcome for outcome in arm.per_suite if outcome.relation != "in-domain"]
    if arm.per_suite and not others:
        return f"{arm.label}: forgetting is unknown, because no suite lies outside the training domain."
    if all(outcome.change.mean is None for outcome in others):  # of an arm without a finished run there are none
        return f"{arm.label}: forgetting was not measured ({arm.status})."
    lost = lost_suites(arm)
    if not lost:
        return f"{arm.label} lost nothing on {listing([outcome.suite for outcome in others])}."
    sure = [outcome for outcome in lost if outcome.change.high is not None and outcome.change.high < 0]
    told = [f"{lost_on(outcome)} on {outcome.suite}" for outcome in (sure or lost)[:5]]
    more = len(sure or lost) - len(told)
    where = "; ".join(told) + (f", and {more} more" if more > 0 else "")
    overall = f"{arm.label} forgets {interval_in_units(arm.forgetting, arm.forgetting_nats, sign=False)} overall"
    if sure:
        return f"{overall}. It surely lost {where}."
    return f"{overall}. No single suite's loss is beyond the noise: {where}."


def told_arms(verdict: Verdict) -> list[ArmVerdict]:
    """The arms whose forgetting is told: the recommended one, else those that remain, else all that were measured."""
    labels = [verdict.recommended.label] if verdict.recommended else list(verdict.candidates)
    arms = [arm for arm in verdict.arms if arm.label in labels]
    return arms or [arm for arm in verdict.arms if arm.forgetting.mean is not None or arm.forgetting_nats is not None]


def noise_sentence(verdict: Verdict) -> str | None:
    """How many items of the base numerics alone change; None where none does, or it was not scored twice."""
    changed, count = sum(n.changed_items for n in verdict.noise), sum(n.item_count for n in verdict.noise)
    return (
        f"Numerics alone change {changed:,} of the base's {count:,} items; no bound rests on less." if changed else None
    )


# ---- the terminal ---------------------------------------------------------------------------------------------------


def print_results(console: Console, verdicts: VerdictFile | Verdict) -> None:
    """For every model and training set: the arms' table, the answer, what was forgotten, how sure it is."""
    every = [verdicts] if isinstance(verdicts, Verdict) else verdicts.verdicts
    for index, verdict in enumerate(every):
        if index:
            console.print()
        _print_one(console, verdict)
    if isinstance(verdicts, VerdictFile) and verdicts.notes:
        console.print()
        for note in verdicts.notes:
            console.print(f"[dim]Note: {escape(note)}[/]")
    if not every:
        console.print("There is no verdict: no arm has been compared.")


def _print_one(console: Console, verdict: Verdict) -> None:
    points_too = any(unit is IN_POINTS for measure in MEASURES for unit in units_in(verdict, measure))
    units = "percentage points, of suites judged by loss in nats" if points_too else IN_NATS.name
    units = units if verdict.in_nats else IN_POINTS.name
    console.print(f"[bold]{escape(verdict.name)}[/]: gain and forgetting in {units}", style="")
    console.print(_arms_table(verdict, wide=console.width >= WIDE_COLUMNS))
    first, *others = verdict.answers
    for answer in others:
        _print_answer(console, answer)
    for arm in told_arms(verdict)[:3]:
        console.print(escape(forgotten_sentence(arm)))
    for outcome in verdict.dials:
        if outcome.arm in verdict.named_arms:
            console.print(escape(f"{outcome.sentence}."))
    for outcome in verdict.remedies:
        said = f"{outcome.sentence}.{_parts_sentence(outcome)}"
        console.print(f"Remedy ({escape(outcome.remedy)}): {escape(said)}")
    for sentence in [*suite_sentences(verdict), *filter(None, [verdict.elsewhere_sentence])]:
        console.print(Padding(f"[dim]{escape(sentence)}[/]", (0, 0, 0, 2)))
    if verdict.reasons_with_answer:
        told = tuple(f"{arm.label} learns " for arm in verdict.arms)  # the table above says it shorter
        for reason in (text for text in verdict.reasons if not text.startswith(told)):
            console.print(Padding(f"[dim]{escape(reason)}[/]", (0, 0, 0, 2)))
    elif (noise := noise_sentence(verdict)) is not None:  # else it stands among the reasons
        console.print(Padding(f"[dim]{escape(noise)}[/]", (0, 0, 0, 2)))
    if verdict.at_other_margins:
        gain, lost = (units_of(verdict)[measure].short for measure in MEASURES)
        console.print(f"\nWhat each arm gains ({gain}, at its dial) if you allow so many {lost} of forgetting:")
        console.print(margins_text(verdict))
    console.print()
    _print_answer(console, first)  # last, where the eye rests


def _parts_sentence(outcome: RemedyOutcome) -> str:
    """` Of suites that gave prompts (law) it forgets 1.0 points, 4.0 saved; of ...`; "" where no suite gave any."""
    said = [
        f"of suites that {part.which} ({', '.join(part.suites)}) it forgets "
        f"{points(part.forgetting.mean, sign=False)} points, {points(part.forgetting_saved.mean, sign=False)} saved"
        for part in outcome.parts
    ]
    return f" O{'; '.join(said)[1:]}." if said else ""


def _print_answer(console: Console, answer: Answer) -> None:
    console.print(f"[bold]{escape(answer.headline)}.[/] {escape(answer.sentence)}")
    if answer.details:
        console.print(Padding(f"[dim]{escape(answer.details)}[/]", (0, 0, 0, 2)))


def _arms_table(verdict: Verdict, *, wide: bool) -> Table:
    table = plain_table()
    table.add_column("arm", overflow="fold", min_width=8)
    table.add_column("trains" if not wide else "trainable parameters", justify="right", no_wrap=True)
    table.add_column("rate", justify="right", no_wrap=True)
    dialled = any(arm.dial != 1 for arm in verdict.arms)
    if dialled:
        table.add_column("dial", justify="right", no_wrap=True)
    table.add_column("gain", justify="right", no_wrap=True)
    table.add_column("forgetting", justify="right", no_wrap=True)
    table.add_column("status", no_wrap=True)
    table.add_column("train time", justify="right", no_wrap=True)
    chosen = verdict.recommended.label if verdict.recommended else None
    for arm in verdict.arms_by_size:
        status = verdict.status_of(arm)
        style = _STYLES.get(status, "")
        table.add_row(
            f"[bold]{escape(arm.label)}[/]" if arm.label == chosen else escape(arm.label),
            parameters(arm.trainable_parameters) if arm.trainable_parameters else "",
            arm_rate(arm) if arm.learning_rate is not None or not arm.cost.trained_here else "",
            *([f"{arm.dial:g}"] if dialled else []),
            _in_each_unit(arm.gain, arm.gain_nats, wide=wide),
            _in_each_unit(arm.forgetting, arm.forgetting_nats, wide=wide),
            f"[{style}]{escape(status)}[/]" if style else escape(status),
            training_time(arm.cost) if arm.cost.train_seconds is not None or not arm.cost.trained_here else "",
        )
    return table


def _in_each_unit(share: Interval, loss: Interval | None, *, wide: bool) -> str:
    """Points, nats below them, or whichever there is."""
    shown = [_interval(share, wide=wide)] if share.mean is not None or loss is None else []
    if loss is not None and loss.mean is not None:
        ends = [abs(end - loss.mean) for end in (loss.low, loss.high) if end is not None]
        shown.append(f"{nats(loss.mean)}{f' ±{nats(max(ends), sign=False)}' if ends else ''} nats")
    return "\n".join(shown) or "-"


def _interval(interval: Interval, *, wide: bool) -> str:
    if interval.mean is None:
        return "-"
    mean = points(interval.mean)
    if interval.low is None or interval.high is None:
        return mean
    if wide:
        return f"{mean} ({points(interval.low)} to {points(interval.high)})"
    half = max(interval.high - interval.mean, interval.mean - interval.low)
    return f"{mean} ±{points(half, sign=False)}"
