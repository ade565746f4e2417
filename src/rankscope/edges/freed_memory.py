"""What becomes of memory that this process frees: kept for its next blocks, or handed back to the system.

Imports next to nothing: the command line calls it before it knows whether the command will compute at all.
"""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h

LARGEST_KEPT_BYTES = 1 << 26
"""Of a block that is kept for the next one when it is freed."""


def keep_freed_memory() -> bool:
    """Let this process keep blocks of up to 64 MiB that it frees, for the next ones; says whether its C library can be
    told so.

    glibc hands large blocks (of more than 128 KiB at first), and whatever is free at the top, back to the system at
    once. A training or scoring step asks for the same blocks again and again, and pays for each page of them: up to a
    fifth of its time. Larger blocks, as the gradient of a vocabulary of 262,144, are still given back: smaller ones
    that come between would break up their places, so that each step took new ones (twice the memory after 14 steps).
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # not glibc
        return False
    trim, mapped = mallopt(_M_TRIM_THRESHOLD, 2**31 - 1), mallopt(_M_MMAP_THRESHOLD, LARGEST_KEPT_BYTES)
    return bool(trim and mapped)


def give_back_freed_memory() -> None:
    """Hand all that is free back to the system and the GPU's peak to zero, so that the next job's memory is its own.

    A process that has not used a GPU is not made to.
    """
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError):  # not glibc
        return
