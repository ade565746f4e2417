"""The job that scores a base model exactly as the arms are scored, and once more in other batches.

What the second scoring changes is the noise floor: differences that numerics alone make.
"""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from rankscope.edges.executors import WorkPlace
from rankscope.edges.study_folder import StudyFolder
from rankscope.evaluate.score_suites import SuitePlan, predictions_frame, score_suite
from rankscope.jobs.job_context import JobContext, job_context
from rankscope.jobs.scoring import missing_suites, score_missing
from rankscope.records import Prediction, RunStatus

OTHER_BATCHES = 3
"""The second scoring's batches hold a third of the tokens: other rows beside each item, other widths, other sums."""


@dataclass(frozen=True)
class ScoreBase:
    """Score one base model on every suite, as far as scores are missing. `run_id` is `base`, or `base/NAME`."""

    folder: str
    run_id: str
    model: str
    seconds: float = 0.0

    def run(self, place: WorkPlace) -> None:
        context = job_context(self.folder, place)
        with context.folder.wait_lock(self.run_id, place.stop_requested) as mine:
            if mine and missing_suites(context, self.run_id, self.model):
                context.write_run(self.run_id, self.model, None, None)
                _write_items(context, self.run_id, self.model)
                score_missing(
                    context, context.base(self.model), self.model, RunStatus(run_id=self.run_id, state="running")
                )
            if mine and not missing_suites(context, self.run_id, self.model):
                _score_again(context, self.run_id, self.model)

    def mark_failed(self, folder: StudyFolder, error: str, details: str) -> dict[str, str]:
        """Label the base's run; what failed, and why, by run id."""
        return label_runs(folder, (self.run_id,), error, details)


def label_runs(folder: StudyFolder, run_ids: tuple[str, ...], error: str, details: str) -> dict[str, str]:
    """Write `failed` with its reason into each run's status, and the traceback beside it."""
    for run_id in run_ids:
        before = folder.read_status(run_id) or RunStatus(run_id=run_id, state="planned")
        folder.write_status(before.model_copy(update={"state": "failed", "reason": error}))
        folder.write_error(folder.run_folder(run_id), details)
    return dict.fromkeys(run_ids, error)


def _write_items(context: JobContext, run_id: str, model: str) -> None:
    """items.parquet beside the base's predictions: what was asked, for a report that needs neither model nor data."""
    rows = [
        {"suite": name, "item_id": item.item_id, "prompt": item.prompt_text, "choices": list(item.choice_texts)}
        for name in context.suite_facts(model)
        for item in context.suite(model, name).items
    ]
    context.folder.write_items(run_id, pd.DataFrame(rows))


def _score_again(context: JobContext, run_id: str, model: str) -> None:
    """The suites that have scores once more, in batches of other sizes, as far as that is missing."""
    wanted = {name: facts.content_sha256 for name, facts in context.suite_facts(model).items() if facts.form != "text"}
    if context.folder.suites_scored_again(run_id) == wanted or context.stop_requested():
        return
    base, budget = context.base(model), context.evaluate_tokens // OTHER_BATCHES
    found: list[Prediction] = []
    for name in wanted:
        plan = SuitePlan(context.suite(model, name), budget)
        found += score_suite(base.model, base.tokenizer, plan, token_budget=budget)
    context.folder.write_second_predictions(run_id, predictions_frame(run_id, found), wanted)
