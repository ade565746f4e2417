"""What a machine is found to be."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import warnings

import pytest
import torch

import rankscope
from rankscope.edges import machine
from rankscope.edges.machine import is_running, quiet_libraries


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


def test_the_version_that_is_recorded_is_that_of_the_code_that_ran(monkeypatch: pytest.MonkeyPatch) -> None:
    """Metadata of an editable install stays as it was when it was installed."""
    monkeypatch.setattr("importlib.metadata.version", lambda name: "0.0.1")
    machine._versions.cache_clear()  # a process asks once
    try:
        found = machine.versions()
    finally:
        machine._versions.cache_clear()
    assert (found["rankscope"], found["torch"]) == (rankscope.__version__, "0.0.1")


def test_ctrl_c_asks_for_a_stop_and_says_so_and_once_more_interrupts(capfd: pytest.CaptureFixture[str]) -> None:
    with machine.stop_on_signals():
        signal.raise_signal(signal.SIGTERM)
        assert machine.stop_requested()
        assert capfd.readouterr().err == "", "a scheduler reads nothing"
    assert not machine.stop_requested()
    with machine.stop_on_signals():
        signal.raise_signal(signal.SIGINT)
        assert (machine.stop_requested(), machine.stopped_by_ctrl_c()) == (True, True)
        assert "Ctrl-C again stops now" in capfd.readouterr().err
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_ctrl_c_stops_though_nobody_reads_any_more(capfd: pytest.CaptureFixture[str]) -> None:
    """As in `rankscope run study.yaml 2>&1 | tee log`, where the same Ctrl-C ends tee first."""
    reading, writing = os.pipe()
    os.close(reading)
    kept = os.dup(2)
    os.dup2(writing, 2)
    try:
        with machine.stop_on_signals():
            signal.raise_signal(signal.SIGINT)
            assert machine.stop_requested()
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(writing)
