"""The learning rate by step: linear warm-up, then cosine, linear or no decay."""

from __future__ import annotations

import math

from rankscope.config.study import Schedule


def warmup_steps(step_count: int, warmup_fraction: float) -> int:
    """Steps of warm-up: the fraction of all steps, rounded up."""
    return math.ceil(step_count * warmup_fraction)


def rate_factor(step: int, step_count: int, *, warmup: int, schedule: Schedule) -> float:
    """Factor on the peak rate at `step` (from 0). The first step of a warm-up has 1/warmup of the peak, never zero.

    Cosine: (1 + cos(pi p)) / 2 over the share p of the steps after the warm-up (arXiv 1608.03983, eq. 5, one cycle).
    """
    if step < warmup:
        return (step + 1) / warmup
    if schedule == "constant":
        return 1.0
    progress = (step - warmup) / max(1, step_count - warmup)
    return 0.5 * (1.0 + math.cos(math.pi * progress)) if schedule == "cosine" else 1.0 - progress
