"""Large blocks stay with the process that freed them, where the C library knows how; between jobs they go back."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from rankscope.edges.freed_memory import give_back_freed_memory

FAULTS = """
import resource, sys
import numpy as np
from rankscope.edges.freed_memory import keep_freed_memory
kept = sys.argv[1] == "keep" and keep_freed_memory()
if sys.argv[1] == "keep" and not kept:
    raise SystemExit(77)
def once():
    return np.ones(6 << 20)  # 48 MiB
for _ in range(40):  # glibc needs a few turns until small pieces between the blocks are gone
    once()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    once()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def printed(script: str, *words: str) -> int:
    done = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True, check=False)
    if done.returncode == 77:
        pytest.skip("this C library has no mallopt")
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_a_large_block_is_paged_in_once() -> None:
    kept, given_back = printed(FAULTS, "keep"), printed(FAULTS, "as it is")
    assert kept < 100
    assert given_back > 10 * max(kept, 1), "without it, each of the four blocks is paged in anew"


RESIDENT = """
import psutil, torch
from rankscope.edges.freed_memory import give_back_freed_memory, keep_freed_memory
if not keep_freed_memory():
    raise SystemExit(77)
blocks = [torch.ones(1 << 20) for _ in range(32)]  # 4 MiB each
del blocks
before = psutil.Process().memory_info().rss
give_back_freed_memory()
print(before - psutil.Process().memory_info().rss)
"""


LARGE = """
import numpy as np, psutil
from rankscope.edges.freed_memory import keep_freed_memory
if not keep_freed_memory():
    raise SystemExit(77)
before, small = psutil.Process().memory_info().rss, []
for turn in range(12):  # a small block that stays takes a part of the large one's place
    large = np.ones(16 << 20)  # 128 MiB
    del large
    small.append(np.ones(1 << 17))
print(psutil.Process().memory_info().rss - before)
"""


def test_the_largest_blocks_never_pile_up() -> None:
    assert printed(LARGE) < 100 << 20


def test_between_jobs_it_goes_back() -> None:
    assert printed(RESIDENT) > 100 << 20


@pytest.mark.parametrize("used", [True, False])
def test_each_job_has_its_own_peak_on_a_gpu(used: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """`max_memory_allocated` is that of the largest job before where nobody resets it; no context is made for it."""
    told: list[str] = []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: used)
    for name in ("empty_cache", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.cuda, name, lambda name=name: told.append(name))
    give_back_freed_memory()
    assert told == (["empty_cache", "reset_peak_memory_stats"] if used else [])
