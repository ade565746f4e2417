"""What a model of the study wrote for a suite's items: drafts for whoever answers them next."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from rankscope.evaluate.score_suites import WRITTEN_FORMS
from rankscope.jobs.job_context import JobContext
from rankscope.records import PlannedRun, Suite


def base_answers(context: JobContext, model: str, suite: Suite) -> dict[str, str]:
    """By item id what the base wrote; nothing where the suite has no written answers, or the base none yet."""
    return _answers(context, [context.plan.base_ids[model]], suite)


def run_answers(context: JobContext, run: PlannedRun, suite: Suite) -> dict[str, str]:
    """What a run wrote as it was trained, which is nearer to what it writes at a dial, else what its base did."""
    return _answers(context, [run.run_id, context.plan.base_ids[run.model]], suite)


def _answers(context: JobContext, run_ids: Sequence[str], suite: Suite) -> dict[str, str]:
    """Of the first of these that has any; alike in every process of a gang."""
    if suite.grading is not None or not any(item.form in WRITTEN_FORMS for item in suite.items):
        return {}
    return context.team.told(partial(_read, context, run_ids, suite.name))


def _read(context: JobContext, run_ids: Sequence[str], suite: str) -> dict[str, str]:
    for run_id in run_ids:
        frame = context.folder.read_predictions(run_id, ["suite", "item_id", "predicted"])
        if frame is not None and len(own := frame[(frame["suite"] == suite) & frame["predicted"].notna()]):
            return dict(zip(own["item_id"], own["predicted"], strict=True))
    return {}
