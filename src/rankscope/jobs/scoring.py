"""Scoring a model on the suites that a run has no predictions for: what the base and every arm have in common."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from rankscope.evaluate.adapter_scoring import Logprobs
from rankscope.evaluate.score_suites import predictions_frame, score_suite
from rankscope.jobs.job_context import JobContext
from rankscope.model.forward import NotFinite
from rankscope.model.load import LoadedModel
from rankscope.records import Prediction, RunStatus
from rankscope.train.fit import memory_in_use_bytes


@dataclass(frozen=True)
class Known:
    """What one forward for several runs gave for one of them, by suite, and its share of the seconds."""

    logprobs: Mapping[str, Logprobs]
    seconds: float


NOTHING = Known({}, 0.0)


def missing_suites(context: JobContext, run_id: str, model: str) -> list[str]:
    """Suites of the study that the run has no predictions for, or predictions on other content."""
    scored = context.folder.scored_suites(run_id)
    return [name for name, sha256 in context.suite_hashes(model).items() if scored.get(name) != sha256]


def score_missing(
    context: JobContext, model: LoadedModel, name: str, status: RunStatus, known: Known = NOTHING
) -> RunStatus:
    """Score what is missing, keep what is there, write predictions.parquet and the final status. `name`: the base's."""
    folder, run_id = context.folder, status.run_id
    start, peak = time.perf_counter(), status.peak_memory_bytes or 0
    missing, hashes = missing_suites(context, run_id, name), context.suite_hashes(name)
    kept = _kept(context, run_id, set(hashes) - set(missing)) if len(missing) < len(hashes) else None
    already = len(kept) if kept is not None else 0
    predictions: list[Prediction] = []
    try:
        for suite in missing:
            predictions += score_suite(
                model.model, model.tokenizer, context.suite_plan(name, suite), token_budget=context.evaluate_tokens,
                logprobs=known.logprobs.get(suite),
            )  # fmt: skip
            peak = max(peak, memory_in_use_bytes())
            status = status.model_copy(update={"items_scored": already + len(predictions), "peak_memory_bytes": peak})
            context.write_status(status)
    except NotFinite as error:
        status = status.model_copy(update={"state": "diverged", "reason": str(error)})
        context.write_status(status)
        return status
    frame = predictions_frame(run_id, predictions)
    if kept is not None and len(kept):
        frame = pd.concat([kept, frame], ignore_index=True)
    frame["suite"] = pd.Categorical(frame["suite"], categories=list(hashes))
    frame = frame.sort_values("suite", kind="stable").astype({"suite": "str"}).reset_index(drop=True)
    folder.write_predictions(run_id, frame, hashes)
    update = {
        "state": "done",
        "reason": None,
        "evaluate_seconds": (status.evaluate_seconds or 0.0) + known.seconds + time.perf_counter() - start,
        "peak_memory_bytes": peak,
        "adapter_bytes": folder.adapter_bytes(run_id),
    }
    status = status.model_copy(update=update)
    context.write_status(status)
    return status


def _kept(context: JobContext, run_id: str, suites: set[str]) -> pd.DataFrame | None:
    """The predictions that stand, of an earlier look at the same run."""
    before = context.folder.read_predictions(run_id)
    return before[before["suite"].isin(suites)] if before is not None else None
