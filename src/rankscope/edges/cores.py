"""Which cores a command takes beside other processes, and how its threads wait for one another."""

from __future__ import annotations

import os
from pathlib import Path

WAIT_SETTINGS = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "1000", "KMP_BLOCKTIME": "1"}
"""How OpenMP's threads wait at a barrier: for microseconds, then asleep. By default they spin on, and where another
process has the core of one of them, all others burn theirs until it comes back. Asleep at once would double a training
step of small products on a quiet machine. The second is GNU's, the third (milliseconds) Intel's and LLVM's."""

_THREAD_COUNTS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


def share_cores() -> None:
    """Set how many threads compute, here and in processes begun here, and how they wait; before torch is imported.

    As many as there are free cores, soon asleep at barriers. What the user has set stays: any of WAIT_SETTINGS keeps
    them all, a number of threads keeps the number. Jobs of a study take the number that its plan says.
    """
    if not any(name in os.environ for name in WAIT_SETTINGS):
        os.environ.update(WAIT_SETTINGS)
    if not any(name in os.environ for name in _THREAD_COUNTS):
        free = free_core_count(core_count(), os.cpu_count() or 1, load_of_others())
        os.environ["OMP_NUM_THREADS"] = str(free)


def free_core_count(cores: int, machine_cores: int, load: float) -> int:
    """Of this process's `cores` those that nobody else computes on, at least one.

    `load` is the number of threads that want a core of the whole machine, taken to be spread evenly over its cores.
    """
    return max(1, round(cores * (1 - load / machine_cores)))


def load_of_others() -> float:
    """How many threads of other processes compute now.

    The mean of the last minute, or what runs at this moment where that is less: a command that has just ended is still
    in the mean, and what runs for a moment only is not.
    """
    mean = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    try:
        running = int(Path("/proc/loadavg").read_text(encoding="ascii").split()[3].split("/")[0]) - 1  # less this one
    except (OSError, ValueError, IndexError):  # not Linux
        return mean
    return min(mean, float(max(0, running)))


def core_count() -> int:
    """The cores this process may use, which a container or a scheduler may have limited."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cores_of_workers(worker_count: int, thread_count: int) -> list[tuple[int, ...]]:
    """The cores that each worker keeps to: those of a memory node (a socket), where there are several and each gets as
    many workers as another, so that a worker's memory is near. Empty where the system places threads best: on one node,
    where a worker would be tied to a core that somebody else takes, or where a worker has more threads than its node.
    """
    nodes = memory_nodes()
    anywhere: list[tuple[int, ...]] = [()] * worker_count
    if len(nodes) < 2 or worker_count % len(nodes):
        return anywhere
    on_each = worker_count // len(nodes)
    if any(len(node) < on_each * thread_count for node in nodes):
        return anywhere
    return [nodes[worker // on_each] for worker in range(worker_count)]


def memory_nodes(folder: Path = Path("/sys/devices/system/node")) -> list[tuple[int, ...]]:
    """The cores of each memory node that this process may use; empty where the system does not tell."""
    if not hasattr(os, "sched_getaffinity"):
        return []
    mine = os.sched_getaffinity(0)
    found = []
    for file in sorted(folder.glob("node[0-9]*/cpulist"), key=lambda file: int(file.parent.name.removeprefix("node"))):
        cores: set[int] = set()
        for part in file.read_text(encoding="ascii").strip().split(","):
            first, _, last = part.partition("-")
            cores |= set(range(int(first), int(last or first) + 1)) if part else set()
        if own := tuple(sorted(cores & mine)):
            found.append(own)
    return found
