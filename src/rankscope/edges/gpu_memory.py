"""How torch keeps a GPU's memory, in this process and in those begun here; told before torch is imported."""

from __future__ import annotations

import os
import sys

ALLOCATOR_VARIABLES = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF", "PYTORCH_ALLOC_CONF")
"""Where torch looks for its settings, in this order; it heeds the first only."""

EXPANDABLE = "expandable_segments:True"


def let_segments_grow() -> None:
    """Have torch keep a GPU's memory in segments that grow, unless the user has set how; does nothing off Linux.

    Micro-batches differ in length. By default each new size takes a segment of its own, and free memory ends up in
    pieces that no later micro-batch fits: a run that needs two thirds of a GPU runs out of it. Processes begun here
    (workers, gangs) inherit this; one that is begun on another machine must call it before it imports torch.
    """
    if sys.platform == "linux" and not any(name in os.environ for name in ALLOCATOR_VARIABLES):
        os.environ[ALLOCATOR_VARIABLES[0]] = EXPANDABLE
