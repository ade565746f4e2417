"""What a plan says of settings: which items choose them, what searches and dials cost."""

from __future__ import annotations

from collections.abc import Iterator

from rankscope.records import Plan
from rankscope.records.readable_numbers import duration


def setting_lines(plan: Plan) -> Iterator[str]:
    """A line for each training set whose items are split, one for the searches in runs an arm, one for the dials."""
    several = len({choice.model for choice in plan.choices}) > 1
    for choice in plan.choices:
        if choice.select == "loss":
            continue
        name = f"{choice.model}, {choice.train_set}" if several else choice.train_set
        counts = [f"{s.suite} {s.select_count} of {s.item_count}" for s in choice.splits if s.select_count]
        yield f"{name}: these items choose rates and dials, and the others judge: {', '.join(counts)}"
    arms = sum(len(search.arms) for search in plan.searches)
    runs = sum(search.runs * len(search.arms) for search in plan.searches)
    if runs:
        yield f"learning-rate searches: about {runs / arms:.2f} runs an arm, more where the best rate ends its grid"
    dials = sorted({dial for run in plan.runs for dial in run.dials if dial < 1})
    seconds = sum(run.dial_seconds for run in plan.runs if run.fits) / plan.resolved.worker_count
    if dials:
        shown = ", ".join(f"{dial:g}" for dial in dials)
        yield f"scoring at the dials {shown} takes {duration(seconds)} of the time"
