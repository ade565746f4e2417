"""One process among others: asked to stop by a signal, ending with its parent, keeping the memory that it freed."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil

_STOP = threading.Event()
"""Set by SIGTERM, SIGUSR1 or SIGINT: whoever works saves its state and returns."""

_stopped_by: int | None = None

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h


def stop_requested() -> bool:
    """True after a signal asked this process to stop: checkpoint and return."""
    return _STOP.is_set()


def stopped_by_ctrl_c() -> bool:
    """Whether the last signal that asked this process to stop was SIGINT."""
    return _stopped_by == signal.SIGINT


def stop_on(numbers: tuple[signal.Signals, ...]) -> None:
    """From now on these signals ask this process for a stop."""
    for number in numbers:
        signal.signal(number, lambda *_: _STOP.set())


@contextmanager
def stop_on_signals() -> Iterator[None]:
    """SIGTERM, SIGUSR1 (schedulers) and SIGINT ask for a stop; a second SIGINT interrupts at once."""

    def handle(number: int, _: Any) -> None:
        global _stopped_by
        _stopped_by = number
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


def end_with(parent: int) -> None:
    """End this process when `parent` ends: a worker that outlives its study would keep the study's runs locked."""
    started_by = os.getppid()  # the fork server

    def watch() -> None:
        while is_running(parent) and os.getppid() == started_by:
            time.sleep(0.2)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="parent-watch").start()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: when the fork server goes


def is_running(pid: int) -> bool:
    """Whether a process of this machine is alive, whoever owns it; one that ended and was not reaped yet is not."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True


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
