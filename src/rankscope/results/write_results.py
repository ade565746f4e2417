"""From the records of a study folder to tables, verdict and report. Needs no model and no data, only the folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd

from rankscope.decide.change_tables import rate_sentences, rates
from rankscope.decide.paired_items import Frames
from rankscope.decide.result_tables import findings, forgotten, forgotten_groups, make_tables
from rankscope.decide.verdict import decide
from rankscope.edges.study_folder import FolderStore
from rankscope.records import Plan, PlannedRun, SearchRecord, VerdictFile
from rankscope.report.page import ReportData, render
from rankscope.results.analysis_tables import inside_tables
from rankscope.study.resolved_study import read_resolved


def write_results(folder: Path) -> VerdictFile:
    """Write tables/, verdict.json and report.html of a study folder from what its runs have left there."""
    store = FolderStore(folder)
    study = read_resolved(folder / "study.yaml")
    plan = store.read_plan()
    if plan is None:
        raise FileNotFoundError(f"{folder} holds no plan.json")
    frames = frames_of(store, plan)
    predictions, suites, runs = frames
    tables = make_tables(frames, decision=study.decision, looks=study.looks)
    tables["learning"] = learning_frame(store, plan)
    domains = {facts.name: facts.domain for facts in plan.train_sets}
    tables["rates"] = rates(searches_of(store, plan), predictions[predictions["arm"] == "base"], suites, domains)
    tables |= inside_tables(store, runs, tables["scores"], confidence=study.decision.confidence)
    tables["forgotten"] = forgotten(tables["flips"], runs)
    tables["forgotten_groups"] = forgotten_groups(tables["flips"], tables["forgotten"])
    for name, table in tables.items():
        store.write_frame(folder / "tables" / f"{name}.parquet", table)
    pairs = sorted({(run.model, run.train_set) for run in plan.runs})
    verdicts = VerdictFile(
        verdicts=[
            decide(frames, model=model, train_set=train_set, decision=study.decision, looks=study.looks).model_copy(
                update={"findings": findings(tables["forgotten_groups"], tables["kinds"], model, train_set)}
            )
            for model, train_set in pairs
        ],
        notes=plan.warnings,
    )
    store.write_verdicts(verdicts)
    data = ReportData(
        study=study.model_dump(mode="json", by_alias=True, exclude_none=True),
        plan=plan,
        verdicts=verdicts,
        tables=tables,
        items=items_frame(store, plan, predictions, tables["flips"]),
        searches=searches_of(store, plan),
        provenance=provenance_of(store, plan),
        warnings=[*warnings_of(store, plan), *rate_sentences(tables["rates"], study.decision)],
        command=f"rankscope run {folder / 'study.yaml'} --out {folder}",
    )
    store.write_text("report.html", render(data))
    return verdicts


# ---- records -> frames ----------------------------------------------------------------------------------------------


def frames_of(store: FolderStore, plan: Plan) -> Frames:
    return Frames(predictions_frame(store, plan), suites_frame(plan), runs_frame(store, plan))


def base_ids(plan: Plan) -> dict[str, str]:
    """The base models' own run ids, by model name: their folders under the study."""
    if len(plan.models) == 1:
        return {plan.models[0].name: "base"}
    return {facts.name: f"base/{facts.name}" for facts in plan.models}


def suites_frame(plan: Plan) -> pd.DataFrame:
    """suite, domain, kind, form."""
    rows = [{"suite": s.name, "domain": s.domain, "kind": s.kind, "form": s.form} for s in plan.suites]
    return pd.DataFrame(rows).drop_duplicates("suite", ignore_index=True)


_PREDICTED = ["model", "train_set", "arm", "seed", "suite", "item_id", "score"]


def predictions_frame(store: FolderStore, plan: Plan) -> pd.DataFrame:
    """Every finished run's predictions on the plan's suites; the base's rows have arm `base` and no training set."""
    frames = []
    for model, run_id in base_ids(plan).items():
        base = _predictions(store, run_id, model=model, train_set=None, arm="base", seed=None)
        frames.append(
            base
            if base is None
            else _with_second_scores(base, store.read_frame(store.run_folder(run_id) / "again.parquet"))
        )
    for run in plan.runs:
        status = store.read_status(run.run_id)
        if status is not None and status.state == "done":
            frames.append(
                _predictions(
                    store, run.run_id, model=run.model, train_set=run.train_set, arm=run.arm.label, seed=run.seed
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


def _predictions(store: FolderStore, run_id: str, **columns: Any) -> pd.DataFrame | None:
    frame = store.read_frame(store.run_folder(run_id) / "predictions.parquet")
    if frame is None:
        return None
    typed = {
        name: pd.array([value] * len(frame), dtype="Int64" if name == "seed" else "str")
        for name, value in columns.items()
    }
    return frame.assign(**typed)


def runs_frame(store: FolderStore, plan: Plan) -> pd.DataFrame:
    """One row per planned run: what it is, how it ended, what it cost, its arm's share of a search included."""
    searches = searches_of(store, plan)
    domains = {facts.name: facts.domain for facts in plan.train_sets}
    return pd.DataFrame([_run_row(store, run, searches, domains) for run in plan.runs])


def _run_row(
    store: FolderStore, run: PlannedRun, searches: list[SearchRecord], domains: dict[str, str | None]
) -> dict[str, Any]:
    status, record = store.read_status(run.run_id), store.read_run(run.run_id)
    search_seconds = [
        (search.train_seconds + search.probe_seconds) / len(search.arms)
        for search in searches
        if (search.model, search.train_set) == (run.model, run.train_set) and run.arm.label in search.arms
    ]
    planned = "planned" if run.fits else "does not fit"
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


def learning_frame(store: FolderStore, plan: Plan) -> pd.DataFrame:
    """Every step of every run, from train.jsonl; the validation loss, measured when training ends, at the last one."""
    rows: list[dict[str, Any]] = []
    for run in plan.runs:
        path = store.run_folder(run.run_id) / "train.jsonl"
        if not path.is_file():
            continue
        named = {"run_id": run.run_id, "model": run.model, "train_set": run.train_set, "arm": run.arm.label}
        steps = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        own: list[dict[str, Any]] = [
            {**named, "seed": run.seed, **step, "validation_loss_nats_per_token": None} for step in steps
        ]
        status = store.read_status(run.run_id)
        if own and status is not None:
            own[-1]["validation_loss_nats_per_token"] = status.validation_loss
        rows += own
    frame = pd.DataFrame(rows)
    return frame.astype({"validation_loss_nats_per_token": "Float64"}) if rows else frame


def searches_of(store: FolderStore, plan: Plan) -> list[SearchRecord]:
    found = (store.read_search(search.search_id) for search in plan.searches)
    return [record for record in found if record is not None]


def provenance_of(store: FolderStore, plan: Plan) -> dict[str, Any]:
    """Where the numbers came from, as the base's run recorded it, and the run ids' own settings."""
    records = (store.read_run(run_id) for run_id in [*base_ids(plan).values(), *(r.run_id for r in plan.runs)])
    record = next((r for r in records if r is not None), None)
    resolved = plan.resolved.model_dump()
    found = record.provenance.model_dump() if record is not None else {}
    several = len(plan.models) > 1  # each tokenizer makes other rows of the same file
    trained = {f"{t.model} {t.name}" if several else t.name: t.content_sha256 for t in plan.train_sets}
    return {**found, **({"train_sha256": trained} if found else {}), **resolved}


def warnings_of(store: FolderStore, plan: Plan) -> list[str]:
    """What a reader must know: overlap, lengths, runs that ended badly."""
    found = list(plan.warnings)
    for train in plan.train_sets:
        found += train.warnings
        found += [f"{train.name}: {count} rows dropped from training ({why})" for why, count in train.dropped.items()]
    for suite in plan.suites:
        found += [f"{suite.name}: {count} items left out ({why})" for why, count in suite.left_out.items()]
    for run in plan.runs:
        status = store.read_status(run.run_id)
        if status is not None and status.state in ("failed", "diverged"):
            name = f"{run.arm.label} on {run.train_set}, seed {run.seed}"
            found.append(f"{name}: {status.state}, {status.reason}")
        if not run.fits:
            found.append(f"{run.arm.label} on {run.train_set} does not fit: {run.reason}")
    return list(dict.fromkeys(found))


def items_frame(store: FolderStore, plan: Plan, predictions: pd.DataFrame, flips: pd.DataFrame) -> pd.DataFrame:
    """Every flipped item with prompt, answer and both predictions; the arm's is of a seed in which it flipped."""
    flipped = flips[(flips["seeds_lost"] > 0) | (flips["seeds_won"] > 0)]
    asked = []
    for model, run_id in base_ids(plan).items():
        items = store.read_frame(store.run_folder(run_id) / "items.parquet")
        if items is not None:
            asked.append(items.assign(model=model))
    if not asked or flipped.empty:
        return pd.DataFrame()
    keys = ["model", "suite", "item_id"]
    base = predictions[predictions["arm"] == "base"][[*keys, "predicted", "answer", "score"]]
    base = base.rename(columns={"predicted": "base_predicted", "score": "base_score"})
    arms = predictions[predictions["arm"] != "base"][[*keys, "train_set", "arm", "seed", "predicted", "score"]]
    arms = arms.merge(base, on=keys)
    arms = arms[arms["score"] != arms["base_score"]].sort_values("seed")
    arms = arms.drop_duplicates([*keys, "train_set", "arm"]).rename(columns={"predicted": "arm_predicted"})
    joined = flipped.merge(arms.drop(columns=["score", "base_score"]), on=[*keys, "train_set", "arm"], how="left")
    return joined.merge(pd.concat(asked, ignore_index=True), on=keys, how="left")
