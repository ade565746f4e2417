"""The page's tables: cells with the text that is read and the value that is sorted by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from rankscope.records import Interval, Verdict, VerdictFile
from rankscope.records.readable_numbers import (
    NOT_MEASURED,
    arm_rate,
    is_number,
    nats,
    nats_lost,
    parameters,
    percent,
    points,
    points_lost,
    rate,
    relation_name,
    training_time,
)
from rankscope.records.suite_record import KIND_NOT_KNOWN
from rankscope.report.chart_drawing import Pair, plain
from rankscope.report.suite_changes import change_frame
from rankscope.report.units import IN_NATS, IN_POINTS, MEASURES, Unit, header_units, units_in


@dataclass(frozen=True)
class Cell:
    """`sort` is a number (missing: "") or, for text, the text itself. `mark` is a style: eligible, chosen, ..."""

    text: str
    sort: float | int | str
    mark: str = ""


@dataclass(frozen=True)
class DataTable:
    """A table of the page, which its script sorts and filters."""

    id: str
    caption: str
    columns: Sequence[tuple[str, bool]]
    """(heading, numeric)"""
    rows: Sequence[Sequence[Cell]]


def text_cell(value: object, mark: str = "") -> Cell:
    """A cell that is sorted by what it says."""
    text = "" if value is None else str(value)
    return Cell(text, text, mark)


def number_cell(value: float | int | None, text: str) -> Cell:
    """A cell that is sorted by its number; what is missing comes last."""
    return Cell(text, value if is_number(value) and value is not None else "")


def interval_cells(interval: Interval, written: Callable[[float | None], str] = points) -> list[Cell]:
    """The mean in one cell, its interval in the next."""
    if interval.mean is None:
        return [Cell(NOT_MEASURED, ""), Cell("", "")]
    mean = Cell(written(interval.mean), interval.mean)
    if interval.low is None or interval.high is None:
        return [mean, Cell("no interval", "")]
    return [mean, Cell(f"{written(interval.low)} to {written(interval.high)}", interval.low)]


def cells_in_units(share: Interval, loss: Interval | None, *, lost: bool = False) -> list[Cell]:
    """The same of points and nats, with both in a cell where suites of both kinds were measured; `lost`: forgetting."""
    in_points, in_nats = (points_lost, nats_lost) if lost else (points, nats)
    if loss is None or loss.mean is None:
        return interval_cells(share, in_points)
    own = interval_cells(loss, in_nats)
    if share.mean is None:
        return own
    both = zip(interval_cells(share, in_points), own, (" nats", ""), strict=True)
    return [Cell(f"{cell.text}; {other.text}{unit}", cell.sort) for cell, other, unit in both]


def _rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a frame as plain values."""
    return [{str(key): plain(value) for key, value in raw.items()} for raw in frame.to_dict("records")]


def columns_of_pairs(
    verdicts: Sequence[Verdict],
) -> tuple[list[tuple[str, bool]], Callable[[object, object], list[Cell]]]:
    """Columns for the model and for the training set, each only where there are several, and what makes their cells."""
    models = len({verdict.model for verdict in verdicts}) > 1
    sets = len({verdict.train_set for verdict in verdicts}) > 1
    columns = [("model", False)] * models + [("trained on", False)] * sets
    return columns, lambda model, train_set: [text_cell(model)] * models + [text_cell(train_set)] * sets


def arms_table(pairs: Sequence[Pair], interval_name: str) -> DataTable:
    """Every arm of every model and training set: settings, result, cost."""
    pair_columns, pair_cells = columns_of_pairs([pair.verdict for pair in pairs])
    gain, lost = (header_units([pair.verdict for pair in pairs], measure) for measure in MEASURES)
    columns = [
        *pair_columns,
        ("arm", False), ("trainable parameters", True), ("learning rate", True), ("dial", True), ("seeds", True),
        (f"gain ({gain})", True), (interval_name, True), (f"forgetting ({lost})", True), (interval_name, True),
        ("status", False), ("train time", True),
    ]  # fmt: skip
    rows = []
    for pair in pairs:
        verdict = pair.verdict
        chosen = verdict.recommended.label if verdict.recommended else None
        for arm in verdict.arms_by_size:
            recommended = arm.label == chosen
            status = verdict.status_of(arm)
            rows.append(
                [
                    *pair_cells(verdict.model, verdict.train_set),
                    text_cell(arm.label, "chosen" if recommended else ""),
                    number_cell(arm.trainable_parameters, parameters(arm.trainable_parameters)),
                    number_cell(arm.learning_rate, arm_rate(arm)),
                    number_cell(arm.dial, f"{arm.dial:g}"),
                    number_cell(len(arm.seeds), str(len(arm.seeds))),
                    *cells_in_units(arm.gain, arm.gain_nats),
                    *cells_in_units(arm.forgetting, arm.forgetting_nats, lost=True),
                    Cell(status, status, f"status {status.replace(' ', '-')}"),
                    number_cell(arm.cost.train_seconds, training_time(arm.cost)),
                ]
            )
    return DataTable("arms", "Arms, fewest trainable parameters first", columns, rows)


def suites_table(verdicts: VerdictFile, forgetting: pd.DataFrame | None, interval_name: str) -> DataTable:
    """Every arm on every suite: the base's accuracy or loss and its own, and what it gained or, outside the training
    domain, forgot."""
    changes = {unit: change_frame(forgetting, verdicts.verdicts, unit) for unit in (IN_NATS, IN_POINTS)}
    pair_columns, pair_cells = columns_of_pairs(verdicts.verdicts)
    units = " or ".join(unit.short for unit in (IN_POINTS, IN_NATS) if not changes[unit].empty) or "points"
    columns = [
        *pair_columns,
        ("arm", False), ("suite", False), ("domain", False), ("kind", False), ("relation", False), ("items", True),
        ("guessing", True), ("base", True), ("arm", True), (f"gain ({units})", True), (f"forgetting ({units})", True),
        (interval_name, True),
    ]  # fmt: skip
    rows = []
    for unit, frame in changes.items():
        named = f" {unit.short}" if unit is IN_NATS else ""
        for row in _rows(frame):
            inside = row["relation"] == "in-domain"
            amount = None if row["amount"] is None else unit.said(row["amount"], sign=inside) + named
            ends = [None if row[end] is None else unit.said(row[end], sign=inside) for end in _ENDS]
            shown = number_cell(row["amount"], NOT_MEASURED if amount is None else amount)
            chance = row.get("chance") if unit is IN_POINTS else None
            rows.append(
                [
                    *pair_cells(row["model"], row["train_set"]),
                    *(text_cell(row[name]) for name in ("arm", "suite", "domain")),
                    text_cell(row["kind"] or KIND_NOT_KNOWN),
                    text_cell(relation_name(row["relation"])),
                    number_cell(row["items"], "" if row["items"] is None else f"{row['items']:,}"),
                    number_cell(chance, "" if chance is None else percent(chance)),
                    *(_level(row[name], unit) for name in ("base_accuracy", "accuracy")),
                    *([shown, Cell("", "")] if inside else [Cell("", ""), shown]),
                    number_cell(row["amount_low"], "no interval" if None in ends else " to ".join(map(str, ends))),
                ]
            )
    return DataTable("suites", "Every arm on every suite", columns, rows)


_ENDS = ("amount_low", "amount_high")


def _level(value: float | None, unit: Unit) -> Cell:
    """What the base or an arm has on a suite: the share correct, or the loss (a table has minus it)."""
    if value is None:
        return Cell(NOT_MEASURED, "")
    if unit is IN_NATS:
        return number_cell(-value, f"{nats(-value, sign=False)} nats")
    return number_cell(value / unit.factor, percent(value / unit.factor))


def losses_table(pairs: Sequence[Pair], interval_name: str) -> DataTable:
    """Gain and forgetting of every arm over the suites that are judged by their loss, in nats per token; only
    where others are judged by their score, else the table of arms has it."""
    pair_columns, pair_cells = columns_of_pairs([pair.verdict for pair in pairs])
    columns = [
        *pair_columns,
        ("arm", False), ("gain (nats)", True), (interval_name, True), ("forgetting (nats)", True),
        (interval_name, True), ("status", False),
    ]  # fmt: skip
    nothing = Interval(mean=None, low=None, high=None)
    rows = []
    for pair in pairs:
        mixed = any(len(units_in(pair.verdict, measure)) > 1 for measure in MEASURES)
        for arm in pair.verdict.arms_by_size:
            if not mixed or (arm.gain_nats is None and arm.forgetting_nats is None):
                continue
            status = pair.verdict.status_of(arm)
            rows.append(
                [
                    *pair_cells(pair.verdict.model, pair.verdict.train_set),
                    text_cell(arm.label),
                    *interval_cells(arm.gain_nats or nothing, nats),
                    *interval_cells(arm.forgetting_nats or nothing, nats_lost),
                    Cell(status, status, f"status {status.replace(' ', '-')}"),
                ]
            )
    return DataTable("losses", "Arms on the suites that are judged by their loss", columns, rows)


def text_table(scores: pd.DataFrame | None) -> DataTable:
    """Plain text: nats per token and bits per byte of every run; reported and not decided on."""
    columns = [
        ("model", False), ("trained on", False), ("arm", False), ("seed", True), ("suite", False),
        ("nats per token", True), ("bits per byte", True),
    ]  # fmt: skip
    rows = []
    if scores is not None and "loss_nats_per_token" in scores.columns:
        plain = scores["loss_nats_per_token"].notna() & scores["accuracy"].isna()
        if "metric" in scores.columns:  # what is judged by loss stands with the other suites
            plain &= scores["metric"] != "loss"
        for row in _rows(scores[plain]):
            bits = row.get("bits_per_byte")
            rows.append(
                [
                    *(text_cell(row[name]) for name in ("model", "train_set", "arm")),
                    number_cell(row["seed"], "" if row["seed"] is None else str(row["seed"])),
                    text_cell(row["suite"]),
                    number_cell(row["loss_nats_per_token"], nats(row["loss_nats_per_token"], sign=False)),
                    number_cell(bits, "" if bits is None else f"{bits:.3f}"),
                ]
            )
    return DataTable("texts", "Plain text, lower is better", columns, rows)


def rates_table(rates: pd.DataFrame | None) -> DataTable:
    """Every rate that a search tried: its loss, and what it gained and forgot on the items that choose settings, where
    these have scores."""
    tried = [] if rates is None else _rows(rates)
    probed = any(row[measure] is not None for row in tried for measure in MEASURES)
    looked_at = [("gain (points)", True), ("forgetting (points)", True), ("items that choose", True)] * probed
    columns = [
        ("model", False), ("trained on", False), ("arm", False), ("learning rate", True), ("steps", True),
        ("validation loss", True), *looked_at, ("choice", False),
    ]  # fmt: skip
    rows = []
    for row in tried:
        loss, gain, lost = row["validation_loss"], row["gain"], row["forgetting"]
        rows.append(
            [
                *(text_cell(row[name]) for name in ("model", "train_set", "arm")),
                number_cell(row["learning_rate"], rate(row["learning_rate"])),
                number_cell(row["steps"], "" if row["steps"] is None else f"{row['steps']:,.0f}"),
                number_cell(loss, "diverged" if loss is None else nats(loss, sign=False)),
                *[
                    number_cell(gain, NOT_MEASURED if gain is None else points(gain)),
                    number_cell(lost, NOT_MEASURED if lost is None else points_lost(lost)),
                    number_cell(row["probe_items"], "" if row["probe_items"] is None else f"{row['probe_items']:,.0f}"),
                ][: len(looked_at)],
                text_cell("chosen" if row["chosen"] else "", "chosen"),
            ]
        )
    return DataTable("rates", "Learning rates that were tried", columns, rows)


def undone_table(cost: pd.DataFrame | None) -> DataTable:
    """The runs that did not end well, and why."""
    columns = [("arm", False), ("trained on", False), ("seed", True), ("state", False), ("reason", False)]
    rows = []
    if cost is not None and {"state", "arm", "train_set", "seed"} <= set(cost.columns):
        for row in _rows(cost[cost["state"] != "done"]):
            state = str(row["state"])
            rows.append(
                [
                    text_cell(row["arm"]),
                    text_cell(row["train_set"]),
                    number_cell(row["seed"], str(row["seed"])),
                    Cell(state, state, f"status {state.replace(' ', '-')}"),
                    text_cell(row.get("reason") or "no reason was recorded"),
                ]
            )
    return DataTable("undone", "Runs without a result", columns, rows)
