"""How a process of rankscope asks its C library for memory."""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h


def keep_freed_memory() -> bool:
    """Let this process keep large blocks that it frees, for the next ones; says whether its C library can be told so.

    glibc hands blocks of more than 32 MiB, and whatever is free at the top, back to the system at once. A training or
    scoring step asks for the same blocks again and again, and pays for each page of them: up to a fifth of its time.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # not glibc
        return False
    trim, mapped = mallopt(_M_TRIM_THRESHOLD, 2**31 - 1), mallopt(_M_MMAP_THRESHOLD, 2**30)
    return bool(trim and mapped)


def give_back_freed_memory() -> None:
    """Hand all that is free back to the system, so that the next job's resident memory is its own."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError):  # not glibc
        return
