"""A few validation rows as items, by which one sees whether an adapter is applied."""

from __future__ import annotations

from collections.abc import Sequence

from rankscope.records import Example, Item

_PROBE_ITEMS = 8


def probe_items(examples: Sequence[Example]) -> list[Item]:
    """The first of these rows as items with one choice, what would be trained."""
    return [
        Item(e.item_id, "choices", e.prompt_ids, (e.completion_ids,), answer_index=0) for e in examples[:_PROBE_ITEMS]
    ]
