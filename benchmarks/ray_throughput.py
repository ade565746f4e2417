"""What the driver of a study on Ray can do: jobs that sleep, their statuses written, through a Ray on this machine.

    python benchmarks/ray_throughput.py [--quick] [--device cpu|cuda] [--json FILE] [--only WORD]

`ours` is the wall time of all jobs, the peer what they sleep divided by the workers: a ratio of 1 is a driver and a
scheduler that take no time. The row's name says how many jobs a second that is, the driver's own CPU time a job (of
its process, without Ray's daemons), and how far apart a worker's jobs are. The workers sleep, so there may be more of
them than cores; `records` are two statuses a job. docs/scale.md calculates with these numbers.
"""

from __future__ import annotations

import os
import resource
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from table import Row, Table, parser_of

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "helpers"))

CASES = {"2 workers": (2, 0.2), "8 workers": (8, 0.2), "8 workers, empty jobs": (8, 0.0)}
"""Workers, and how long a job sleeps in seconds."""


def main() -> None:
    parser = parser_of(__doc__, "200 jobs in place of 2,000")
    arguments = parser.parse_args()
    table = Table(arguments)
    for name, (workers, seconds) in CASES.items():
        if arguments.only in name:
            table.add(measured(name, workers, seconds, 200 if arguments.quick else 2000))


def measured(name: str, workers: int, seconds: float, count: int) -> Row:
    """One case on a Ray of its own; the workers are up before the clock starts."""
    try:
        from ray_nodes import ray_cluster
        from stub_jobs import Stub

        from rankscope.edges.executors.on_ray.connection import connect
        from rankscope.edges.executors.ray_cluster import OnRay
        from rankscope.records import Resolved
        from rankscope.study.study import Execution
    except ImportError as error:
        return Row(f"{count} jobs, {name}", "no driver", reason=f"not measured: {error}")
    resolved = Resolved(
        dtype="float32", device="cpu", worker_count=workers, thread_count=1, micro_batch_tokens=64
    )  # fmt: skip
    plan: Any = SimpleNamespace(study="stubs", resolved=resolved)
    with ray_cluster(num_cpus=workers) as cluster, tempfile.TemporaryDirectory() as folder:
        execution = Execution(on="ray", address=cluster.address)
        executor = OnRay(connect(execution, "stubs"), plan, execution)
        warm = [Stub(folder, f"warm{i}", "sleep", wait_seconds=1.0) for i in range(workers)]
        failed = [outcome.error for outcome in executor.run(warm, lambda: None) if outcome.error]
        jobs = [Stub(folder, f"job{i}", "record", wait_seconds=seconds) for i in range(count)]
        began, used, loads = time.perf_counter(), _cpu_seconds(), os.getloadavg()[0]
        failed += [outcome.error for outcome in executor.run(jobs, lambda: None) if outcome.error]
        wall, driver = time.perf_counter() - began, _cpu_seconds() - used
        executor.close()
    assert not failed, failed[0]
    ideal = count * seconds / workers
    said = f"{count} jobs of {seconds:g} s, {name}: {count / wall:.0f} jobs and {2 * count / wall:.0f} records a second"
    said += f", driver {1e3 * driver / count:.2f} ms CPU a job"
    said += f", {1e3 * (wall - ideal) * workers / count:.1f} ms between a worker's jobs (load {loads:.1f})"
    return Row(said, "what they sleep", wall, ideal or None, ideal / wall if ideal else None)


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
