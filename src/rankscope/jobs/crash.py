"""What a job that crashed leaves in the study folder: its runs labelled, and its traceback beside them."""

from __future__ import annotations

from rankscope.edges.local_executor import JobOutcome
from rankscope.edges.study_folder import FolderStore
from rankscope.jobs.derive_job import derive
from rankscope.jobs.packing_job import choose_packing
from rankscope.jobs.run_job import train_and_score
from rankscope.jobs.search_job import search_rate
from rankscope.records import RunStatus


def label_crash(store: FolderStore, outcome: JobOutcome) -> dict[str, str]:
    """What failed, and why, after it was labelled as that; the traceback lies in its error.txt."""
    if outcome.error is None:
        return {}
    details = outcome.details or outcome.error
    if outcome.job.function is choose_packing:  # the runs train one by one
        store.write_text("packing/error.txt", details)
        return {}
    failed = {}
    for run_id in outcome.job.run_ids:
        ended = store.read_status(run_id) if outcome.job.function is train_and_score else None
        if ended is not None and ended.state in ("done", "diverged"):
            continue  # of a pack those that came through
        failed[run_id] = outcome.error
        if outcome.job.function is search_rate:
            store.write_text(f"searches/{run_id}/error.txt", details)
            continue
        if outcome.job.function is derive:  # the run itself is done
            store.write_text(f"runs/{run_id.replace(' ', '/derived/')}.error.txt", details)
            continue
        before = store.read_status(run_id) or RunStatus(run_id=run_id, state="planned")
        store.write_status(before.model_copy(update={"state": "failed", "reason": outcome.error}))
        path = store.run_folder(run_id).relative_to(store.folder) / "error.txt"
        store.write_text(str(path), details)
    return failed
