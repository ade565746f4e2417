"""This machine and this process: the facts that a plan calculates with, signals that ask for a stop."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib.util
import os
import platform
import shutil
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from rankscope import __version__
from rankscope.edges.cores import core_count
from rankscope.edges.gpu_facts import GpuFacts, gpu_facts
from rankscope.edges.matrix_speed import matrix_flops_per_second
from rankscope.records import MachineFacts

_STOP = threading.Event()
"""Set by SIGTERM, SIGUSR1 or SIGINT: whoever works saves its state and returns."""

_stopped_by: int | None = None

_STOPPING = b"""
stopping when what is at hand is saved: training at once, items once the model at hand has answered all of them, which
can take minutes. Ctrl-C again stops now, and what is at hand is done anew
"""


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
        if number == signal.SIGINT:
            with contextlib.suppress(OSError):  # nobody may read any more
                os.write(2, _STOPPING)  # not print, which could be in the middle of a line of its own

    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _STOP.clear()


def quiet_libraries() -> None:
    """Keep the libraries' own chatter out of the output of this process and its children, and everything on this
    machine."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.filterwarnings("ignore", module=r"(?!rankscope).*")
    # Autograd's own thread has no context at its first product, makes one, and says so where our code stands.
    warnings.filterwarnings("ignore", "Attempting to run cuBLAS")


def end_with(parent: int) -> None:
    """End this process when `parent` ends: a worker that outlives its study would keep the study's runs locked."""
    started_by = os.getppid()  # the fork server, or `parent` itself

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


_PACKAGES = ("torch", "transformers", "peft", "tokenizers", "datasets", "numpy", "pandas", "scipy")


def look_at_machine(folder: Path, *, measure: bool = True) -> MachineFacts:
    """Device, memory, free disk at `folder`, and (with `measure`, about 0.2 s) how fast matrix products run.

    Makes no CUDA context in this process: GPUs are looked at by another. Raises InputProblems where that one fails.
    """
    cpu = psutil.virtual_memory().total
    found = MachineFacts(
        device="cpu",
        device_name=_cpu_name(),
        core_count=core_count(),
        memory_bytes=cpu,
        device_memory_bytes=cpu,
        bfloat16_is_fast=False,
        bitsandbytes=importlib.util.find_spec("bitsandbytes") is not None,
        disk_free_bytes=shutil.disk_usage(_existing(folder)).free,
    )
    found = found.model_copy(update={"mps": _has_mps()})
    gpus = gpu_facts(measure=measure)
    return found.model_copy(update=_of_cpu(measure=measure) if gpus is None else _of_gpus(gpus))


def _of_gpus(gpus: GpuFacts) -> dict[str, Any]:
    return {
        "device": "cuda",
        "device_name": gpus.name,
        "device_memory_bytes": min(gpus.memories_bytes),
        "device_count": len(gpus.memories_bytes),
        "device_memories_bytes": gpus.memories_bytes if len(set(gpus.memories_bytes)) > 1 else [],
        "bfloat16_is_fast": gpus.bfloat16_is_fast,
        "flops_per_second": gpus.flops_per_second,
        "flops_per_second_float32": gpus.flops_per_second_float32,
    }


def _of_cpu(*, measure: bool) -> dict[str, Any]:
    import torch

    fast = _cpu_bfloat16_is_fast()
    found: dict[str, Any] = {"bfloat16_is_fast": fast}
    if measure:
        dtype = torch.bfloat16 if fast else torch.float32
        found["flops_per_second"] = matrix_flops_per_second(dtype, "cpu")
        found["flops_per_second_float32"] = matrix_flops_per_second(torch.float32, "cpu")
    return found


def _has_mps() -> bool:
    """Whether torch can use the GPU of this Mac."""
    if sys.platform != "darwin":
        return False
    import torch

    return bool(torch.backends.mps.is_available())


def versions() -> dict[str, str]:
    """The versions that a result depends on."""
    return dict(_versions())


@functools.cache
def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "rankscope": __version__}  # an editable install's metadata gets old
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


@functools.cache
def commit() -> str | None:
    """The commit of the source tree rankscope runs from, with + where it was changed; None outside a checkout. Asked
    once: what runs is what was imported."""
    root = Path(__file__).resolve().parents[3]
    if not (root / ".git").exists():
        return None
    try:
        options = {"cwd": root, "capture_output": True, "text": True, "timeout": 10}
        head = subprocess.run(["git", "rev-parse", "HEAD"], check=True, **options)  # type: ignore[call-overload]
        dirty = subprocess.run(["git", "status", "--porcelain", "-uno"], check=True, **options)  # type: ignore[call-overload]
    except (OSError, subprocess.SubprocessError):
        return None
    return str(head.stdout.strip()) + ("+" if dirty.stdout.strip() else "")


def machine_line(device: str = "cpu") -> str:
    """One line for provenance: system, processor or GPU, cores. Makes no CUDA context unless this process works on
    `cuda`."""
    torch = sys.modules.get("torch")
    on_gpu = torch is not None and (device == "cuda" or torch.cuda.is_initialized())
    name = torch.cuda.get_device_name() if on_gpu and torch is not None else _cpu_name()
    return f"{platform.system()} {platform.machine()}, {name}, {core_count()} cores"


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _cpu_bfloat16_is_fast() -> bool:
    """bf16 products beat fp32 ones clearly; measured, since instruction sets do not tell of every library's kernels.

    Small ones first: a CPU without instructions for bf16 may take seconds for a large one. The best of many, and far
    apart, since a busy neighbour must not decide the dtype of a study: three small products once looked slow beside
    other work, on a machine where large ones are seven times as fast.
    """
    import torch

    small = [matrix_flops_per_second(dtype, "cpu", 192, 30) for dtype in (torch.bfloat16, torch.float32)]
    if small[0] < 0.1 * small[1]:
        return False
    return matrix_flops_per_second(torch.bfloat16, "cpu") > 1.5 * matrix_flops_per_second(torch.float32, "cpu")


def _existing(folder: Path) -> Path:
    while not folder.exists():
        folder = folder.parent
    return folder
