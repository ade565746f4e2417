"""Where jobs run: in this process, or in worker processes of this machine; a cluster would be another class."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Protocol

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h


def keep_freed_memory() -> bool:
    """Let this process keep large blocks that it frees, for the next ones; says whether its C library can be told so.

    glibc hands blocks of more than 32 MiB, and whatever is free at the top, back to the system at once. A training or
    scoring step asks for the same blocks again and again, and pays for each page of them: up to a fifth of its time.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # not glibc
        return False
    trim, mapped = mallopt(_M_TRIM_THRESHOLD, 2**31 - 1), mallopt(_M_MMAP_THRESHOLD, 2**30)
    return bool(trim and mapped)


def give_back_freed_memory() -> None:
    """Hand all that is free back to the system, so that the next job's resident memory is its own."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError):  # not glibc
        return


_STOP = threading.Event()
"""Set by SIGTERM, SIGUSR1 or SIGINT: whoever works saves its state and returns."""


@dataclass(frozen=True)
class Job:
    """What is handed to an executor: run ids and a top-level function `function(folder, run_ids)`.

    Several run ids mean runs that train packed over one base.
    """

    function: Callable[[str, tuple[str, ...]], None]
    folder: str
    run_ids: tuple[str, ...]


@dataclass(frozen=True)
class JobOutcome:
    """`error` is None where the function returned; `details` then holds the traceback for the run's log."""

    job: Job
    error: str | None = None
    details: str = ""


class Executor(Protocol):
    """Runs jobs in any order and yields each outcome as it comes; a failed job never stops the others."""

    def run(self, jobs: Sequence[Job], idle: Callable[[], None]) -> Iterator[JobOutcome]: ...

    def close(self) -> None: ...


def stop_requested() -> bool:
    """True after a signal asked this process to stop: checkpoint and return."""
    return _STOP.is_set()


@contextmanager
def stop_on_signals() -> Iterator[None]:
    """SIGTERM, SIGUSR1 (schedulers) and SIGINT ask for a stop; a second SIGINT interrupts at once."""

    def handle(number: int, _: Any) -> None:
        if number == signal.SIGINT and _STOP.is_set():
            raise KeyboardInterrupt
        _STOP.set()

    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _STOP.clear()


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
            yield _perform(job)

    def close(self) -> None:
        """Nothing to give back."""


class Workers:
    """Worker processes that stay for many jobs, so that each imports and loads once.

    A worker that dies (out of memory, say) costs its own job; another takes its place.
    """

    def __init__(self, worker_count: int, thread_count: int) -> None:
        self._count = worker_count
        self._threads = thread_count
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["rankscope.jobs.run_job", "rankscope.jobs.search_job"])
        self._busy: dict[Connection, tuple[BaseProcess, Job]] = {}
        self._free: list[tuple[BaseProcess, Connection]] = []

    def run(self, jobs: Sequence[Job], idle: Callable[[], None]) -> Iterator[JobOutcome]:
        """Yields outcomes as they come; `idle` is called about four times a second, to show progress."""
        waiting = list(jobs)
        told_to_stop = False
        while self._busy or (waiting and not stop_requested()):
            while waiting and len(self._busy) < self._count and not stop_requested():
                process, pipe = self._free.pop() if self._free else self._start()
                pipe.send(waiting[0])
                self._busy[pipe] = (process, waiting.pop(0))
            ready = wait(list(self._busy), timeout=0.25)
            for pipe in [pipe for pipe in self._busy if pipe in ready]:
                process, job = self._busy.pop(pipe)
                outcome = _receive(process, pipe, job)
                if process.is_alive():
                    self._free.append((process, pipe))
                yield outcome
            if stop_requested() and not told_to_stop:
                told_to_stop = True
                for process, _ in self._busy.values():
                    process.terminate()  # SIGTERM: the worker saves its state and returns
            idle()

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

    def _start(self) -> tuple[BaseProcess, Connection]:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_work, args=(theirs, self._threads, os.getpid()), daemon=True)
        process.start()
        theirs.close()
        return process, ours


def _receive(process: BaseProcess, pipe: Connection, job: Job) -> JobOutcome:
    try:
        outcome: JobOutcome = pipe.recv()
        return outcome
    except (EOFError, ConnectionResetError):
        process.join(timeout=10)
        code = process.exitcode
        died = f"by signal {-code}" if code is not None and code < 0 else f"with exit code {code}"
        hint = " (often: out of memory)" if code == -signal.SIGKILL else ""
        return JobOutcome(job, error=f"its worker process ended {died}{hint}")


def _perform(job: Job) -> JobOutcome:
    """The one place that catches everything: a job's crash is its own, is kept whole, and the study goes on."""
    give_back_freed_memory()
    try:
        job.function(job.folder, job.run_ids)
    except Exception as error:  # reported as it is, with its traceback
        return JobOutcome(job, error=f"{type(error).__name__}: {error}", details=traceback.format_exc())
    return JobOutcome(job)


def _work(pipe: Connection, thread_count: int, parent: int) -> None:
    import torch

    keep_freed_memory()
    torch.set_num_threads(thread_count)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's Ctrl-C is the parent's to handle
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, lambda *_: _STOP.set())
    _die_with(parent)
    while True:
        try:
            job = pipe.recv()
        except (EOFError, ConnectionResetError):
            return
        outcome = _perform(job)
        try:
            pipe.send(outcome)
        except BrokenPipeError:
            return


def _die_with(parent: int) -> None:
    """A worker must not outlive the study it works for: a new one would find its runs locked."""
    started_by = os.getppid()  # the fork server

    def watch() -> None:
        while _is_running(parent) and os.getppid() == started_by:
            time.sleep(0.2)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="parent-watch").start()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: when the fork server goes


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
