"""What a machine is found to be; large blocks stay with the process that freed them, where the C library knows how."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import warnings

import pytest
import torch

from rankscope.edges import machine
from rankscope.edges.machine import is_running, quiet_libraries

FAULTS = """
import resource, sys
import torch
from rankscope.edges.machine import keep_freed_memory
kept = sys.argv[1] == "keep" and keep_freed_memory()
if sys.argv[1] == "keep" and not kept:
    raise SystemExit(77)
def once():
    return torch.ones(16 << 20)  # 64 MiB
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
from rankscope.edges.machine import give_back_freed_memory, keep_freed_memory
if not keep_freed_memory():
    raise SystemExit(77)
blocks = [torch.ones(1 << 20) for _ in range(32)]  # 4 MiB each
del blocks
before = psutil.Process().memory_info().rss
give_back_freed_memory()
print(before - psutil.Process().memory_info().rss)
"""


def test_between_jobs_it_goes_back() -> None:
    assert printed(RESIDENT) > 100 << 20


def test_a_process_that_ended_and_was_not_reaped_is_not_running() -> None:
    """A worker whose study was killed must not go on because somebody has not asked how the study ended."""
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    deadline = time.monotonic() + 30
    while is_running(child.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_running(child.pid)
    assert child.returncode is None, "nobody has waited for it"
    child.wait()
    assert is_running(os.getpid())


def test_a_few_slow_products_do_not_decide_the_dtype(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of small products in bf16 a busy neighbour may slow most; large ones tell."""

    def speed(dtype: torch.dtype, device: str, size: int = 1024, repeats: int = 6) -> float:
        fast = dtype == torch.bfloat16 and size == 1024
        return 7.0 if fast else 0.4 if dtype == torch.bfloat16 else 1.0

    monkeypatch.setattr(machine, "matrix_flops_per_second", speed)
    assert machine._cpu_bfloat16_is_fast()


@pytest.mark.parametrize("used", [True, False])
def test_each_job_has_its_own_peak_on_a_gpu(used: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """`max_memory_allocated` is that of the largest job before where nobody resets it; no context is made for it."""
    told: list[str] = []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: used)
    for name in ("empty_cache", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.cuda, name, lambda name=name: told.append(name))
    machine.give_back_freed_memory()
    assert told == (["empty_cache", "reset_peak_memory_stats"] if used else [])


def test_a_gpu_is_timed_on_a_product_that_takes_longer_than_its_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def draw(*shape: int, dtype: torch.dtype) -> torch.Tensor:
        sizes.extend(shape)
        return torch.zeros(2, 2, dtype=dtype)

    monkeypatch.setattr(torch, "randn", draw)
    monkeypatch.setattr(torch.Tensor, "to", lambda self, **_: self)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    machine.matrix_flops_per_second.__wrapped__(torch.float32, "cuda")
    machine.matrix_flops_per_second.__wrapped__(torch.float32, "cpu")
    assert sizes == [8192, 8192, 1024, 1024]


def test_what_libraries_say_to_each_other_is_not_shown_and_what_we_say_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", dict(os.environ))
    with warnings.catch_warnings(record=True) as said:
        warnings.resetwarnings()
        warnings.simplefilter("always")
        quiet_libraries()
        warnings.warn_explicit("ours", UserWarning, "a.py", 1, module="rankscope.a")
        warnings.warn_explicit("theirs", UserWarning, "b.py", 1, module="transformers.b")
        warnings.warn_explicit(
            "Attempting to run cuBLAS, but there was no current CUDA context!", UserWarning, "a.py", 2, "rankscope.a"
        )
    assert [str(one.message) for one in said] == ["ours"]


def test_a_mac_s_gpu_is_seen_where_torch_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert not machine._has_mps(), "on no other system"
    monkeypatch.setattr("sys.platform", "darwin")
    assert machine._has_mps()
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert not machine._has_mps()
