"""Whether a run computes its activations twice, and how large micro-batches are: kept activations where they fit.

Gradient checkpointing costs a third of full training's arithmetic and half of a LoRA's, and changes rounding only. A
smaller micro-batch costs next to nothing as long as its products keep a device busy. So micro-batches shrink first, and
activations are computed again where that is not enough. Pure arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

from rankscope.plan.gang_choice import ALONE, GangNeed, Room
from rankscope.records import ModelFacts
from rankscope.study.study import Arm, Budget

MICRO_BATCH_TOKENS = {"cpu": 4096, "cuda": 16384, "mps": 8192}
"""The most that a micro-batch is planned with."""

LEAST_MICRO_BATCH_TOKENS = 256

BUSY_TOKENS = {"cpu": 256, "cuda": 2048, "mps": 1024}
"""Tokens of a micro-batch that keep a device busy: below, activations are rather computed twice. On CUDA an
assumption."""


class CheckpointsBlocks(NamedTuple):
    """Whether a run computes its activations twice by plan, and whether it may turn to that where memory runs out."""

    planned: bool = False
    allowed: bool = False


KEEPS = CheckpointsBlocks()


def may_checkpoint(budget: Budget, facts: ModelFacts, arm: Arm) -> bool:
    """Whether a run that was planned without checkpointing may turn to it where memory runs out."""
    return budget.gradient_checkpointing == "auto" and facts.checkpointing and not arm.traits.loses_by_checkpointing


def ways(budget: Budget, facts: ModelFacts, arm: Arm, *, recorded: bool) -> tuple[bool, ...]:
    """What may be chosen from, the better first: without checkpointing, with it. `recorded`: an earlier plan had it."""
    if budget.gradient_checkpointing != "auto":
        return (budget.gradient_checkpointing,)
    if not may_checkpoint(budget, facts, arm):
        return (False,)
    return (True,) if recorded else (False, True)


def choose_way(found: Sequence[GangNeed], there: Callable[[GangNeed], GangNeed], room: Room) -> GangNeed:
    """Of what a run needs without checkpointing and with it (or in one of these ways alone): what it does.

    The number of devices is the smallest at which it fits at all, and on those it keeps its activations where they fit:
    `there` says what a run without checkpointing needs where the given one goes. Where nothing fits, what needs least.
    """
    plain, small = found[0], found[-1]
    if len(found) == 1 or (plain.gang == ALONE and plain.fits(room)):
        return plain
    kept = there(small)
    return kept if kept.fits(room) else small


def with_checkpointing(need: GangNeed, *, checkpointing: bool) -> GangNeed:
    """The same, marked."""
    return replace(need, checkpointing=checkpointing)


def micro_batch_tokens(needs_at: Callable[[int], Sequence[GangNeed]], device: str, room: Room) -> int:
    """The largest power of two at which as many arms fit as at the least, and as many of them without checkpointing as
    at the least that keeps the device busy. `needs_at` gives what every arm needs at so many tokens."""

    def fitting(tokens: int, *, plain: bool = False) -> int:
        return sum(need.fits(room) and not (plain and need.checkpointing) for need in needs_at(tokens))

    tokens, busy = MICRO_BATCH_TOKENS[device], BUSY_TOKENS[device]
    at_least, plain_when_busy = fitting(LEAST_MICRO_BATCH_TOKENS), fitting(busy, plain=True)
    while tokens > LEAST_MICRO_BATCH_TOKENS and fitting(tokens) < at_least:
        tokens //= 2
    while tokens > busy and fitting(tokens, plain=True) < plain_when_busy:
        tokens //= 2
    return tokens
