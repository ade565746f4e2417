"""How fast matrix products run, on one CPU thread or a GPU: what a plan's times are calculated from."""

from __future__ import annotations

import time
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@cache
def matrix_flops_per_second(dtype: torch.dtype, device: str, size: int | None = None, repeats: int = 6) -> float:
    """Speed of one (size, size) x (size, size) product, best of `repeats`, on one CPU thread or the whole GPU. By
    default 1,024 on a CPU and 8,192 on a GPU, where a smaller one takes as long as its launch."""
    import torch

    size = size or (8192 if device == "cuda" else 1024)
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
