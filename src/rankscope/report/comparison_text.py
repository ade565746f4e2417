"""What changed between two studies, for the terminal: readable from 80 columns on."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape

from rankscope.records import Interval
from rankscope.records.comparison_record import AnswerDifference, ArmDifference, Comparison, PairComparison
from rankscope.records.readable_numbers import NOT_MEASURED, nats, points, rate, whole_percent
from rankscope.report.plain_table import plain_table

MOST_CHARACTERS = 40
"""Of a setting's value; a longer one is cut."""


def print_comparison(console: Console, found: Comparison) -> None:
    """Settings that differ, then for every base model and training set the answers and how far each arm moved."""
    console.print(f"[bold]From {escape(found.first)} to {escape(found.second)}[/]")
    if found.settings:
        table = plain_table()
        for heading in ("setting", "first", "second"):
            table.add_column(heading, overflow="fold")
        for one in found.settings:
            table.add_row(escape(one.name), _value(one.first), _value(one.second))
        console.print(table)
    else:
        console.print("All settings and all data are the same.")
    for pair in found.pairs:
        console.print()
        _print_pair(console, pair, found.confidence)
    for name in found.unmatched:
        console.print(f"Not compared: {escape(name)}.")


def _value(value: str | None) -> str:
    if value is None:
        return "[dim]none[/]"
    return escape(value if len(value) <= MOST_CHARACTERS else f"{value[:MOST_CHARACTERS]}...")


def _print_pair(console: Console, pair: PairComparison, confidence: float) -> None:
    first, second = pair.name
    console.print(f"[bold]{escape(first if first == second else f'{first}; then {second}')}[/]")
    console.print(escape(answer_sentence(pair.answers)))
    for labels, which in ((pair.only_first, "first"), (pair.only_second, "second")):
        if labels:
            console.print(f"Only in the {which}: {escape(', '.join(labels))}.")
    if not pair.arms:
        console.print("No arm is in both.")
        return
    console.print(f"Second minus first, points, with {100 * confidence:g} % intervals, each for itself:")
    table = plain_table()
    table.add_column("arm", overflow="fold", min_width=8)
    for heading in ("gain", "forgetting"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("compared", overflow="fold")
    for arm in pair.arms:
        gain, lost = _moved(arm.gain, arm.gain_nats), _moved(arm.forgetting, arm.forgetting_nats)
        table.add_row(escape(arm.arm), gain, lost, escape(_how(arm)))
    console.print(table)


def answer_sentence(answers: AnswerDifference) -> str:
    """Whether the answer changed, and from what to what."""
    (kind, kind_now), (label, label_now) = answers.kind, answers.recommended
    bets = [_bet(label, probability) for label, probability in zip(answers.best_bet, answers.probability, strict=True)]
    if (kind, label) == (kind_now, label_now):
        said = f"The verdict is the same: {_verdict(kind, label)}."
    else:
        said = f"The verdict was {_verdict(kind, label)} and is {_verdict(kind_now, label_now)}."
    if bets[0] == bets[1]:
        return f"{said} The best bet is {bets[0]} in both."
    return f"{said} The best bet was {bets[0]} and is {bets[1]}."


def _verdict(kind: str, label: str | None) -> str:
    return f"{label}, recommended" if label is not None else kind.replace("_", " ")


def _bet(label: str | None, probability: float | None) -> str:
    if label is None:
        return "none"
    return label if probability is None else f"{label} ({whole_percent(probability)})"


def _moved(share: Interval, loss: Interval | None) -> str:
    shown = []
    for interval, written, unit in ((share, points, ""), (loss, nats, " nats")):
        if interval is None or interval.mean is None:
            continue
        known = interval.low is not None and interval.high is not None
        span = f" ({written(interval.low)} to {written(interval.high)})" if known else " (no interval)"
        shown.append(f"{written(interval.mean)}{unit}{span}")
    return "\n".join(shown) or NOT_MEASURED


def _how(arm: ArmDifference) -> str:
    said = "paired" if arm.why is None else f"unpaired: {arm.why}"
    if arm.learning_rate[0] != arm.learning_rate[1]:
        said += f"; rate {rate(arm.learning_rate[0])}, then {rate(arm.learning_rate[1])}"
    if arm.dial[0] != arm.dial[1]:
        said += f"; dial {arm.dial[0]:g}, then {arm.dial[1]:g}"
    if any(len(seeds) == 1 for seeds in arm.seeds):
        said += "; one seed: the interval is of items only"
    return said
