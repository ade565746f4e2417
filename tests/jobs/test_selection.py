"""Whose prompts choose where a suite is split, and where it cannot be."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from rankscope.jobs.job_context import JobContext
from rankscope.jobs.selection import selection_of
from rankscope.records import Item, PlannedChoice, PlannedSplit


def prompts_that_choose(cluster_count: int, select_count: int) -> int:
    """Of 60 items in so many clusters, planned with this count."""
    items = [Item(str(i), "open", (1, 2), answers=("a",), cluster=f"text-{i % cluster_count}") for i in range(60)]
    split = PlannedSplit(suite="law", item_count=60, select_count=select_count)
    choice = PlannedChoice(model="m", train_set="t", select="retention", splits=[split])
    plan = SimpleNamespace(choice_of=lambda *_: choice)
    context: Any = SimpleNamespace(plan=plan, suite_plan=lambda *_: SimpleNamespace(items=items))
    return len(selection_of(cast(JobContext, context), "m", "t")["law"])


def test_the_prompts_of_items_that_choose_and_all_of_a_suite_of_which_none_does() -> None:
    assert prompts_that_choose(60, 16) == 16
    assert prompts_that_choose(60, 0) == 60


def test_all_prompts_choose_though_a_plan_of_an_older_version_counted_items_of_two_clusters() -> None:
    assert prompts_that_choose(2, 16) == 60
