"""Machines that are described in a few characters, `8x80GB` or `4x8x80GB`, so that a study is planned from a laptop."""

from __future__ import annotations

import re

from rankscope.records import MachineFacts
from rankscope.study.problems import InputProblems, Problem

DESCRIBED_FLOPS_PER_SECOND = 4e14
"""Of one GPU in bf16: a data-centre GPU of 80 GB and more reaches about this in large products (an assumption)."""

HOST_BYTES_PER_DEVICE_BYTE = 2.0
"""Memory of the host for the memory of its GPUs: usual for machines that are rented (an assumption)."""

CORES_PER_DEVICE = 12

_PATTERN = re.compile(r"(?:(?:(\d{1,4})\s*x\s*)?(\d{1,4})\s*x\s*)?(\d{1,4}(?:\.\d+)?)\s*GB", re.IGNORECASE)


def described_machine(text: str) -> MachineFacts:
    """CUDA GPUs of equal memory, in one host or in each of several, with disk enough.

    Raises InputProblems for a text that says none.
    """
    found = _PATTERN.fullmatch(text.strip())
    nodes = int(found.group(1) or 1) if found else 0
    count = int(found.group(2) or 1) if found else 0
    memory = int(float(found.group(3)) * 1e9) if found else 0
    if not nodes or not count or not memory:
        expected = "a number of GPUs and the memory of each, such as 8x80GB; 4x8x80GB are four such nodes"
        raise InputProblems([Problem("--gpus", "", text, expected)])
    return MachineFacts(
        device="cuda",
        device_name=f"{f'{nodes} nodes of ' if nodes > 1 else ''}{count} x {memory / 1e9:g} GB, described",
        core_count=CORES_PER_DEVICE * count,
        memory_bytes=int(HOST_BYTES_PER_DEVICE_BYTE * memory * count),
        device_memory_bytes=memory,
        device_count=count,
        node_count=nodes,
        bfloat16_is_fast=True,
        disk_free_bytes=10**16,
        bitsandbytes=True,
        flops_per_second=DESCRIBED_FLOPS_PER_SECOND,
        described=True,
    )
