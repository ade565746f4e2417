"""From the records of a study folder to the frames that tables and verdicts are made of. Needs no model and no data."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pandas as pd

from rankscope.decide.paired_items import Frames
from rankscope.edges.study_folder import StudyFolder
from rankscope.records import Plan, PlannedRun, Prediction, SearchRecord
from rankscope.study.resolved_study import study_of
from rankscope.study.study import Study


def planned_study(folder: StudyFolder) -> tuple[Study, Plan]:
    """The study and the plan in a folder. Raises InputProblems where there are none."""
    plan = folder.planned()
    return study_of(folder.read_study_text() or ""), plan


def frames_of(folder: StudyFolder, plan: Plan) -> Frames:
    """Predictions, suites and runs of a study: what every decision is made from."""
    return Frames(predictions_frame(folder, plan), suites_frame(plan), runs_frame(folder, plan))


def base_ids(plan: Plan) -> dict[str, str]:
    """The base models' own run ids, by model name: their folders under the study."""
    if len(plan.models) == 1:
        return {plan.models[0].name: "base"}
    return {facts.name: f"base/{facts.name}" for facts in plan.models}


def suites_frame(plan: Plan) -> pd.DataFrame:
    """suite, domain, kind, form."""
    rows = [{"suite": s.name, "domain": s.domain, "kind": s.kind, "form": s.form} for s in plan.suites]
    return pd.DataFrame(rows).drop_duplicates("suite", ignore_index=True)


_PREDICTED = ["run_id", *(field.name for field in fields(Prediction)), "model", "train_set", "arm", "seed"]
"""Columns of the predictions where nothing was scored."""


def predictions_frame(folder: StudyFolder, plan: Plan) -> pd.DataFrame:
    """Every finished run's predictions on the plan's suites; the base's rows have arm `base` and no training set."""
    frames = []
    for model, run_id in base_ids(plan).items():
        base = _predictions(folder, run_id, model=model, train_set=None, arm="base", seed=None)
        frames.append(base if base is None else _with_second_scores(base, folder.read_second_predictions(run_id)))
    for run in plan.runs:
        status = folder.read_status(run.run_id)
        if status is not None and status.state == "done":
            frames.append(
                _predictions(
                    folder, run.run_id, model=run.model, train_set=run.train_set, arm=run.arm.label, seed=run.seed
                )
            )
    found = [frame for frame in frames if frame is not None]
    wanted = {suite.name for suite in plan.suites}
    joined = pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=_PREDICTED)
    return joined[joined["suite"].isin(wanted)].reset_index(drop=True)


def _with_second_scores(base: pd.DataFrame, again: pd.DataFrame | None) -> pd.DataFrame:
    """`score_again` and `choice_logprobs_again`: what the base got when it was scored in other batches."""
    if again is None:
        return base
    columns = {name: f"{name}_again" for name in ("score", "choice_logprobs")}
    second = again[["suite", "item_id", *columns]].rename(columns=columns)
    return base.merge(second, on=["suite", "item_id"], how="left", validate="one_to_one")


def _predictions(folder: StudyFolder, run_id: str, **columns: Any) -> pd.DataFrame | None:
    frame = folder.read_predictions(run_id)
    if frame is None:
        return None
    typed = {
        name: pd.array([value] * len(frame), dtype="Int64" if name == "seed" else "str")
        for name, value in columns.items()
    }
    return frame.assign(**typed)


def runs_frame(folder: StudyFolder, plan: Plan) -> pd.DataFrame:
    """One row per planned run: what it is, how it ended, what it cost, its arm's share of a search included."""
    searches = searches_of(folder, plan)
    domains = {facts.name: facts.domain for facts in plan.train_sets}
    return pd.DataFrame([_run_row(folder, run, searches, domains) for run in plan.runs])


def _run_row(
    folder: StudyFolder, run: PlannedRun, searches: list[SearchRecord], domains: dict[str, str | None]
) -> dict[str, Any]:
    status, record = folder.read_status(run.run_id), folder.read_run(run.run_id)
    search_seconds = [
        (search.train_seconds + search.probe_seconds) / len(search.arms)
        for search in searches
        if (search.model, search.train_set) == (run.model, run.train_set) and run.arm.label in search.arms
    ]
    planned = "planned" if run.fits else "does not fit"
    if status is not None and status.state == "done" and not folder.has_predictions(run.run_id):
        reason = "its predictions are gone: `rankscope run` scores it again"
        status = status.model_copy(update={"state": "planned", "reason": reason})
    targets = run.arm.targets
    return {
        "run_id": run.run_id,
        "model": run.model,
        "train_set": run.train_set,
        "train_domain": domains[run.train_set],
        "arm": run.arm.label,
        "method": run.arm.method,
        "rank": run.arm.rank,
        "alpha": run.arm.alpha,
        "targets": targets if isinstance(targets, str) or targets is None else ", ".join(targets),
        "learning_rate": record.learning_rate if record is not None else None,
        "seed": run.seed,
        "state": status.state if status is not None else planned,
        "reason": status.reason if status is not None else run.reason,
        "trainable_parameters": run.trainable_parameters,
        "train_seconds": status.train_seconds if status is not None else None,
        "evaluate_seconds": status.evaluate_seconds if status is not None else None,
        "search_seconds": sum(search_seconds) if search_seconds else None,
        "peak_memory_bytes": status.peak_memory_bytes if status is not None else None,
        "adapter_bytes": status.adapter_bytes if status is not None else None,
        "final_train_loss": status.final_train_loss if status is not None else None,
        "validation_loss": status.validation_loss if status is not None else None,
        "steps": status.steps_done if status is not None else None,
    }


def learning_frame(folder: StudyFolder, plan: Plan) -> pd.DataFrame:
    """Every step of every run, from train.jsonl; the validation loss, measured when training ends, at the last one."""
    rows: list[dict[str, Any]] = []
    for run in plan.runs:
        named = {"run_id": run.run_id, "model": run.model, "train_set": run.train_set, "arm": run.arm.label}
        steps = folder.read_steps(run.run_id)
        own: list[dict[str, Any]] = [
            {**named, "seed": run.seed, **step, "validation_loss_nats_per_token": None} for step in steps
        ]
        status = folder.read_status(run.run_id)
        if own and status is not None:
            own[-1]["validation_loss_nats_per_token"] = status.validation_loss
        rows += own
    frame = pd.DataFrame(rows)
    return frame.astype({"validation_loss_nats_per_token": "Float64"}) if rows else frame


def searches_of(folder: StudyFolder, plan: Plan) -> list[SearchRecord]:
    """The searches of a learning rate that have ended, in the plan's order."""
    found = (folder.read_search(search.search_id) for search in plan.searches)
    return [record for record in found if record is not None]
