"""A worker process: which devices and cores it has, how it is started, and the loop in which it does jobs.

A worker with GPUs is a program of its own (`python -m rankscope.edges.worker_process FD`), so that CUDA_VISIBLE_DEVICES
stands in its environment before anything is imported. One without comes from a fork server that has imported torch and
the jobs once for all, or was forked from a process that has; that server never touches CUDA, and no worker with GPUs
comes from it.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import forkserver, resource_tracker, util
from multiprocessing.connection import Connection
from typing import Any, Protocol

from rankscope.edges.executors import JobOutcome, WorkPlace, perform
from rankscope.edges.freed_memory import keep_freed_memory
from rankscope.edges.machine import end_with, quiet_libraries, stop_on, stop_requested

VISIBLE = "CUDA_VISIBLE_DEVICES"

PRELOADED = ["rankscope.jobs.preloaded"]
"""What the fork server imports once for all workers."""

_STOPS = (signal.SIGTERM, signal.SIGUSR1)
"""Signals that ask a worker to save its state and return."""

_NO_FORK_SERVER = 255
"""The exit code that multiprocessing gives a worker whose fork server is gone, and with it how the worker ended."""

_START_WAITS_SECONDS = (0.0, 0.05, 0.2, 0.5, 1.0, 2.0)
"""Waits before each attempt to start a worker. A fork server that was killed refuses connections for as long as the
system needs to take it down, and multiprocessing starts another only when it is gone."""


@dataclass(frozen=True)
class Place:
    """Where one worker is: a GPU as CUDA_VISIBLE_DEVICES calls it (None: on the CPU), and the cores that it keeps to
    (empty: those of this process)."""

    gpu: str | None = None
    cores: tuple[int, ...] = ()


def gpu_names(numbers: Sequence[int], environment: Mapping[str, str]) -> list[str]:
    """GPUs, as torch counts those that it sees, by the names that CUDA_VISIBLE_DEVICES gives them: numbers or UUIDs of
    GPUs and MIG instances, which stay as they are."""
    given = environment.get(VISIBLE)
    if given is None:
        return [str(number) for number in numbers]
    names = [name.strip() for name in given.split(",")]
    return [names[number] for number in numbers]


@dataclass(frozen=True)
class WorkerTask:
    """What a worker is told before its first job."""

    thread_count: int
    parent: int
    gpus: tuple[str, ...] = ()
    cores: tuple[int, ...] = ()


class Process(Protocol):
    """A process that was started, as multiprocessing and `Program` have it."""

    @property
    def exitcode(self) -> int | None:
        """None while it runs; -N where signal N ended it."""

    def is_alive(self) -> bool:
        """Whether it runs."""

    def terminate(self) -> None:
        """Send SIGTERM."""

    def kill(self) -> None:
        """Send SIGKILL."""

    def join(self, timeout: float | None = None) -> None:
        """Wait for its end."""


class Program:
    """A child that is a program of its own, with the methods of `Process`."""

    def __init__(self, popen: subprocess.Popen[bytes]) -> None:
        self._popen = popen

    @property
    def exitcode(self) -> int | None:
        """As of `Process`."""
        return self._popen.poll()

    def is_alive(self) -> bool:
        """As of `Process`."""
        return self._popen.poll() is None

    def terminate(self) -> None:
        """As of `Process`."""
        self._popen.terminate()

    def kill(self) -> None:
        """As of `Process`."""
        self._popen.kill()

    def join(self, timeout: float | None = None) -> None:
        """As of `Process`."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._popen.wait(timeout)


def start_worker(task: WorkerTask) -> tuple[Process, Connection]:
    """A new worker, and our end of its pipe."""
    return _start_program(task) if task.gpus else _start_forked(task)


def _start_program(task: WorkerTask) -> tuple[Process, Connection]:
    ours, theirs = multiprocessing.Pipe()
    environment = {**os.environ, VISIBLE: ",".join(task.gpus), "OMP_NUM_THREADS": str(task.thread_count)}
    command = [sys.executable, "-m", "rankscope.edges.worker_process", str(theirs.fileno())]
    try:
        with _stops_held_back():
            popen = subprocess.Popen(
                command, env=environment, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL
            )  # fmt: skip
    finally:
        theirs.close()
    with contextlib.suppress(OSError):  # it died at once: its pipe says so
        ours.send((sys.path, task))
    return Program(popen), ours


def begin_fork_server(*, from_here: bool = False) -> None:
    """Start the fork server where it does not run: a program that imports what workers need while this process goes on.
    `from_here`: a fork of this one, which has imported that already, where it may be forked (on Linux, and it has no
    threads of Python's own); it begins at once, and its workers share the pages of what was imported."""
    multiprocessing.get_context("forkserver").set_forkserver_preload(PRELOADED)
    may_fork = sys.platform == "linux" and threading.active_count() == 1
    with _stops_held_back(), _forks_itself() if from_here and may_fork else contextlib.nullcontext():
        forkserver.ensure_running()


@contextlib.contextmanager
def _forks_itself() -> Iterator[None]:
    """Inside, multiprocessing starts a program of its own by forking this process and running the program's text."""
    as_ever = util.spawnv_passfds
    util.spawnv_passfds = _fork_and_run  # type: ignore[assignment]
    try:
        yield
    finally:
        util.spawnv_passfds = as_ever


def _fork_and_run(_: object, arguments: Sequence[Any], descriptors: Sequence[int]) -> int:
    """Instead of multiprocessing's `spawnv_passfds` of `python -c TEXT`: fork this process and run TEXT there, with no
    other descriptors open than these and the first three. Gives the fork's process id."""
    sys.stdout.flush()
    sys.stderr.flush()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads, which numpy's library has and knows to end
        pid = os.fork()
    if pid:
        return pid
    try:
        for descriptor in map(int, os.listdir("/proc/self/fd")):
            if descriptor > 2 and descriptor not in descriptors:
                with contextlib.suppress(OSError):  # that of the listing
                    os.close(descriptor)
        # Of multiprocessing's own, which this process held while it was forked.
        forkserver._forkserver._lock = threading.Lock()  # type: ignore[attr-defined]
        exec(arguments[-1], {})
    except SystemExit:
        os._exit(0)
    except BaseException:  # nothing of the fork may go on into the code that is this process's own
        traceback.print_exc()
    finally:
        os._exit(1)


@contextlib.contextmanager
def _stops_held_back() -> Iterator[None]:
    """What is started here is deaf to the signals that end a study, in the middle of its imports too, until a worker
    hears them; what comes meanwhile reaches it then, and this process afterwards.

    A terminal's Ctrl-C, a scheduler and `timeout` send them to every process of the study: the command answers for all,
    and without the fork server no worker could save what it has.
    """
    resource_tracker.ensure_running()  # multiprocessing's own helper, whose start would end the holding back
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, *_STOPS})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start_forked(task: WorkerTask) -> tuple[Process, Connection]:
    """Where the fork server was killed, another is started at a later attempt."""
    context = multiprocessing.get_context("forkserver")
    failure: Exception = OSError("no attempt was made")
    for wait_seconds in _START_WAITS_SECONDS:
        time.sleep(wait_seconds)
        ours, theirs = context.Pipe()
        process = context.Process(target=work, args=(theirs, task), daemon=True)
        try:
            begin_fork_server()
            process.start()
            return process, ours
        except (EOFError, OSError) as error:
            ours.close()
            failure = error
        finally:
            theirs.close()
    raise failure


def how_it_ended(process: Process) -> str:
    """Why a worker whose pipe is closed ended, in a sentence."""
    process.join(timeout=10)
    code = process.exitcode
    died = f"by signal {-code}" if code is not None and code < 0 else f"with exit code {code}"
    if code == _NO_FORK_SERVER:
        died = "with the fork server that had started it"
    hint = " (often: out of memory)" if code == -signal.SIGKILL else ""
    return f"its worker process ended {died}{hint}"


def work(pipe: Connection, task: WorkerTask) -> None:
    """Do the jobs that come through the pipe, until it is closed: None when one has begun, then its outcome.

    Whoever says that one has begun hears the signals that ask for a stop."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's Ctrl-C is the parent's to handle
    stop_on(_STOPS)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, *_STOPS})
    quiet_libraries()
    if task.cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, task.cores)
    import torch

    keep_freed_memory()
    torch.set_num_threads(task.thread_count)
    end_with(task.parent)
    while True:
        try:
            job = pipe.recv()
        except (EOFError, OSError):
            return
        try:
            pipe.send(None)  # begun: from here on a death is the job's own
            outcome: JobOutcome = perform(job, WorkPlace(stop_requested, task.gpus))
            pipe.send(outcome)
        except OSError:
            return


def main(descriptor: str) -> None:
    """The program of a worker with GPUs: what it is told comes through the pipe of this descriptor first."""
    pipe = Connection(int(descriptor))
    paths, task = pipe.recv()
    sys.path[:] = paths
    work(pipe, task)


if __name__ == "__main__":
    main(sys.argv[1])
