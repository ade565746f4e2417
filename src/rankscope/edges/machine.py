"""What this machine is: the facts that a plan calculates with."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
import time
from functools import cache
from importlib import metadata
from pathlib import Path

import psutil
import torch

from rankscope.records import MachineFacts

_PACKAGES = ("rankscope", "torch", "transformers", "peft", "tokenizers", "datasets", "numpy", "pandas", "scipy")


def look_at_machine(folder: Path, *, measure: bool = True) -> MachineFacts:
    """Device, memory, free disk at `folder`, and (with `measure`, about 0.2 s) how fast matrix products run."""
    cuda = torch.cuda.is_available()
    memory = psutil.virtual_memory().total
    fast = torch.cuda.is_bf16_supported() if cuda else _cpu_bfloat16_is_fast()
    dtype = torch.bfloat16 if fast else torch.float32
    return MachineFacts(
        device="cuda" if cuda else "cpu",
        device_name=torch.cuda.get_device_name() if cuda else _cpu_name(),
        core_count=core_count(),
        memory_bytes=memory,
        device_memory_bytes=torch.cuda.get_device_properties(0).total_memory if cuda else memory,
        bfloat16_is_fast=fast,
        bitsandbytes=importlib.util.find_spec("bitsandbytes") is not None,
        disk_free_bytes=shutil.disk_usage(_existing(folder)).free,
        flops_per_second=matrix_flops_per_second(dtype, "cuda" if cuda else "cpu") if measure else None,
    )


def core_count() -> int:
    """The cores this process may use, which a container or a scheduler may have limited."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def matrix_flops_per_second(dtype: torch.dtype, device: str, size: int = 1024, repeats: int = 6) -> float:
    """Speed of one (size, size) x (size, size) product, best of `repeats`, on one CPU thread or the whole GPU."""
    a = torch.randn(size, size, dtype=torch.float32).to(device=device, dtype=dtype)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        best = float("inf")
        for _ in range(repeats):
            start = time.perf_counter()
            a @ a
            if device == "cuda":
                torch.cuda.synchronize()
            best = min(best, time.perf_counter() - start)
    finally:
        torch.set_num_threads(threads)
    return 2 * size**3 / best


def versions() -> dict[str, str]:
    """The versions that a result depends on."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str | None:
    """The commit of the source tree rankscope runs from, with + where it was changed; None outside a checkout."""
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


def machine_line() -> str:
    """One line for provenance: system, processor or GPU, cores."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else _cpu_name()
    return f"{platform.system()} {platform.machine()}, {device}, {core_count()} cores"


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _cpu_bfloat16_is_fast() -> bool:
    """bf16 products beat fp32 ones clearly; measured, since instruction sets do not tell of every library's kernels.

    Small ones first: a CPU without instructions for bf16 may take seconds for a large one.
    """
    small = [matrix_flops_per_second(dtype, "cpu", 192, 3) for dtype in (torch.bfloat16, torch.float32)]
    if small[0] < 0.5 * small[1]:
        return False
    return matrix_flops_per_second(torch.bfloat16, "cpu") > 1.5 * matrix_flops_per_second(torch.float32, "cpu")


def _existing(folder: Path) -> Path:
    while not folder.exists():
        folder = folder.parent
    return folder
