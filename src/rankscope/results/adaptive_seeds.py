"""Which runs a study needs: all that it plans, or with adaptive seeds those that its verdict still asks for."""

from __future__ import annotations

from collections.abc import Set as AbstractSet

from rankscope.decide.looks import Evidence, gather
from rankscope.edges.study_folder import StudyFolder
from rankscope.records import Plan, PlannedRun, RunStatus
from rankscope.results.frames import frames_of
from rankscope.study.study import Study


def wanted_runs(folder: StudyFolder, study: Study, plan: Plan, asked: AbstractSet[str]) -> list[PlannedRun]:
    """The runs that are needed next, in the plan's order; empty where nothing more is. `asked`: those that were given
    out already, in this session, of which alone the results count (an earlier one may lack a suite).
    """
    if not plan.looks:
        return [run for run in plan.runs if run.run_id not in asked]
    wanted: set[str] = set()
    for evidence in _evidence(folder, study, plan, asked):
        wanted |= evidence.last.run_ids - asked
    return [run for run in plan.runs if run.run_id in wanted]


def mark_unneeded(folder: StudyFolder, study: Study, plan: Plan, asked: AbstractSet[str]) -> None:
    """Label the runs that the verdict did without, each with the reason."""
    for evidence in _evidence(folder, study, plan, asked):
        pairing = evidence.last.pairing
        if pairing.unfinished:
            continue
        for run in plan.runs:
            mine = (run.model, run.train_set) == (pairing.model, pairing.train_set)
            before = folder.read_status(run.run_id)
            if not mine or run.run_id in asked or not run.fits or (before is not None and before.state == "done"):
                continue
            reason = _reason(evidence, run)
            start = before or RunStatus(run_id=run.run_id, state="not needed", steps_total=run.step_count)
            folder.write_status(start.model_copy(update={"state": "not needed", "reason": reason}))


def _reason(evidence: Evidence, run: PlannedRun) -> str:
    label = run.arm.label
    if label in evidence.labels and label not in evidence.last.labels:
        look, _ = evidence.of(label)
        return f"after {len(look.pairing.seeds)} seeds {label} could not be the answer any more"
    count = len(evidence.last.pairing.seeds)
    return f"the verdict stands after {count} seeds" if evidence.ruling.kind.decided else f"stopped after {count} seeds"


def _evidence(folder: StudyFolder, study: Study, plan: Plan, asked: AbstractSet[str]) -> list[Evidence]:
    """What is known of every base model and training set from the runs in `asked`; the others count as still to do."""
    frames = frames_of(folder, plan)
    runs = frames.runs
    waiting = ~runs["run_id"].isin(asked) & (runs["state"] != "does not fit")
    runs["state"] = runs["state"].mask(waiting, "planned")
    pairs = sorted(set(zip(runs["model"], runs["train_set"], strict=True)))
    return [
        gather(frames, model=model, train_set=train_set, decision=study.decision, looks=plan.looks)
        for model, train_set in pairs
    ]
