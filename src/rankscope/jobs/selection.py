"""The items of a study that choose settings, as a job finds them in the token files, and each prediction's role."""

from __future__ import annotations

import pandas as pd

from rankscope.jobs.job_context import JobContext
from rankscope.plan.selection_split import selection_items
from rankscope.records import Item, PlannedRun


def selection_of(context: JobContext, model: str, train_set: str) -> dict[str, list[Item]]:
    """By suite outside the domain, the items whose prompts choose: those that never judge, or of a suite that is too
    small to be split all, of which then nothing but the prompts is looked at. Items without a prompt are left out."""
    choice = context.plan.choice_of(model, train_set)
    found = {}
    for split in choice.splits:
        chosen = selected(context, model, split.suite, split.select_count)
        items = context.suite_plan(model, split.suite).items
        prompted = [item for item in items if item.prompt_ids or (item.parts and item.parts[0].prompt_ids)]
        own = [item for item in prompted if not chosen or item.item_id in chosen]
        if own:
            found[split.suite] = own
    return found


def selected(context: JobContext, model: str, suite: str, count: int) -> frozenset[str]:
    """The ids of a suite's items that choose and never judge."""
    items = context.suite_plan(model, suite).items
    return selection_items([item.item_id for item in items], [item.cluster for item in items], count)


def with_roles(context: JobContext, run: PlannedRun, frame: pd.DataFrame) -> pd.DataFrame:
    """A run's predictions with the column `role`: `select` for what chooses the settings of its training set's arms,
    `judge` for all else."""
    counts = context.plan.choice_of(run.model, run.train_set).select_counts
    chosen = pd.Series(False, index=frame.index)
    for suite, count in counts.items():
        mine = frame["suite"] == suite
        chosen |= mine & frame["item_id"].isin(selected(context, run.model, suite, count))
    return frame.assign(role=chosen.map({True: "select", False: "judge"}).astype("str"))
