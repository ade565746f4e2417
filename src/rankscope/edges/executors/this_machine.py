"""Jobs on this machine: one after another in this process, or side by side in worker processes that stay for many.

The pool is our own: pebble 5.2 gives up a whole pool when an idle worker dies, loky 3.5 when any worker does, and here
a death may cost one job at most.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path

import psutil

from rankscope.edges.cores import core_count, cores_of_workers
from rankscope.edges.executors import Executor, Job, JobOutcome, WorkPlace, host_bytes_of, perform, slots_of
from rankscope.edges.machine import stop_requested
from rankscope.edges.worker_process import (
    Place,
    Process,
    WorkerTask,
    begin_fork_server,
    gpu_names,
    how_it_ended,
    start_worker,
)
from rankscope.plan.placement import LOOK_AHEAD, Capacity, Claim, Running, next_to_begin
from rankscope.plan.resolve import USABLE_MEMORY
from rankscope.records import Plan
from rankscope.study.study import Execution

NAME = "local"

_GPU_DRIVERS = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
"""NVIDIA's, AMD's, and that of Windows' subsystem for Linux."""

_LOOK_SECONDS = 0.25

_END_SECONDS = 10.0
"""How long a worker without a job may take to end."""


def make(plan: Plan) -> Executor:
    """On CUDA a worker process for each GPU, so that this one never makes a CUDA context; on a CPU (and on a
    Mac's GPU) worker processes where the plan has several, else this process."""
    resolved = plan.resolved
    if resolved.device != "cuda" and resolved.worker_count == 1:
        return InProcess(resolved.thread_count)
    count = resolved.worker_count
    gpus: list[str | None] = [None] * count
    if resolved.device == "cuda":
        gpus = [*gpu_names(resolved.gpus or range(count), os.environ)]
    cores = cores_of_workers(count, resolved.thread_count)
    return Workers(count, resolved.thread_count, [Place(gpu, own) for gpu, own in zip(gpus, cores, strict=True)])


def begin(execution: Execution) -> None:
    """Where several workers on a CPU are to be expected: let them be forked from here, where all that they need is
    imported and nothing has begun. Whether there is a GPU only torch knows; a driver's file tells enough."""
    most = core_count() if execution.workers == "auto" else execution.workers
    if execution.device == "auto" and most > 1 and not any(Path(driver).exists() for driver in _GPU_DRIVERS):
        begin_fork_server(from_here=True)


class InProcess:
    """One job after another, here, on `thread_count` threads. `idle` is called between jobs only."""

    def __init__(self, thread_count: int) -> None:
        self._threads = thread_count

    def run(self, jobs: Sequence[Job], idle: Callable[[], None]) -> Iterator[JobOutcome]:
        import torch

        torch.set_num_threads(self._threads)
        for job in jobs:
            if stop_requested():
                return
            idle()
            yield perform(job, WorkPlace(stop_requested))

    def close(self) -> None:
        """Nothing to give back."""


@dataclass(frozen=True)
class _Worker:
    """A worker process on the places with these numbers."""

    process: Process
    pipe: Connection
    places: tuple[int, ...]


@dataclass
class _AtWork:
    """A worker and its job, given to it at `since` on the monotonic clock. `begun`: it has said so."""

    worker: _Worker
    job: Job
    since: float
    begun: bool = False


class Workers:
    """Worker processes that stay for many jobs, one on each place, so that each imports and loads once.

    A job that takes several places has a process of its own that sees the devices of them all; it ends with the job,
    and so do before it the workers that wait on those places, whose memory it needs. A worker that dies (out of memory,
    say) costs its own job, and an idle one nothing; its places are free again. Unless `places` are given, all are on
    this process's cores. Jobs at work take at most `host_bytes` together: by default what a plan counts on.
    """

    def __init__(
        self,
        worker_count: int,
        thread_count: int,
        places: Sequence[Place] | None = None,
        host_bytes: int | None = None,
    ) -> None:
        self._places = list(places) if places is not None else [Place()] * worker_count
        self._threads = thread_count
        memory = int(psutil.virtual_memory().total * USABLE_MEMORY) if host_bytes is None else host_bytes
        self._whole = Capacity(len(self._places), memory)
        self._busy: dict[Connection, _AtWork] = {}
        self._idle: list[_Worker] = []

    def run(self, jobs: Sequence[Job], idle: Callable[[], None]) -> Iterator[JobOutcome]:
        """Yields outcomes as they come; `idle` is called about four times a second."""
        waiting = list(jobs)
        told_to_stop = False
        while self._busy or (waiting and not stop_requested()):
            while not stop_requested() and (chosen := self._next(waiting)) is not None:
                self._give(waiting.pop(chosen))
            for pipe in wait(list(self._busy), timeout=_LOOK_SECONDS):
                assert isinstance(pipe, Connection)
                at_work = self._busy[pipe]
                news = _receive(at_work)
                if news is None:
                    at_work.begun = True
                    if told_to_stop:  # it may have begun after that, and not heard of it
                        at_work.worker.process.terminate()
                    continue
                self._take_back(at_work.worker)
                if news.error is not None and not at_work.begun:
                    waiting.insert(0, at_work.job)  # it died while it waited: the job was never begun
                    continue
                yield news
            if stop_requested() and not told_to_stop:
                told_to_stop = True
                for at_work in self._busy.values():
                    at_work.worker.process.terminate()  # SIGTERM: the worker saves its state and returns
            idle()

    def close(self) -> None:
        """End the workers: idle ones leave by themselves, busy ones are killed."""
        self._end(self._idle)
        for pipe, at_work in self._busy.items():
            at_work.worker.process.kill()
            pipe.close()
            at_work.worker.process.join(timeout=_END_SECONDS)
        self._busy.clear()

    def _next(self, waiting: Sequence[Job]) -> int | None:
        """The place in `waiting` of the job to begin now."""
        at_work = [Running(claim := _claim(one.job), one.since + claim.seconds) for one in self._busy.values()]
        ahead = [_claim(job) for job in waiting[: LOOK_AHEAD + 1]]
        return next_to_begin(ahead, at_work, self._whole, time.monotonic())

    def _give(self, job: Job) -> None:
        """Hand a job to a worker that waits, or to a new one: where none is alive, and for a job on several places."""
        count = min(slots_of(job), len(self._places))
        while count == 1 and self._idle:
            worker = self._idle.pop()
            try:
                worker.pipe.send(job)
            except OSError:  # it died while it waited
                self._end([worker])
                continue
            self._busy[worker.pipe] = _AtWork(worker, job, time.monotonic())
            return
        worker = self._start(self._free_places(count))
        self._busy[worker.pipe] = _AtWork(worker, job, time.monotonic())
        with contextlib.suppress(OSError):  # it died at once: its pipe says so, and the job goes to another
            worker.pipe.send(job)

    def _free_places(self, count: int) -> tuple[int, ...]:
        """So many places without a job, if possible without a worker that waits there; who waits on one is ended."""
        taken = {place for one in self._busy.values() for place in one.worker.places}
        warm = {place for worker in self._idle for place in worker.places}
        free = [place for place in range(len(self._places)) if place not in taken]
        chosen = sorted(sorted(free, key=lambda place: place in warm)[:count])
        self._end([worker for worker in self._idle if not set(worker.places).isdisjoint(chosen)])
        return tuple(chosen)

    def _start(self, places: tuple[int, ...]) -> _Worker:
        own = [self._places[place] for place in places]
        gpus = tuple(place.gpu for place in own if place.gpu is not None)
        cores = tuple(sorted({core for place in own for core in place.cores}))
        process, pipe = start_worker(WorkerTask(self._threads, os.getpid(), gpus, cores))
        return _Worker(process, pipe, places)

    def _take_back(self, worker: _Worker) -> None:
        """A worker whose job has ended waits for the next one, where it is alive and on one place."""
        del self._busy[worker.pipe]
        if len(worker.places) == 1 and worker.process.is_alive():
            self._idle.append(worker)
        else:
            self._end([worker])

    def _end(self, workers: Sequence[_Worker]) -> None:
        """Let workers without a job end, and wait until they have given back what they held."""
        self._idle = [worker for worker in self._idle if worker not in workers]
        for worker in workers:
            worker.pipe.close()
        for worker in workers:
            worker.process.join(timeout=_END_SECONDS)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join(timeout=_END_SECONDS)


def _claim(job: Job) -> Claim:
    return Claim(slots_of(job), host_bytes_of(job), job.seconds)


def _receive(at_work: _AtWork) -> JobOutcome | None:
    """How the job ended; None: it has begun."""
    try:
        news: JobOutcome | None = at_work.worker.pipe.recv()
        return news
    except (EOFError, OSError):
        return JobOutcome(at_work.job, error=how_it_ended(at_work.worker.process))
