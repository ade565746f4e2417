"""From the records of a study folder to the frames that tables and verdicts are made of. Needs no model and no data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from rankscope.decide.paired_items import Frames
from rankscope.edges.study_folder import StudyFolder
from rankscope.records import ArmSetting, Plan, PlannedRun, SearchRecord
from rankscope.results.chosen_settings import dials_of, settings_of
from rankscope.results.item_roles import Roles, chooses, roles_of
from rankscope.results.search_names import searches_of
from rankscope.study.read_study import study_of
from rankscope.study.study import Study


def planned_study(folder: StudyFolder) -> tuple[Study, Plan]:
    """The study and the plan in a folder. Raises InputProblems where there are none."""
    plan = folder.planned()
    return study_of(folder.read_study_text() or ""), plan


def frames_of(folder: StudyFolder, plan: Plan, settings: Sequence[ArmSetting] | None = None) -> Frames:
    """Predictions, suites and runs of a study, each arm at its setting: what every decision is made from.

    `settings`: those of `settings_of`, where they are known, or none of them for runs as they were trained.
    """
    suites, roles = suites_frame(plan), roles_of(folder, plan)
    found = settings_of(folder, plan, suites, roles) if settings is None else settings
    dials = dials_of(plan, found)
    return Frames(predictions_frame(folder, plan, dials, roles), suites, runs_frame(folder, plan, dials))


def suites_frame(plan: Plan) -> pd.DataFrame:
    """suite, domain, kind, form, metric."""
    columns = ("domain", "kind", "form", "metric")
    rows = [{"suite": s.name, **{name: getattr(s, name) for name in columns}} for s in plan.suites]
    return pd.DataFrame(rows).drop_duplicates("suite", ignore_index=True)


def predictions_frame(folder: StudyFolder, plan: Plan, dials: Mapping[str, float], roles: Roles) -> pd.DataFrame:
    """What every finished run scored on the plan's suites at its dial; the base's rows have arm `base` and no training
    set. `role` is `select` in the rows of items that choose settings for the run's training set, and `judge` in all
    others, the base's too.

    Names are categories in the order of their text. Texts (predicted, answer) are not here: a report reads
    those that are shown. The base's rows alone have `cluster` and, of both scorings, `choice_logprobs`.
    """
    runs = {run.run_id: run for run in plan.runs if _is_done(folder, run)}
    bases = {run_id: model for model, run_id in plan.base_ids.items()}
    frame = folder.read_scores([*bases, *runs], dials)
    ids = [str(run_id) for run_id in frame["run_id"].cat.categories]
    frame["model"] = _named(frame["run_id"], [bases.get(i) or runs[i].model for i in ids])
    frame["train_set"] = _named(frame["run_id"], [runs[i].train_set if i in runs else None for i in ids])
    frame["arm"] = _named(frame["run_id"], [runs[i].arm.label if i in runs else "base" for i in ids])
    seeds = pd.array([runs[i].seed if i in runs else None for i in ids], dtype="Int64")
    frame["seed"] = seeds[frame["run_id"].cat.codes.to_numpy()]
    frame["role"] = _roles(frame, roles)
    details = [_base_details(folder, run_id) for run_id in bases if run_id in ids]
    if details:
        joined = pd.concat(details, ignore_index=True)
        joined.index = frame.index[frame["run_id"].isin(list(bases))]  # read_scores keeps the rows' order
        frame = frame.join(joined)
    wanted = frame["suite"].isin({suite.name for suite in plan.suites})
    return frame if wanted.all() else frame[wanted].reset_index(drop=True)


def _roles(frame: pd.DataFrame, roles: Roles) -> pd.Categorical[Any]:
    """`judge` or `select` of each row, of what its training set's items are for."""
    select = np.zeros(len(frame), dtype=bool)
    for (model, train_set), chosen in roles.items():
        mine = ((frame["model"] == model) & (frame["train_set"] == train_set)).to_numpy()
        rows = frame.loc[mine, ["suite", "item_id"]]
        select[np.flatnonzero(mine)] = chooses(rows, chosen).to_numpy()
    return pd.Categorical.from_codes(select.astype(np.int8), dtype=pd.CategoricalDtype(["judge", "select"]))


def _base_details(folder: StudyFolder, run_id: str) -> pd.DataFrame:
    """Of a base's predictions `cluster` and `choice_logprobs`, and what it got when it was scored in other batches."""
    base, again = folder.read_predictions(run_id), folder.read_second_predictions(run_id)
    assert base is not None
    found = base.reindex(columns=["suite", "item_id", "cluster", "choice_logprobs", "score_asked_again"])
    if again is not None:
        columns = {name: f"{name}_again" for name in ("score", "loss_nats", "choice_logprobs")}
        second = again[["suite", "item_id", *columns]].rename(columns=columns)
        found = found.merge(second, on=["suite", "item_id"], how="left", validate="one_to_one")
    return found.drop(columns=["suite", "item_id"])


def _is_done(folder: StudyFolder, run: PlannedRun) -> bool:
    status = folder.read_status(run.run_id)
    return status is not None and status.state == "done"


def _named(run_ids: pd.Series, names: list[str | None]) -> pd.Categorical[Any]:
    """What each run is called, as categories in the order of their text; None stays missing."""
    categories = sorted({name for name in names if name is not None})
    by_run = np.array([-1 if name is None else categories.index(name) for name in names], dtype=np.int16)
    return pd.Categorical.from_codes(by_run[run_ids.cat.codes.to_numpy()], dtype=pd.CategoricalDtype(categories))


def runs_frame(folder: StudyFolder, plan: Plan, dials: Mapping[str, float] | None = None) -> pd.DataFrame:
    """One row per planned run: what it is, how it ended, what it cost, its arm's share of a search included; `dials` is
    at which dial each is judged, 1 where nothing is said. `prompts_from`: the suites that gave prompts of what it
    replays."""
    searches = searches_of(folder, plan)
    domains = {facts.name: facts.domain for facts in plan.train_sets}
    at = dials or {}
    rows = [_run_row(folder, run, searches, domains, at.get(run.run_id, 1.0)) for run in plan.runs]
    gave = [plan.gave_prompts(run.model, run.train_set, run.arm) for run in plan.runs]
    return pd.DataFrame(rows).assign(prompts_from=pd.Series(gave, dtype=object))


def _run_row(
    folder: StudyFolder, run: PlannedRun, searches: list[SearchRecord], domains: dict[str, str | None], dial: float
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
    if status is not None and status.state == "done" and not folder.has_at_dial(run.run_id, dial):
        reason = f"it is not scored at the dial {dial:g}: `rankscope run`, or with --retrain, scores it"
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
        "remedy": run.arm.remedy,
        "trained_here": run.arm.given is None,
        "extra_tokens_share": run.replay_tokens / run.train_tokens if run.train_tokens else 0.0,
        "targets": targets if isinstance(targets, str) or targets is None else ", ".join(targets),
        "learning_rate": record.learning_rate if record is not None else None,
        "dial": dial,
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
    """Every step of every run, from train.jsonl. A run whose steps have no validation loss (it is too short for a
    curve, or of an earlier release) has that of its end at its last one.
    """
    rows: list[dict[str, Any]] = []
    for run in plan.runs:
        named = {"run_id": run.run_id, "model": run.model, "train_set": run.train_set, "arm": run.arm.label}
        steps = folder.read_steps(run.run_id)
        own: list[dict[str, Any]] = [
            {**named, "seed": run.seed, "validation_loss_nats_per_token": None, **step} for step in steps
        ]
        status = folder.read_status(run.run_id)
        if own and status is not None and all(step["validation_loss_nats_per_token"] is None for step in own):
            own[-1]["validation_loss_nats_per_token"] = status.validation_loss
        rows += own
    frame = pd.DataFrame(rows)
    return frame.astype({"validation_loss_nats_per_token": "Float64"}) if rows else frame
