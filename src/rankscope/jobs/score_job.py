"""Scoring a model on the suites that a run has no predictions for, and the job that scores a base model.

The base is scored exactly as the arms are, and once more in other batches: what that changes is the noise floor, the
differences that numerics alone make.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Literal

import pandas as pd

from rankscope.edges.executors import WorkPlace
from rankscope.edges.study_folder import StudyFolder
from rankscope.evaluate.adapter_scoring import Logprobs
from rankscope.evaluate.answer_grading import NotGraded
from rankscope.evaluate.judge_client import GradingStopped
from rankscope.evaluate.score_suites import SuitePlan, predictions_frame, score_suite
from rankscope.jobs.gang_work import hand_to_gang
from rankscope.jobs.job_context import JobContext, job_context
from rankscope.jobs.known_answers import base_answers
from rankscope.jobs.selection import with_roles
from rankscope.model.forward import NotFinite
from rankscope.model.load import LoadedModel
from rankscope.records import Plan, PlannedRun, Prediction, RunStatus
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
    """Score what is missing, keep what is there, write predictions.parquet and the final status. `name`: the base's.

    Raises NotGraded or GradingStopped for the first suite that was not graded, when all others are written.
    """
    folder, run_id = context.folder, status.run_id
    start, peak = time.perf_counter(), status.peak_memory_bytes or 0
    missing, hashes = missing_suites(context, run_id, name), context.suite_hashes(name)
    kept = _kept(context, run_id, set(hashes) - set(missing)) if len(missing) < len(hashes) else None
    already = len(kept) if kept is not None else 0
    predictions: list[Prediction] = []
    ungraded: dict[str, NotGraded | GradingStopped] = {}
    desk = context.desk(twice=run_id not in context.runs)
    try:
        for suite in missing:
            try:
                plan = context.suite_plan(name, suite)
                answers = base_answers(context, name, plan.suite) if run_id in context.runs else None
                predictions += score_suite(
                    model.model, model.tokenizer, plan, token_budget=context.evaluate_tokens,
                    logprobs=known.logprobs.get(suite), desk=desk, answers=answers,
                )  # fmt: skip
            except (NotGraded, GradingStopped) as error:  # the other suites' predictions are kept all the same
                ungraded[suite] = error
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
    run = context.runs.get(run_id)  # None: a base, whose items have no role of their own
    frame = frame if run is None else with_roles(context, run, frame)
    frame["suite"] = pd.Categorical(frame["suite"], categories=list(hashes))
    frame = frame.sort_values("suite", kind="stable").astype({"suite": "str"}).reset_index(drop=True)
    folder.write_predictions(run_id, frame, {suite: sha for suite, sha in hashes.items() if suite not in ungraded})
    if ungraded:
        raise next(iter(ungraded.values()))
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


OTHER_BATCHES = 3
"""The second scoring's batches hold a third of the tokens: other rows beside each item, other widths, other sums."""


@dataclass(frozen=True)
class ScoreBase:
    """Score one base model on every suite, as far as scores are missing. `run_id` is `base`, or `base/NAME`.

    The second scoring, in other batches, is for the verdict alone: with `part` "first" it is left out. "again" is both,
    but nothing where the first one failed.
    """

    folder: str
    run_id: str
    model: str
    seconds: float = 0.0
    slots: int = 1
    host_bytes: int = 0
    part: Literal["both", "first", "again"] = "both"

    def run(self, place: WorkPlace) -> None:
        context = job_context(self.folder, place)
        gang = context.plan.base_gang(self.model)
        with context.folder.wait_lock(self.run_id, place.stop_requested) as mine:
            if not mine:
                return
            status = context.folder.read_status(self.run_id)
            if self.part == "again" and status is not None and status.state == "failed":
                return
            if gang.alone:
                score_base(context, self.run_id, self.model, again=self.part != "first")
            elif _base_missing(context, self.run_id, self.model):
                tokens = context.plan.resolved.micro_batch_tokens
                hand_to_gang(context, gang, tokens, work="base", run_ids=[self.run_id], model=self.model)

    def mark_failed(self, folder: StudyFolder, error: str, details: str) -> dict[str, str]:
        """Label the base's run; what failed, and why, by run id."""
        return label_runs(folder, (self.run_id,), error, details)


def base_jobs(folder: StudyFolder, plan: Plan) -> list[ScoreBase]:
    """A job for each base of the plan, the longest first, which takes what its schedule has for it."""
    placed = {
        name: job for job in (plan.schedule.jobs if plan.schedule else ()) if job.what == "base" for name in job.ids
    }
    jobs = [
        ScoreBase(
            folder.url, run_id, model, placed[run_id].seconds if run_id in placed else 0.0,
            slots=plan.base_gang(model).size, host_bytes=placed[run_id].host_bytes if run_id in placed else 0,
        )
        for model, run_id in plan.base_ids.items()
    ]  # fmt: skip
    return sorted(jobs, key=lambda job: -job.seconds)


def split_base_scoring(jobs: Sequence[ScoreBase], plan: Plan, others: int) -> tuple[list[ScoreBase], list[ScoreBase]]:
    """What others wait for, or what is begun first, and what fills up the end: each base once, and each once more. Both
    at first where it takes a gang, which is long to begin, and where the `others` do not keep all workers busy."""
    whole = [job for job in jobs if others < plan.resolved.worker_count or not plan.base_gang(job.model).alone]
    halves = [replace(job, seconds=job.seconds / 2) for job in jobs if job not in whole]
    return [*whole, *(replace(job, part="first") for job in halves)], [replace(job, part="again") for job in halves]


def score_base(context: JobContext, run_id: str, model: str, *, again: bool = True) -> None:
    """Score a base on what is missing, then `again` in other batches; of a gang all processes call this."""
    folder, missing = context.folder, missing_suites(context, run_id, model)
    if missing or folder.read_run(run_id) is None:
        context.write_run(run_id, model, None, None)
    if missing or folder.read_items(run_id) is None:
        _write_items(context, run_id, model)
    with suppress(GradingStopped):
        if missing:
            score_missing(context, context.base(model), model, RunStatus(run_id=run_id, state="running"))
        elif (status := folder.read_status(run_id)) is None or status.state != "done":
            context.write_status(RunStatus(run_id=run_id, state="done"))
        # Asked once: what the first process of a gang wrote just now another may not see yet.
        if again and not context.team.told(lambda: missing_suites(context, run_id, model)):
            _score_again(context, run_id, model)


def _base_missing(context: JobContext, run_id: str, model: str) -> bool:
    """Whether there is anything to do for `score_base`."""
    folder, status = context.folder, context.folder.read_status(run_id)
    whole = folder.read_run(run_id) is not None and folder.read_items(run_id) is not None
    done = status is not None and status.state == "done" and not missing_suites(context, run_id, model)
    return not whole or not done or folder.suites_scored_again(run_id) != _scored_twice(context, model)


def _scored_twice(context: JobContext, model: str) -> dict[str, str]:
    """The content hash of every suite that has scores."""
    return {name: facts.content_sha256 for name, facts in context.suite_facts(model).items() if facts.form != "text"}


def label_runs(folder: StudyFolder, run_ids: tuple[str, ...], error: str, details: str) -> dict[str, str]:
    """Write `failed` with its reason into each run's status, and the traceback beside it."""
    for run_id in run_ids:
        before = folder.read_status(run_id) or RunStatus(run_id=run_id, state="planned")
        folder.write_status(before.model_copy(update={"state": "failed", "reason": error, "activity": None}))
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
    wanted = _scored_twice(context, model)
    if context.folder.suites_scored_again(run_id) == wanted or context.stop_requested():
        return
    status = context.folder.read_status(run_id) or RunStatus(run_id=run_id, state="done")
    context.write_status(status.model_copy(update={"activity": "scored once more in other batches"}))
    base, budget = context.base(model), context.evaluate_tokens // OTHER_BATCHES
    found: list[Prediction] = []
    for name in wanted:
        plan = SuitePlan(context.suite(model, name), budget)
        found += score_suite(
            base.model, base.tokenizer, plan, token_budget=budget, desk=context.desk(),
            answers=base_answers(context, model, plan.suite),
        )  # fmt: skip
    context.folder.write_second_predictions(run_id, predictions_frame(run_id, found), wanted)
    context.write_status(status.model_copy(update={"activity": None}))


def came_through(folder: StudyFolder, plan: Plan | None, run: PlannedRun) -> bool:
    """Whether a run needs nothing more: it diverged, or is done and has predictions on every suite of the plan.

    A finished run of a study that has gained a suite is `done` while that suite is being scored.
    """
    status = folder.read_status(run.run_id)
    if status is None or status.state not in ("done", "diverged") or plan is None:
        return False
    scored = folder.scored_suites(run.run_id)
    wanted = {suite.name: suite.content_sha256 for suite in plan.suites if suite.model == run.model}
    if status.state == "diverged" or not folder.has_weights(run.run_id, whole=run.arm.traits.whole):
        return status.state == "diverged" or all(scored.get(name) == sha256 for name, sha256 in wanted.items())
    # A suite that the study no longer has may stay in the table of dial 1; at the other dials all is scored again.
    return wanted.items() <= scored.items() and all(
        folder.suites_at_dial(run.run_id, dial) == wanted for dial in run.dials if dial < 1
    )
