"""Study folders -> defaults pooled over them. Needs no model and no data, only the folders."""

from __future__ import annotations

from collections.abc import Sequence

from rankscope.decide.looks import gather
from rankscope.decide.pooled_effects import StudyArm, pool, study_arms
from rankscope.edges.study_folder import StudyFolder
from rankscope.records import Defaults
from rankscope.results.frames import frames_of, planned_study, searches_of
from rankscope.study.problems import InputProblems, Problem
from rankscope.study.study import Decision


def pool_folders(folders: Sequence[str]) -> Defaults:
    """Defaults over the studies in `folders`, each base model and training set of each. The strictest margins and the
    highest confidence of all count. Raises InputProblems for a folder that holds no study, and where nothing is done.
    """
    problems, arms, decisions = [], [], []
    for folder in folders:
        try:
            found_arms, decision = _of(StudyFolder.open(folder))
        except InputProblems as error:
            problems += error.problems
            continue
        if not found_arms:
            problems.append(
                Problem(str(folder), "DIR", "no finished run that could be compared", "a study that has ended")
            )
        arms += found_arms
        decisions.append(decision)
    if problems:
        raise InputProblems(problems)
    strictest = Decision(
        task_margin=min(decision.task_margin for decision in decisions),
        retention_margin=min(decision.retention_margin for decision in decisions),
        confidence=max(decision.confidence for decision in decisions),
    )
    return pool(arms, strictest)


def _of(folder: StudyFolder) -> tuple[list[StudyArm], Decision]:
    study, plan = planned_study(folder)
    frames = frames_of(folder, plan)
    found: list[StudyArm] = []
    for model, train_set in sorted({(run.model, run.train_set) for run in plan.runs}):
        where = {"model": model, "train_set": train_set}
        evidence = gather(frames, **where, decision=study.decision, looks=plan.looks)
        mine = [s for s in searches_of(folder, plan) if (s.model, s.train_set) == (model, train_set)]
        searched = {arm: search.chosen for search in mine for arm in search.arms if search.chosen is not None}
        found += study_arms(f"{folder.url}: {model} on {train_set}", evidence, searched)
    return found, study.decision
