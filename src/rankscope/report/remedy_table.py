"""The page's tables of remedies: each against its own arm, its price, and apart for suites that gave prompts."""

from __future__ import annotations

from collections.abc import Sequence

from rankscope.records import RemedyOutcome
from rankscope.records.readable_numbers import NOT_MEASURED, percent, points_lost
from rankscope.report.chart_drawing import Pair
from rankscope.report.page_tables import (
    DataTable,
    cells_in_units,
    columns_of_pairs,
    interval_cells,
    number_cell,
    text_cell,
)
from rankscope.report.units import MEASURES, header_units


def remedies_table(pairs: Sequence[Pair]) -> DataTable:
    """What each remedy is worth against its own arm, and its price."""
    verdicts = [pair.verdict for pair in pairs]
    extra, named = columns_of_pairs(verdicts)
    gain, lost = (header_units(verdicts, measure) for measure in MEASURES)
    columns = [
        *extra, ("arm", False), ("remedy", False), ("against", False),
        (f"gain lost ({gain})", True), ("interval", True), (f"forgetting saved ({lost})", True), ("interval", True),
        ("more tokens", True), ("more time", True),
    ]  # fmt: skip
    rows = [
        [
            *named(verdict.model, verdict.train_set),
            *map(text_cell, (one.arm, one.remedy, one.own_arm)),
            *cells_in_units(one.gain_lost, one.gain_lost_nats),
            *cells_in_units(one.forgetting_saved, one.forgetting_saved_nats),
            *(number_cell(share, NOT_MEASURED if share is None else percent(share)) for share in _price(one)),
        ]
        for verdict in verdicts
        for one in (*verdict.dials, *verdict.remedies)
    ]
    return DataTable("remedies", "Every remedy against its own arm, paired by items and seeds", columns, rows)


def remedy_parts_table(pairs: Sequence[Pair]) -> DataTable:
    """Of every remedy that replays after prompts of suites, forgetting of those that gave some and of those that gave
    none."""
    verdicts = [pair.verdict for pair in pairs]
    extra, named = columns_of_pairs(verdicts)
    columns = [
        *extra, ("arm", False), ("suites", False), ("which", False), ("forgetting (points)", True), ("interval", True),
        ("forgetting saved (points)", True), ("interval", True),
    ]  # fmt: skip
    rows = [
        [
            *named(verdict.model, verdict.train_set),
            *map(text_cell, (one.arm, part.which, ", ".join(part.suites))),
            *interval_cells(part.forgetting, points_lost),
            *interval_cells(part.forgetting_saved),
        ]
        for verdict in verdicts
        for one in verdict.remedies
        for part in one.parts
    ]
    return DataTable("remedy-parts", "Forgetting of suites that gave prompts, and of the others", columns, rows)


def _price(outcome: RemedyOutcome) -> tuple[float | None, float | None]:
    return outcome.extra_tokens_share, outcome.extra_seconds_share
