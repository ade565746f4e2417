"""What a worker of the Ray executor does: an actor that holds its devices and keeps what it loaded, job after job.

An actor and not a task a job: Ray gives a task of GPUs a new process, or, where it may keep the process, perhaps
another GPU than the one that it has already begun to use.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
from dataclasses import dataclass, replace
from typing import Any

from rankscope.edges.cores import share_cores
from rankscope.edges.executors import Job, JobOutcome, WorkPlace, perform
from rankscope.edges.executors.on_ray.nodes import why_unseen
from rankscope.edges.freed_memory import keep_freed_memory
from rankscope.edges.machine import quiet_libraries
from rankscope.edges.study_folder import StudyFolder
from rankscope.study.store_urls import without_secrets


@dataclass(frozen=True)
class Began:
    """Where a worker came to be. `problem`: why it cannot work on the study there; empty where it can."""

    node_id: str
    host: str
    pid: int
    problem: str = ""


class Place:
    """Runs in a process of its own on a node. `stop` is called while `perform` runs."""

    def __init__(self, thread_count: int) -> None:
        import ray

        if not ray.get_gpu_ids():  # Ray may leave a node's GPUs to be seen: all such workers would take the first
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        quiet_libraries()
        share_cores()
        keep_freed_memory()
        self._threads = thread_count
        self._stop = threading.Event()

    def begin(self, url: str) -> Began:
        """Say where this is, and whether the study can be seen."""
        import ray

        node_id = ray.get_runtime_context().get_node_id()
        return Began(node_id, socket.gethostname(), os.getpid(), why_unseen(url) if url else "")

    def perform(self, job: Job) -> tuple[str | None, str]:
        """Run a job to its end or to a stop; error and traceback, as of `JobOutcome`."""
        self._stop.clear()
        torch = sys.modules.get("torch")  # a job that computes brought it along when it was unpacked
        if torch is not None:
            torch.set_num_threads(self._threads)
        folder = getattr(job, "folder", "")
        if folder:
            StudyFolder.open(folder).refresh()  # what other nodes wrote since
        outcome = perform(job, WorkPlace(self._stop.is_set, _devices()))
        return outcome.error, outcome.details

    def stop(self) -> None:
        """Let the job that runs save its state and return."""
        self._stop.set()


def _devices() -> tuple[str, ...]:
    """The GPUs that Ray gave this process, as CUDA_VISIBLE_DEVICES has them."""
    import ray

    if not ray.get_gpu_ids():
        return ()
    return tuple(one for one in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if one)


def actor_of(ray: Any) -> Any:
    """The actor class; `stop` has a thread of its own, so that it is heard at once."""
    return ray.remote(concurrency_groups={"control": 1}, max_restarts=0, max_task_retries=0)(Place)


def sent(job: Job) -> Job:
    """The job as another machine understands it: its study's folder by its whole path."""
    folder = getattr(job, "folder", None)
    if not folder or "://" in folder:
        return job
    return replace(job, folder=os.path.abspath(os.path.expanduser(folder)))  # type: ignore[type-var]


def outcome_of(job: Job, ended: tuple[str | None, str]) -> JobOutcome:
    """The outcome of a job that was sent, by its error and the details; Ray's own messages may hold anything."""
    error = without_secrets(ended[0]) if ended[0] is not None else None
    return JobOutcome(job, error=error, details=without_secrets(ended[1]), elsewhere=True)
