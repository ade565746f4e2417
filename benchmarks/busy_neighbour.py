"""What a busy neighbour costs: an audit of a 7B-shaped adapter alone, and beside a process that never waits.

    python benchmarks/busy_neighbour.py [--quick] [--json FILE] [--cores N] [--repeats N]

On two cores (the first that this process may use). Ours: threads as rankscope's commands set them. The peer: the same
code with as many threads as cores, spinning at barriers, as OpenMP comes. Each audit has a process of its own; wall
time without imports, medians, the four in turns. The seconds of CPU of ours are printed below, since they are
the same whatever else the machine does. Target: beside the neighbour at most 2 times what it takes alone.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from sides_weights import write_adapter
from table import Row, Table, parser_of

from rankscope.edges.cores import WAIT_SETTINGS

AUDIT = """
import sys, time
from pathlib import Path
if sys.argv[2] == "ours":
    from rankscope.edges.cores import share_cores
    share_cores()
from rankscope.tools.adapter_audit import audit
start, cpu = time.perf_counter(), time.process_time()
audit(Path(sys.argv[1]))
print(time.perf_counter() - start, time.process_time() - cpu)
"""
SPIN = "while True: pass"
TIMEOUT_SECONDS = 600


def seconds(folder: Path, side: str, *, busy: bool) -> tuple[float, float]:
    """Wall and CPU seconds of one audit in a process of its own, imports apart."""
    ours = {*WAIT_SETTINGS, "OMP_NUM_THREADS", "MKL_NUM_THREADS"}
    environment = {name: value for name, value in os.environ.items() if name not in ours}
    neighbour = subprocess.Popen([sys.executable, "-c", SPIN]) if busy else None
    try:
        done = subprocess.run(
            [sys.executable, "-c", AUDIT, str(folder), side],
            env=environment, capture_output=True, text=True, check=True, timeout=TIMEOUT_SECONDS,
        )  # fmt: skip
    finally:
        if neighbour is not None:
            neighbour.kill()
            neighbour.wait()
    wall, cpu = map(float, done.stdout.split())
    return wall, cpu


def main() -> None:
    parser = parser_of(__doc__, "an adapter of 2 layers of width 512")
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: given.cores])
    table = Table(given)
    times: dict[tuple[str, bool], list[tuple[float, float]]] = {}
    before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_adapter(*((512, 2) if given.quick else (4096, 32)), folder)
        for _ in range(given.repeats):
            for side in ("ours", "peer"):
                for busy in (False, True):
                    times.setdefault((side, busy), []).append(seconds(folder, side, busy=busy))
    for busy, name in ((False, "audit, alone"), (True, "audit, beside a busy process")):
        mine, theirs = (statistics.median(wall for wall, _ in times[side, busy]) for side in ("ours", "peer"))
        table.add(Row(name, "threads as OpenMP comes", mine, theirs, theirs / mine))
    for side in ("ours", "peer"):
        cpu = [statistics.median(seconds for _, seconds in times[side, busy]) for busy in (False, True)]
        wall = [statistics.median(seconds for seconds, _ in times[side, busy]) for busy in (False, True)]
        print(f"{side}: costs {wall[1] / wall[0]:.1f}x; CPU {cpu[0]:.2f} s alone, {cpu[1]:.2f} s beside")
    print(f"load before: {before:.1f}")


if __name__ == "__main__":
    main()
