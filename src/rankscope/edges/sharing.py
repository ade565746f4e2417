"""What processes that share a study folder must agree on: the plan they work by, and the weights that may go."""

from __future__ import annotations

import shutil

from rankscope.edges.store import FolderStore
from rankscope.records import Plan


def write_plan(store: FolderStore, study: str, plan: Plan) -> None:
    """Write study.yaml (the text `study`) and plan.json, by which the folder's jobs work."""
    store.write_text("study.yaml", study)
    store.write_plan(plan)


def is_planned(store: FolderStore, plan: Plan, text: str) -> bool:
    """Whether the folder holds this study and plan already, so that its files can stay while others work by them."""
    before, path = store.read_plan(), store.folder / "study.yaml"
    return before is not None and same_work(before, plan) and path.read_text(encoding="utf-8") == text


def same_work(one: Plan, other: Plan) -> bool:
    """Whether two plans ask for the same runs on the same data; what a machine says of speed and room may differ."""

    def work(plan: Plan) -> tuple[object, ...]:
        ids = [(run.run_id, run.arm.label) for run in plan.runs], [search.search_id for search in plan.searches]
        return plan.resolved, plan.models, plan.train_sets, plan.suites, ids

    return work(one) == work(other)


def keep_best(store: FolderStore, plan: Plan) -> None:
    """Of each arm's full checkpoints that are scored leave the one with the lowest validation loss."""
    groups: dict[tuple[str, str, str], list[tuple[float, str]]] = {}
    for run in plan.runs:
        status = store.read_status(run.run_id)
        if run.arm.traits.whole and status is not None and status.validation_loss is not None:
            key = (run.model, run.train_set, run.arm.label)
            groups.setdefault(key, []).append((status.validation_loss, run.run_id))
    for group in groups.values():
        for _, run_id in sorted(group)[1:]:
            shutil.rmtree(store.model_folder(run_id), ignore_errors=True)
