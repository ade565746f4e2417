"""The page's table of costs: what a run of each arm took, and what its remedy takes beyond that."""

from __future__ import annotations

from collections.abc import Sequence

from rankscope.records import ArmCost
from rankscope.records.readable_numbers import NOT_MEASURED, duration, percent, size, training_time
from rankscope.report.chart_drawing import Pair
from rankscope.report.page_tables import Cell, DataTable, columns_of_pairs, number_cell, text_cell
from rankscope.study.methods import METHODS


def costs_table(pairs: Sequence[Pair]) -> DataTable:
    """What a run of each arm took, its share of a learning-rate search apart; of remedies also what they take beyond
    the arm without them, where some arm has one."""
    treated = any(arm.cost.extra_tokens_share is not None for pair in pairs for arm in pair.verdict.arms)
    pair_columns, pair_cells = columns_of_pairs([pair.verdict for pair in pairs])
    columns = [
        *pair_columns,
        ("arm", False), ("training, one run", True), ("rate search, its share", True), ("peak memory", True),
        ("adapter on disk", True), *([("more tokens", True), ("more training", True)] if treated else []),
    ]  # fmt: skip
    rows = []
    for pair in pairs:
        longer = {one.arm: one.extra_seconds_share for one in pair.verdict.remedies}
        for arm in pair.verdict.arms_by_size:
            cost = arm.cost
            searched = duration(cost.search_seconds) if cost.search_seconds is not None else "no search"
            rows.append(
                [
                    *pair_cells(pair.verdict.model, pair.verdict.train_set),
                    text_cell(arm.label),
                    number_cell(cost.train_seconds, training_time(cost)),
                    number_cell(cost.search_seconds, searched),
                    number_cell(cost.peak_memory_bytes, size(cost.peak_memory_bytes)),
                    number_cell(cost.adapter_bytes, _adapter_size(cost.adapter_bytes, arm.method)),
                    *(_price(cost, longer.get(arm.label)) if treated else []),
                ]
            )
    return DataTable("costs", "Cost of each arm", columns, rows)


def _price(cost: ArmCost, longer: float | None) -> list[Cell]:
    """Tokens beside the task's, and training time beyond that of the arm without a remedy."""
    if cost.extra_tokens_share is None:
        return [text_cell("no remedy"), text_cell("no remedy")]
    time = NOT_MEASURED if longer is None else percent(longer)
    return [number_cell(cost.extra_tokens_share, percent(cost.extra_tokens_share)), number_cell(longer, time)]


def _adapter_size(adapter_bytes: int | None, method: str) -> str:
    whole = method in METHODS and METHODS[method].whole
    return "no adapter" if whole and adapter_bytes is None else size(adapter_bytes)
