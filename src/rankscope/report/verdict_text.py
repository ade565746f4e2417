"""The verdict as text: sentences that page, card and terminal share, and what the terminal prints of it and of scores.

Readable from 80 columns on. The answers' own words come with the record (`Verdict.answers`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from rankscope.records import ArmVerdict, Interval, SuiteOutcome, Verdict, VerdictFile
from rankscope.records.readable_numbers import duration, interval_points, listing, parameters, points, rate
from rankscope.report.terminal_tables import WIDE_COLUMNS, plain_table

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
    console.print(f"[bold]{escape(verdict.name)}[/]: gain and forgetting in percentage points", style="")
    console.print(_arms_table(verdict, wide=console.width >= WIDE_COLUMNS))
    for answer in verdict.answers:
        console.print(f"[bold]{escape(answer.headline)}.[/] {escape(answer.sentence)}")
        if answer.details:
            console.print(Padding(f"[dim]{escape(answer.details)}[/]", (0, 0, 0, 2)))
    for arm in told_arms(verdict)[:3]:
        console.print(escape(forgotten_sentence(arm)))
    for outcome in verdict.remedies:
        console.print(f"Remedy ({escape(outcome.remedy)}): {escape(outcome.sentence)}.")
    if verdict.reasons_with_answer:
        told = tuple(f"{arm.label} learns " for arm in verdict.arms)  # the table above says it shorter
        for reason in (text for text in verdict.reasons if not text.startswith(told)):
            console.print(Padding(f"[dim]{escape(reason)}[/]", (0, 0, 0, 2)))
    elif (sentence := noise_sentence(verdict)) is not None:  # else it stands among the reasons
        console.print(Padding(f"[dim]{escape(sentence)}[/]", (0, 0, 0, 2)))


def _arms_table(verdict: Verdict, *, wide: bool) -> Table:
    table = plain_table()
    table.add_column("arm", overflow="fold", min_width=8)
    table.add_column("trains" if not wide else "trainable parameters", justify="right", no_wrap=True)
    table.add_column("rate", justify="right", no_wrap=True)
    table.add_column("gain", justify="right", no_wrap=True)
    table.add_column("forgetting", justify="right", no_wrap=True)
    table.add_column("status", no_wrap=True)
    table.add_column("train time", justify="right", no_wrap=True)
    chosen = verdict.recommended.label if verdict.recommended else None
    for arm in verdict.arms_by_size:
        status = "recommended" if arm.label == chosen else _status(arm, verdict)
        style = _STYLES.get(status, "")
        table.add_row(
            f"[bold]{escape(arm.label)}[/]" if arm.label == chosen else escape(arm.label),
            parameters(arm.trainable_parameters) if arm.trainable_parameters else "",
            rate(arm.learning_rate) if arm.learning_rate is not None else "",
            _interval(arm.gain, wide=wide),
            _interval(arm.forgetting, wide=wide),
            f"[{style}]{escape(status)}[/]" if style else escape(status),
            duration(arm.cost.train_seconds) if arm.cost.train_seconds is not None else "",
        )
    return table


def _status(arm: ArmVerdict, verdict: Verdict) -> str:
    return "refuted" if arm.label in verdict.refuted and arm.status in ("eligible", "open") else arm.status


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


# ---- scores ---------------------------------------------------------------------------------------------------------


def print_scores(console: Console, suites: Sequence[Any], confidence: float, notes: Sequence[str]) -> None:
    """`suites` have name, n and arms, each with adapter, accuracy, change, lost, won, p_value, loss_nats_per_token."""
    table = plain_table()
    table.add_column("suite", overflow="fold", min_width=8)
    table.add_column("items", justify="right", no_wrap=True)
    table.add_column("model", overflow="fold", min_width=8)
    for heading in ("accuracy", "to the base", "lost", "won", "p"):
        table.add_column(heading, justify="right", no_wrap=True)
    adapters = {arm.adapter for suite in suites for arm in suite.arms if arm.adapter is not None}
    names = [Path(adapter).name for adapter in adapters]
    for suite in suites:
        for place, arm in enumerate(suite.arms):
            first = (escape(suite.name), f"{suite.n:,}") if place == 0 else ("", "")
            table.add_row(*first, escape(_name(arm.adapter, names)), *_score_cells(arm))
    console.print(table)
    console.print(
        f"\nAccuracy in %, differences in percentage points with {100 * confidence:g} % intervals over items; lost and "
        "won count items against the base, p is McNemar's exact test."
    )
    for note in notes:
        console.print(f"Note: {escape(note)}")


def _name(adapter: str | None, names: Sequence[str]) -> str:
    """The adapter's folder without its path, where that tells it from the others."""
    if adapter is None:
        return "base"
    short = Path(adapter).name
    return short if names.count(short) == 1 else adapter


def _score_cells(arm: Any) -> list[str]:
    if arm.loss_nats_per_token is not None:
        return [f"{arm.loss_nats_per_token:.3f} nats/token", "", "", "", ""]
    if arm.accuracy.mean is None:
        return ["-", "", "", "", ""]
    flips = ["" if value is None else f"{value:,}" for value in (arm.lost, arm.won)]
    p_value = "" if arm.p_value is None else f"{arm.p_value:.2g}"
    return [_span(arm.accuracy, ""), _span(arm.change, "+"), *flips, p_value]


def _span(interval: Interval, sign: str) -> str:
    if interval.mean is None:
        return ""
    mean = f"{100 * interval.mean:{sign}.1f}"
    if interval.low is None or interval.high is None:
        return mean
    return f"{mean} ({100 * interval.low:{sign}.1f} to {100 * interval.high:{sign}.1f})"
