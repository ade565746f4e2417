"""The base scored once more in other batches: what numerics alone change."""

from __future__ import annotations

from rankscope.edges.local_executor import stop_requested
from rankscope.evaluate.score_suites import SuitePlan, predictions_frame, score_suite
from rankscope.jobs.job_context import Bench
from rankscope.records import Prediction

AGAIN_FILE = "again.parquet"
OTHER_BATCHES = 3
"""The second scoring's batches hold a third of the tokens: other rows beside each item, other widths, other sums."""


def score_again(here: Bench, run_id: str, model: str) -> None:
    """again.parquet beside the base's predictions, as far as it is missing: the suites that have scores, once more."""
    path = here.store.run_folder(run_id) / AGAIN_FILE
    suites = {name: one for name, one in here.prepared(model).suites.items() if one[1].form != "text"}
    wanted = {name: facts.content_sha256 for name, (_, facts) in suites.items()}
    if here.store.frame_metadata(path) == wanted or stop_requested():
        return
    base, budget = here.base(model), here.evaluate_tokens // OTHER_BATCHES
    found: list[Prediction] = []
    for suite, _ in suites.values():
        found += score_suite(base.model, base.tokenizer, SuitePlan(suite, budget), token_budget=budget)
    here.store.write_frame(path, predictions_frame(run_id, found), wanted)
