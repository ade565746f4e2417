"""A large study stays within the memory that the report, the verdict and the status may take."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
MEBIBYTE = 1 << 20

MEASURED = """
import resource, subprocess, sys
done = subprocess.run([sys.executable, "-m", "rankscope", *sys.argv[1:]], capture_output=True, text=True)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(done.returncode, used.ru_maxrss * 1024)
print(done.stderr, file=sys.stderr)
"""


@pytest.mark.slow
def test_twenty_arms_of_five_seeds_and_ten_thousand_items(tmp_path: Path) -> None:
    folder = tmp_path / "large"
    subprocess.run([sys.executable, BENCHMARKS / "finished_study.py", folder], check=True)
    # A third more than is measured: a guard. How long they take is in docs/benchmarks.md, and no test.
    for command, mebibytes in (("report", 800), ("verdict", 200), ("status", 200)):
        code, peak = measured(command, str(folder))
        assert code in (0, 3)
        assert peak < mebibytes * MEBIBYTE, command


def measured(*words: str) -> tuple[int, float]:
    """Exit code and peak bytes of a command in a process of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    call = [sys.executable, "-c", MEASURED, *words]
    done = subprocess.run(call, capture_output=True, text=True, check=True, env=environment)
    code, peak = done.stdout.split()
    return int(code), float(peak)
