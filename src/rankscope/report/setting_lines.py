"""What a plan says of settings: which items choose them, what searches and dials cost."""

from __future__ import annotations

from collections.abc import Iterator

from rankscope.records import Plan
from rankscope.records.readable_numbers import duration, percent


def setting_lines(plan: Plan) -> Iterator[str]:
    """A line for each training set whose items are split, one for the searches in runs an arm, one for the dials, and
    one for each remedy with its price."""
    several = len({choice.model for choice in plan.choices}) > 1
    for choice in plan.choices:
        if choice.select != "retention":
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
    yield from _remedy_lines(plan)


def _remedy_lines(plan: Plan) -> Iterator[str]:
    """What the first run of each arm with a remedy trains on and takes beyond the same run without it."""
    named = len({(run.model, run.train_set) for run in plan.runs}) > 1
    seen: set[tuple[str, str, str]] = set()
    for run in plan.runs:
        key = (run.model, run.train_set, run.arm.label)
        if run.arm.remedy is None or key in seen:
            continue
        if not seen:
            yield "every arm trains on the same tokens of the task; on top of these, a run of"
        seen.add(key)
        more = f"{percent(run.replay_tokens / run.train_tokens)} more tokens" if run.replay_tokens else "no more tokens"
        taken = f"{duration(run.remedy_seconds)} more training"
        yield f"  {', '.join(key if named else key[2:])} ({run.arm.remedy}): {more}, {taken}"
