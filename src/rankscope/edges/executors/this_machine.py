"""Jobs on this machine: one after another in this process, or side by side in worker processes that stay for many.

The pool is our own: pebble 5.2 gives up a whole pool when an idle worker dies, loky 3.5 when any worker does, and here
a death may cost one job at most.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from rankscope.edges.executors import Executor, Job, JobOutcome, WorkPlace, perform, slots_of
from rankscope.edges.machine import end_with, keep_freed_memory, stop_on, stop_requested
from rankscope.records import Plan

NAME = "local"

PRELOADED = ["rankscope.jobs.run_job", "rankscope.jobs.search_job"]
"""What the fork server imports once for all workers."""

_LOOK_SECONDS = 0.25

_NO_FORK_SERVER = 255
"""The exit code that multiprocessing gives a worker whose fork server is gone, and with it how the worker ended."""

_START_WAITS_SECONDS = (0.0, 0.05, 0.2, 0.5, 1.0, 2.0)
"""Waits before each attempt to start a worker. A fork server that was killed refuses connections for as long as the
system needs to take it down, and multiprocessing starts another only when it is gone."""


def make(plan: Plan) -> Executor:
    """Worker processes where the plan has several, else this process."""
    resolved = plan.resolved
    if resolved.worker_count == 1:
        return InProcess(resolved.thread_count)
    return Workers(resolved.worker_count, resolved.thread_count)


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


class Workers:
    """Worker processes that stay for many jobs, so that each imports and loads once.

    A worker that dies (out of memory, say) costs its own job, and an idle one nothing: another takes its place.
    """

    def __init__(self, worker_count: int, thread_count: int) -> None:
        self._count = worker_count
        self._threads = thread_count
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(PRELOADED)
        self._busy: dict[Connection, tuple[BaseProcess, Job]] = {}
        self._begun: set[Connection] = set()
        self._free: list[tuple[BaseProcess, Connection]] = []

    def run(self, jobs: Sequence[Job], idle: Callable[[], None]) -> Iterator[JobOutcome]:
        """Yields outcomes as they come; `idle` is called about four times a second."""
        waiting = list(jobs)
        told_to_stop = False
        while self._busy or (waiting and not stop_requested()):
            while waiting and self._has_room(waiting[0]) and not stop_requested():
                self._give(waiting.pop(0))
            for pipe in wait(list(self._busy), timeout=_LOOK_SECONDS):
                assert isinstance(pipe, Connection)
                process, job = self._busy[pipe]
                news = _receive(process, pipe, job)
                if news is None:
                    self._begun.add(pipe)
                    continue
                del self._busy[pipe]
                if process.is_alive():
                    self._free.append((process, pipe))
                if news.error is not None and pipe not in self._begun:
                    waiting.insert(0, job)  # it died while it waited: the job was never begun
                    continue
                self._begun.discard(pipe)
                yield news
            if stop_requested() and not told_to_stop:
                told_to_stop = True
                for process, _ in self._busy.values():
                    process.terminate()  # SIGTERM: the worker saves its state and returns
            idle()

    def _has_room(self, job: Job) -> bool:
        """A gang takes as many places as it has processes, or all where it has more."""
        taken = sum(slots_of(held) for _, held in self._busy.values())
        return not self._busy or taken + slots_of(job) <= self._count

    def close(self) -> None:
        """End the workers: idle ones leave by themselves, busy ones are killed."""
        for process, pipe in self._free:
            pipe.close()
            process.join(timeout=5)
        for pipe, (process, _) in self._busy.items():
            process.kill()
            pipe.close()
        self._free.clear()
        self._busy.clear()

    def _give(self, job: Job) -> None:
        """Hand a job to an idle worker, or to a new one where none is left alive."""
        while self._free:
            process, pipe = self._free.pop()
            try:
                pipe.send(job)
            except OSError:  # it died while it waited
                pipe.close()
                process.join(timeout=5)
                continue
            self._busy[pipe] = (process, job)
            return
        process, pipe = self._start()
        self._busy[pipe] = (process, job)
        with contextlib.suppress(OSError):  # it died at once: its pipe says so, and the job goes to another
            pipe.send(job)

    def _start(self) -> tuple[BaseProcess, Connection]:
        """A new worker. Where the fork server was killed, multiprocessing starts another at a later attempt."""
        failure: Exception = OSError("no attempt was made")
        for wait_seconds in _START_WAITS_SECONDS:
            time.sleep(wait_seconds)
            ours, theirs = self._context.Pipe()
            process = self._context.Process(target=_work, args=(theirs, self._threads, os.getpid()), daemon=True)
            try:
                process.start()
                return process, ours
            except (EOFError, OSError) as error:
                ours.close()
                failure = error
            finally:
                theirs.close()
        raise failure


def _receive(process: BaseProcess, pipe: Connection, job: Job) -> JobOutcome | None:
    """How the job ended; None: it has begun."""
    try:
        news: JobOutcome | None = pipe.recv()
        return news
    except (EOFError, OSError):
        process.join(timeout=10)
        code = process.exitcode
        died = f"by signal {-code}" if code is not None and code < 0 else f"with exit code {code}"
        if code == _NO_FORK_SERVER:
            died = "with the fork server that had started it"
        hint = " (often: out of memory)" if code == -signal.SIGKILL else ""
        return JobOutcome(job, error=f"its worker process ended {died}{hint}")


def _work(pipe: Connection, thread_count: int, parent: int) -> None:
    import torch

    keep_freed_memory()
    torch.set_num_threads(thread_count)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's Ctrl-C is the parent's to handle
    stop_on((signal.SIGTERM, signal.SIGUSR1))
    end_with(parent)
    while True:
        try:
            job = pipe.recv()
        except (EOFError, OSError):
            return
        try:
            pipe.send(None)  # begun: from here on a death is the job's own
            pipe.send(perform(job, WorkPlace(stop_requested)))
        except OSError:
            return
