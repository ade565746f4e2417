"""What a model of the study wrote for a suite's items: drafts for whoever answers them next."""

from __future__ import annotations

from functools import partial

from rankscope.evaluate.score_suites import WRITTEN_FORMS
from rankscope.jobs.job_context import JobContext
from rankscope.records import PlannedRun, Suite


def base_answers(context: JobContext, model: str, suite: Suite) -> dict[str, str]:
    """By item id what the base wrote; nothing where the suite has no written answers. A base that is being scored is
    waited for, so that a study that was interrupted has the drafts, and the rounding, of one that never stopped."""
    return _answers(context, None, model, suite)


def run_answers(context: JobContext, run: PlannedRun, suite: Suite) -> dict[str, str]:
    """What a run wrote as it was trained, which is nearer to what it writes at a dial, else what its base did."""
    return _answers(context, run.run_id, run.model, suite)


def _answers(context: JobContext, run_id: str | None, model: str, suite: Suite) -> dict[str, str]:
    """Alike in every process of a gang."""
    if suite.grading is not None or not any(item.form in WRITTEN_FORMS for item in suite.items):
        return {}
    return context.team.told(partial(_found, context, run_id, context.plan.base_ids[model], suite.name))


def _found(context: JobContext, run_id: str | None, base_id: str, suite: str) -> dict[str, str]:
    own = None if run_id is None else _read(context, run_id, suite)
    known = own if own else _read(context, base_id, suite)
    if known is None:
        with context.folder.wait_lock(base_id, context.stop_requested, quietly=True):
            known = _read(context, base_id, suite)
    return known or {}


def _read(context: JobContext, run_id: str, suite: str) -> dict[str, str] | None:
    """None where this suite is not scored yet."""
    frame = context.folder.read_predictions(run_id, ["suite", "item_id", "predicted"])
    if frame is None or not len(own := frame[frame["suite"] == suite]):
        return None
    own = own[own["predicted"].notna()]
    return dict(zip(own["item_id"], own["predicted"], strict=True))
