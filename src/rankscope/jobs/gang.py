"""Starts the processes of a gang, which train or score one run together, watches them, and starts them again.

A gang is N processes of this machine, one a device. Whoever of them ends badly ends the gang: the others wait for its
part of every sum and would wait for ever. It is then started again from its last checkpoint; where a device ran out of
memory, with micro-batches of half the size.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rankscope.edges.executors import WorkPlace
from rankscope.records import GangOutcome, GangTask
from rankscope.records.record_base import parse_record, record_json

MEMBER = (sys.executable, "-m", "rankscope.jobs.gang_member")
"""The command of a gang's process, which reads its task from a file."""

RESTARTS = 3
"""How often a gang is started again after one of its processes died, out of memory not counted."""

LEAST_TOKENS = 16
"""A micro-batch is not made smaller than this: less is a single row."""

_CAUSES = ("memory", "died", "failed", "done")
"""Ends of a process, those first that the others may follow from."""

_LOOK_SECONDS = 0.1
_STOP_SECONDS = 600.0
"""How long the processes may take to save their state when a stop is asked for."""


class GangFailed(RuntimeError):
    """A gang that could not do its task: what its first process to fail said, its traceback as a note."""


def run_gang(task: GangTask, place: WorkPlace, command: Sequence[str] = MEMBER) -> GangOutcome:
    """Run a task to its end, or to a stop where one is asked for; what its first process says of it.

    Raises GangFailed with the error of the process that failed first, where it is no lack of memory or where the
    smallest micro-batches need too much; and where a process dies again and again.
    """
    died = 0
    while True:
        with tempfile.TemporaryDirectory(prefix="rankscope-gang-") as folder:
            outcomes = _attempt(task, Path(folder), place, command)
        bad = [outcome for outcome in outcomes if outcome.state != "done"]
        if not bad:
            return outcomes[0]
        first = bad[0]
        if first.state == "failed":
            failure = GangFailed(first.error)
            failure.add_note(first.details)
            raise failure
        if place.stop_requested():
            return GangOutcome(rank=0, state="done")
        if first.state == "memory":
            tokens, scoring = task.micro_batch_tokens // 2, task.evaluate_tokens // 2
            if min(tokens, scoring) < LEAST_TOKENS:
                raise GangFailed(f"out of memory with the smallest micro-batches, in a gang of {task.size}")
            task = task.model_copy(update={"micro_batch_tokens": tokens, "evaluate_tokens": scoring})
            continue
        died += 1
        if died > RESTARTS:
            raise GangFailed(f"a gang of {task.size} ended {died} times: {first.error}")


def _attempt(task: GangTask, folder: Path, place: WorkPlace, command: Sequence[str]) -> list[GangOutcome]:
    """Outcomes of a start of the gang: of all processes where all came through, else of those that did not.

    First stands what the others' failures follow from: who loses a neighbour that died or ran out of memory fails too,
    with an error of the connection; of those that failed, who said so first.
    """
    members = [_start(task, rank, folder, place, command) for rank in range(task.size)]
    stop_until: float | None = None
    failed: list[GangOutcome] = []
    try:
        while any(member.process.poll() is None for member in members) and not failed:
            if place.stop_requested() and stop_until is None:
                stop_until = time.monotonic() + _STOP_SECONDS
                for member in members:
                    member.process.terminate()
            if stop_until is not None and time.monotonic() > stop_until:
                break
            time.sleep(_LOOK_SECONDS)
            failed = _failures(members)
        if failed:
            time.sleep(_LOOK_SECONDS)  # a neighbour may have failed first and say why
            failed = _failures(members)
    finally:
        for member in members:
            member.process.kill()
            member.process.wait()
    return failed or [member.outcome() for member in members]


def _failures(members: Sequence[_Member]) -> list[GangOutcome]:
    ended = [member for member in members if member.process.poll() not in (None, 0)]
    ended.sort(key=lambda member: member.file.stat().st_mtime_ns if member.file.exists() else 0)
    return sorted((member.outcome() for member in ended), key=lambda outcome: _CAUSES.index(outcome.state))


@dataclass(frozen=True)
class _Member:
    """One process of a gang, and the file in which it leaves its outcome."""

    rank: int
    process: subprocess.Popen[bytes]
    file: Path

    def outcome(self) -> GangOutcome:
        """What it wrote, or how it died."""
        try:
            return parse_record(GangOutcome, self.file.read_bytes(), str(self.file))
        except FileNotFoundError:
            code = self.process.returncode
            died = f"by signal {-code}" if code is not None and code < 0 else f"with exit code {code}"
            return GangOutcome(rank=self.rank, state="died", error=f"its process {self.rank} ended {died}")


def _start(task: GangTask, rank: int, folder: Path, place: WorkPlace, command: Sequence[str]) -> _Member:
    own = task.model_copy(update={"rank": rank, "scratch": str(folder), "parent": os.getpid()})
    file = folder / f"task-{rank}.json"
    file.write_bytes(record_json(own))
    environment = dict(os.environ)
    environment.setdefault("GLOO_SOCKET_IFNAME", "lo0" if sys.platform == "darwin" else "lo")
    environment.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # each checkpoint's thread would warn of hooks that are none
    devices = place.devices or tuple(os.environ.get("CUDA_VISIBLE_DEVICES", "").split(","))
    if task.device == "cuda":  # before torch is imported there
        environment["CUDA_VISIBLE_DEVICES"] = devices[rank] if rank < len(devices) and devices[rank] else str(rank)
    process = subprocess.Popen([*command, str(file)], env=environment, stdin=subprocess.DEVNULL)
    return _Member(rank, process, folder / f"outcome-{rank}.json")
