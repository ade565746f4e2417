"""What changed between two studies, for the terminal: readable from 80 columns on."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape

from rankscope.records import Interval
from rankscope.records.comparison_record import AnswerDifference, ArmDifference, Comparison, PairComparison
from rankscope.records.readable_numbers import NOT_MEASURED, in_units, listing, rate, whole_percent
from rankscope.report.plain_table import plain_table

MOST_NAMES = 6
"""Of settings that are not the same, above what moved."""

MOST_CHARACTERS = 40
"""Of a setting's value; a longer one is cut."""


def print_comparison(console: Console, found: Comparison, *, every_setting: bool = False) -> None:
    """For every base model and training set both answers and how far each arm moved; then what is not the same of the
    studies: what matters most, and of the rest its number or, with `every_setting`, all of it."""
    console.print(f"[bold]From {escape(found.first)} to {escape(found.second)}[/]")
    for pair in found.pairs:
        console.print()
        _print_pair(console, pair, found)
    for name in found.unmatched:
        console.print(f"Not compared: {escape(name)}.")
    console.print()
    if not found.settings:
        console.print("All settings and all data are the same.")
        return
    shown = found.settings if every_setting else found.main
    if shown:
        console.print("What is not the same:")
        table = plain_table()
        for heading in ("setting", "first", "second"):
            table.add_column(heading, overflow="fold")
        for one in shown:
            table.add_row(escape(one.name), _value(one.first), _value(one.second))
        console.print(table)
    if not every_setting:
        count = len(found.settings)
        lines = f"{count} settings differ" if count > 1 else "one setting differs"
        console.print(f"[dim]Line by line {lines}; --settings lists them.[/]")


def _value(value: str | None) -> str:
    if value is None:
        return "[dim]none[/]"
    return escape(value if len(value) <= MOST_CHARACTERS else f"{value[:MOST_CHARACTERS]}...")


def _print_pair(console: Console, pair: PairComparison, found: Comparison) -> None:
    first, second = pair.name
    console.print(f"[bold]{escape(first if first == second else f'{first}; then {second}')}[/]")
    for url, headline, sentence in zip(
        (found.first, found.second), pair.answers.headline, pair.answers.sentence, strict=True
    ):
        console.print(f"{escape(url)}: [bold]{escape(headline)}.[/] {escape(sentence)}")
    console.print(escape(answer_sentence(pair.answers)))
    for labels, which in ((pair.only_first, "first"), (pair.only_second, "second")):
        if labels:
            console.print(f"Only in the {which}: {escape(', '.join(labels))}.")
    if not pair.arms:
        console.print("No arm is in both.")
        return
    confidence = f"{100 * found.confidence:g} % intervals, each for itself"
    units = _units(pair.arms)
    if found.main:
        names = [one.name for one in found.main]
        more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
        console.print(
            f"\nNot the same: {escape(', '.join(names[:MOST_NAMES]))}{more}. What moved may come from any of it."
        )
    console.print(f"\nSecond minus first, in {units}, with {confidence}:")
    table = plain_table()
    table.add_column("arm", overflow="fold", min_width=8)
    for heading in ("gain", "forgetting"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("compared", overflow="fold")
    for arm in pair.arms:
        gain, lost = (_moved(*part) for part in _parts(arm))
        table.add_row(escape(arm.arm), gain, lost, escape(_how(arm)))
    console.print(table)
    for note in dict.fromkeys(note for arm in pair.arms for note in _notes(arm)):
        console.print(f"[dim]{escape(note)}[/]")


def _units(arms: Sequence[ArmDifference]) -> str:
    """The units of what was measured: `points`, `nats`, or `points, of losses in nats`."""
    found = {metric for arm in arms for share, loss in _parts(arm) for metric, *_ in in_units(share, loss)}
    return "points, of losses in nats" if len(found) > 1 else "nats" if "loss" in found else "points"


def _parts(arm: ArmDifference) -> list[tuple[Interval, Interval | None]]:
    return [(arm.gain, arm.gain_nats), (arm.forgetting, arm.forgetting_nats)]


def _notes(arm: ArmDifference) -> list[str]:
    """What holds of more than one arm: why they are not paired, and over which suites they are compared."""
    said = []
    if arm.why is not None:
        said.append(f"unpaired: {arm.why}, so the interval is that of two independent samples.")
    if arm.alone and arm.suites:
        said.append(f"Over {listing(arm.suites)}; in one study only, or judged otherwise: {', '.join(arm.alone)}.")
    elif arm.alone:
        said.append(f"No suite is judged alike in both: {', '.join(arm.alone)}.")
    return said


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
    return f'"{label}, recommended"' if label is not None else f'"{kind.replace("_", " ")}"'


def _bet(label: str | None, probability: float | None) -> str:
    if label is None:
        return "none"
    return label if probability is None else f"{label} ({whole_percent(probability)})"


def _moved(share: Interval, loss: Interval | None) -> str:
    shown = [f"{mean}{' nats' if metric == 'loss' else ''} ({span})" for metric, mean, span in in_units(share, loss)]
    return "\n".join(shown) or NOT_MEASURED


def _how(arm: ArmDifference) -> str:
    if arm.alone and not arm.suites:
        return "not compared"
    said = "paired" if arm.paired else "unpaired"
    if arm.learning_rate[0] != arm.learning_rate[1]:
        said += f"; rate {rate(arm.learning_rate[0])}, then {rate(arm.learning_rate[1])}"
    if arm.dial[0] != arm.dial[1]:
        said += f"; dial {arm.dial[0]:g}, then {arm.dial[1]:g}"
    if any(len(seeds) == 1 for seeds in arm.seeds):
        said += "; one seed: the interval is of items only"
    return said
