"""What a plan that was made earlier asks for and holds: its study at the commits it saw, its finished runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

from rankscope.data.hub_data import is_commit
from rankscope.edges.study_folder import StudyFolder
from rankscope.records import Plan
from rankscope.study.study import ModelSpec, Study, SuiteSource, TrainSource

_Pinned = TypeVar("_Pinned", ModelSpec, TrainSource, SuiteSource)


def finished_among(folder: StudyFolder, run_ids: Sequence[str]) -> list[str]:
    """Those of the runs that are done."""
    statuses = {run_id: folder.read_status(run_id) for run_id in run_ids}
    return [run_id for run_id, status in statuses.items() if status is not None and status.state == "done"]


def unscorable(folder: StudyFolder, plan: Plan) -> dict[str, list[str]]:
    """By finished run whose weights are gone, the suites that it was never asked: they came after it."""
    found = {}
    for run in plan.runs:
        status = folder.read_status(run.run_id)
        kept = folder.has_weights(run.run_id, whole=run.arm.traits.whole)
        if status is None or status.state != "done" or kept:
            continue
        scored = folder.scored_suites(run.run_id)
        missing = [s.name for s in plan.suites if s.model == run.model and scored.get(s.name) != s.content_sha256]
        if missing:
            found[run.run_id] = missing
    return found


def why_unscored(lacking: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Why finished runs have no scores on suites that came later, by run."""
    return {
        run_id: f"not scored on {', '.join(suites)}: its weights were not kept; `--retrain` trains it again"
        for run_id, suites in lacking.items()
    }


def same_work(one: Plan, other: Plan) -> bool:
    """Whether two plans ask for the same runs on the same data; what a machine says of speed and room may differ."""

    def work(plan: Plan) -> tuple[object, ...]:
        ids = [(run.run_id, run.arm.label) for run in plan.runs], [search.search_id for search in plan.searches]
        resolved = plan.resolved.model_copy(update={"worker_count": plan.resolved.workers_a_node, "node_count": 1})
        if resolved.device == "cuda":  # which GPUs there are, and the threads beside them, are each machine's own
            resolved = resolved.model_copy(update={"gpus": [], "worker_count": 1, "thread_count": 1})
        # the sizes of clusters follow from the content; a plan that is older than them lacks them
        suites = [suite.model_copy(update={"cluster_sizes": None}) for suite in plan.suites]
        split = [(c.model, c.train_set, c.select, sorted(c.select_counts)) for c in plan.choices]
        return resolved, plan.models, plan.train_sets, suites, split, ids

    return work(one) == work(other)


def pinned(study: Study, plan: Plan) -> Study:
    """The study at the commits that its hub models and data sets had when it was planned: a job that starts later
    sees what the plan saw."""
    models = {facts.name: facts.revision for facts in plan.models}
    rows = {("train", facts.name): facts.revision for facts in plan.train_sets}
    rows |= {("suites", facts.name): facts.revision for facts in plan.suites}

    def at_commit(given: _Pinned, commit: str | None) -> _Pinned:
        return given.model_copy(update={"revision": commit}) if commit and is_commit(commit) else given

    return study.model_copy(
        update={
            "models": tuple(at_commit(spec, models.get(spec.name)) for spec in study.models),
            "train": {name: at_commit(given, rows.get(("train", name))) for name, given in study.train.items()},
            "suites": {name: at_commit(given, rows.get(("suites", name))) for name, given in study.suites.items()},
        }
    )
