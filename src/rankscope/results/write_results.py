"""From the records of a study folder to tables, verdict and report. Needs no model and no data, only the folder."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from rankscope.decide.change_tables import derived_scores, forgetting_by_run, rate_sentences, rates
from rankscope.decide.dial_outcomes import dial_outcomes
from rankscope.decide.forgetting_diagnostics import diagnose
from rankscope.decide.inside_tables import joined, measures_by_run, neuron_overlaps, subspaces
from rankscope.decide.looks import Evidence, gather_all
from rankscope.decide.other_margins import at_other_margins
from rankscope.decide.paired_items import Frames
from rankscope.decide.remedy_outcomes import best_sentence, remedy_outcomes
from rankscope.decide.result_tables import findings, forgotten, forgotten_groups, make_tables, scores
from rankscope.decide.verdict import decide
from rankscope.edges.freed_memory import give_back_freed_memory
from rankscope.edges.study_folder import StudyFolder
from rankscope.records import ArmSetting, Plan, Verdict, VerdictFile
from rankscope.report.flipped_items import sample_flips
from rankscope.report.page import ReportData, render
from rankscope.results.chosen_settings import as_chosen, dials_of
from rankscope.results.frames import frames_of, learning_frame, planned_study
from rankscope.results.item_roles import Roles, chooses, roles_of
from rankscope.results.operating_table import operating_table, settled
from rankscope.results.search_names import searches_of
from rankscope.results.suite_levels import context_warnings
from rankscope.study.study import Study


def write_results(folder: StudyFolder, *, with_items: bool = True) -> VerdictFile:
    """Write tables/, verdict.json and report.html of a study folder from what its runs have left there.

    `with_items`: whether the page may hold rows of data sets, as questions that an arm forgot or gained.
    """
    data = _report_data(folder, with_items=with_items)
    give_back_freed_memory()  # the predictions need not lie beside what drawing pictures needs
    folder.write_report(render(data))
    return data.verdicts


def _report_data(folder: StudyFolder, *, with_items: bool) -> ReportData:
    """Write tables/ and verdict.json; what the page says."""
    study, plan = planned_study(folder)
    settings = settled(folder, plan)
    frames = frames_of(folder, plan, settings)
    predictions, suites, runs = frames
    evidence = gather_all(frames, study.decision, study.looks)
    tables = make_tables(frames, decision=study.decision, looks=study.looks, evidence=evidence)
    tables["learning"] = learning_frame(folder, plan)
    domains = {facts.name: facts.domain for facts in plan.train_sets}
    tables["rates"] = rates(
        searches_of(folder, plan), predictions[predictions["arm"] == "base"], suites, domains, settings
    )
    tables["operating_points"] = operating_table(folder, plan, settings, study.decision.confidence, frames)
    as_trained, trained = frames, tables["scores"]
    if any(setting.dial < 1 for setting in settings):
        as_trained = frames_of(folder, plan, [])
        trained = scores(as_trained)  # what is inside a run is as it was trained, and so is what is held against it
    tables |= _inside_tables(
        folder, runs, trained, tables["forgetting"], roles_of(folder, plan), confidence=study.decision.confidence
    )
    tables["forgotten"] = forgotten(tables["flips"], runs)
    tables["forgotten_groups"] = forgotten_groups(tables["flips"], tables["forgotten"])
    for name, table in tables.items():
        folder.write_table(name, table)

    verdicts = VerdictFile(
        verdicts=_verdicts(study, plan, (frames, as_trained), settings, evidence, tables),
        notes=plan.warnings,
    )
    folder.write_verdicts(verdicts)
    return ReportData(
        study=study.model_dump(mode="json", by_alias=True, exclude_none=True),
        plan=plan,
        verdicts=verdicts,
        tables=tables,
        items=items_frame(folder, plan, predictions, tables["flips"], dials_of(plan, settings)) if with_items else None,
        searches=as_chosen(searches_of(folder, plan), settings),
        provenance=provenance_of(folder, plan),
        warnings=[*warnings_of(folder, plan), *rate_sentences(tables["rates"], study.decision)],
        command=f"rankscope run {shlex.quote(folder.url)}",
        place=folder.url,
    )


def _verdicts(
    study: Study,
    plan: Plan,
    frames: tuple[Frames, Frames],
    settings: Sequence[ArmSetting],
    evidence: Mapping[tuple[str, str], Evidence],
    tables: Mapping[str, pd.DataFrame],
) -> list[Verdict]:
    """The answer for every base model and training set, with what was forgotten and what would keep more. `frames`: the
    arms at their settings, and as trained."""
    decision, found = study.decision, []
    for (model, train_set), known in evidence.items():
        verdict = decide(
            frames[0], model=model, train_set=train_set, decision=decision, looks=study.looks, evidence=known
        )
        outcomes = remedy_outcomes(frames[0], model, train_set, decision.confidence)
        dials = dial_outcomes(*frames, settings, model, train_set, decision.confidence)
        best = [best_sentence(outcomes), *(one.sentence for one in dials if one.arm in verdict.named_arms)]
        told = findings(tables["forgotten_groups"], tables["kinds"], model, train_set)
        worth = at_other_margins(
            settings, plan.choice_of(model, train_set), tables["operating_points"],
            decision=decision, seed_count=len(study.all_seeds),
        )  # fmt: skip
        update = {
            "findings": [*told, *(f"{sentence}." for sentence in best if sentence is not None)],
            "remedies": outcomes,
            "dials": dials,
            "at_other_margins": worth,
        }
        found.append(verdict.model_copy(update=update))
    return found


def provenance_of(folder: StudyFolder, plan: Plan) -> dict[str, Any]:
    """Where the numbers came from, as the base's run recorded it, and the run ids' own settings."""
    records = (folder.read_run(run_id) for run_id in [*plan.base_ids.values(), *(r.run_id for r in plan.runs)])
    record = next((r for r in records if r is not None), None)
    resolved = plan.resolved.model_dump()
    found = record.provenance.model_dump() if record is not None else {}
    several = len(plan.models) > 1  # each tokenizer makes other rows of the same file
    trained = {f"{t.model} {t.name}" if several else t.name: t.content_sha256 for t in plan.train_sets}
    return {**found, **({"train_sha256": trained} if found else {}), **resolved}


def warnings_of(folder: StudyFolder, plan: Plan) -> list[str]:
    """What a reader must know: overlap, lengths, runs that ended badly."""
    found = list(plan.warnings)
    for train in plan.train_sets:
        found += train.warnings
        for replay in train.replays:
            arms = ", ".join(replay.arms)
            found += [*replay.warnings]
            found += [f"{arms}: {count} left out of what is replayed ({why})" for why, count in replay.dropped.items()]
        found += [f"{train.name}: {count} rows dropped from training ({why})" for why, count in train.dropped.items()]
    for suite in plan.suites:
        found += [f"{suite.name}: {count} items left out ({why})" for why, count in suite.left_out.items()]
    for run in plan.runs:
        status = folder.read_status(run.run_id)
        name = f"{run.arm.label} on {run.train_set}, seed {run.seed}"
        if status is not None and status.state in ("failed", "diverged"):
            found.append(f"{name}: {status.state}, {status.reason}")
        elif status is not None and status.state == "done" and status.reason is not None:
            found.append(f"{name}: scored, but {status.reason}")
        if not run.fits:
            found.append(f"{run.arm.label} on {run.train_set} does not fit: {run.reason}")
    return list(dict.fromkeys([*found, *context_warnings(folder, plan)]))


def items_frame(
    folder: StudyFolder, plan: Plan, predictions: pd.DataFrame, flips: pd.DataFrame, dials: Mapping[str, float]
) -> pd.DataFrame:
    """A sample of the flipped items, each with prompt, answer and both predictions; the arm's is at its dial, of the
    first seed in which its score is not the base's."""
    sample, bases = sample_flips(flips), plan.base_ids
    asked = [folder.read_items(run_id) for run_id in bases.values()]
    if sample.empty or all(items is None for items in asked):
        return pd.DataFrame()
    keys = ["model", "suite", "item_id"]
    names = [*keys, "train_set", "arm"]
    rows = predictions.loc[predictions["item_id"].isin(sample["item_id"]), [*names, "seed", "run_id", "score"]]
    rows = rows.astype(dict.fromkeys([*names, "run_id"], "str"))
    base, arms = rows[rows["arm"] == "base"], rows[rows["arm"] != "base"].dropna(subset=["score"])
    arms = arms.merge(base[[*keys, "score"]].dropna(), on=keys, suffixes=("", "_base")).merge(sample[names], on=names)
    arms = arms[arms["score"] != arms["score_base"]].sort_values("seed", kind="stable").drop_duplicates(names)
    said = _texts(folder, arms, ["predicted"], dials).rename(columns={"predicted": "arm_predicted"})
    told = _texts(folder, base, ["predicted", "answer"], {}).rename(columns={"predicted": "base_predicted"})
    joined = sample.merge(said[[*names, "arm_predicted"]], on=names, how="left")
    joined = joined.merge(told[[*keys, "base_predicted", "answer"]], on=keys, how="left")
    questions = [frame.assign(model=model) for model, frame in zip(bases, asked, strict=True) if frame is not None]
    return joined.merge(pd.concat(questions, ignore_index=True), on=keys, how="left")


def _texts(folder: StudyFolder, rows: pd.DataFrame, columns: list[str], dials: Mapping[str, float]) -> pd.DataFrame:
    """Rows of predictions (run_id, suite, item_id, ...) with these columns of texts, read run by run."""
    keys = ["suite", "item_id"]
    found = [rows[:0].assign(**dict.fromkeys(columns, ""))]
    for run_id, mine in rows.groupby("run_id"):
        texts = folder.read_at_dial(str(run_id), dials.get(str(run_id), 1.0), [*keys, *columns])
        if texts is not None:
            found.append(mine.merge(texts.drop_duplicates(keys), on=keys, how="left"))
    return pd.concat(found, ignore_index=True)


# ---- what changed inside --------------------------------------------------------------------------------------------

ANALYSES = ("spectra", "hidden", "attention", "neurons")


def _inside_tables(
    folder: StudyFolder,
    runs: pd.DataFrame,
    scores: pd.DataFrame,
    changes: pd.DataFrame,
    roles: Roles,
    *,
    confidence: float,
) -> dict[str, pd.DataFrame]:
    """Of the finished runs: spectra, subspaces, hidden, attention, neurons, neuron_overlaps, diagnostics, derived."""
    done = runs[runs["state"] == "done"]
    tables = {name: joined(_frames(folder, done, name), runs) for name in ANALYSES}
    tables["subspaces"] = subspaces(_directions(folder, done), tables["spectra"], runs)
    tables["neuron_overlaps"] = neuron_overlaps(tables["neurons"])
    values = measures_by_run(tables, scores)
    tables["diagnostics"] = diagnose(values, forgetting_by_run(scores, changes), runs, confidence=confidence)
    tables["derived"] = derived_scores(_derived(folder, done, roles), scores)
    return tables


def _frames(folder: StudyFolder, runs: pd.DataFrame, name: str) -> dict[str, pd.DataFrame]:
    found = {r: folder.read_analysis(r, name) for r in runs["run_id"]}
    return {run_id: frame for run_id, frame in found.items() if frame is not None}


def _directions(folder: StudyFolder, runs: pd.DataFrame) -> dict[str, dict[str, NDArray[np.floating]]]:
    found = {run_id: folder.read_directions(run_id) for run_id in runs["run_id"]}
    return {run_id: directions for run_id, directions in found.items() if directions is not None}


def _derived(folder: StudyFolder, runs: pd.DataFrame, roles: Roles) -> list[tuple[dict[str, object], pd.DataFrame]]:
    """(facts, predictions on the items that judge) of what was made of the largest adapter and of a whole
    model: of each base model and training set one run's each."""
    found: list[tuple[dict[str, object], pd.DataFrame]] = []
    seen: set[tuple[str, str, bool]] = set()
    plain_first = runs.assign(treated=runs["remedy"].notna())
    ordered = plain_first.sort_values(["rank", "treated", "arm", "seed"], ascending=[False, True, True, True])
    for row in ordered.to_dict("records"):
        names = folder.derived_names(row["run_id"])
        pair = (row["model"], row["train_set"])
        if not names or (*pair, pd.isna(row["rank"])) in seen:
            continue
        seen.add((*pair, pd.isna(row["rank"])))
        named = {key: row[key] for key in ("model", "train_set", "arm", "seed")}
        for name in names:
            frame = folder.read_derived(row["run_id"], name)
            if frame is not None:
                judges = ~chooses(frame, roles.get(pair, {}))
                found.append((folder.derived_facts(row["run_id"], name) | named, frame[judges]))
    return found
