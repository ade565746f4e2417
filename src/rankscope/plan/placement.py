"""Which waiting job begins next: longest first, a gang that waits keeping its turn while short jobs fill the gaps.

This is the reservation of EASY backfilling (Lifka, "The ANL/IBM SP scheduling system", 1995): the first job that waits
has a time at which enough will be free for it, as far as planned times tell, and a later job goes ahead only where it
does not move that time. The local executor begins jobs by it, and `schedule.py` calculates with it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

LOOK_AHEAD = 256
"""How many waiting jobs are looked at behind the first."""


@dataclass(frozen=True)
class Claim:
    """What a job takes: devices, bytes of the host's memory, and its planned seconds (0: nobody knows)."""

    slots: int = 1
    host_bytes: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Running:
    """A job at work, and the time at which it should end."""

    claim: Claim
    ends_at: float


@dataclass(frozen=True)
class Capacity:
    """Devices, and bytes of the host's memory, that all jobs at work may take together."""

    slots: int
    host_bytes: int

    def left(self, running: Sequence[Running]) -> Capacity:
        """What those at work leave."""
        slots = sum(self._slots(one.claim) for one in running)
        return Capacity(self.slots - slots, self.host_bytes - sum(one.claim.host_bytes for one in running))

    def holds(self, claim: Claim, whole: Capacity) -> bool:
        """Whether a job finds room; one that is larger than `whole` takes all devices, and goes alone."""
        return whole._slots(claim) <= self.slots and min(claim.host_bytes, whole.host_bytes) <= self.host_bytes

    def _slots(self, claim: Claim) -> int:
        return min(claim.slots, self.slots)


def next_to_begin(waiting: Sequence[Claim], running: Sequence[Running], whole: Capacity, now: float) -> int | None:
    """The place in `waiting` of the job to begin now; None where all must wait for one at work.

    `running` is what is at work at the time `now`, in seconds on the clock of its `ends_at`.
    """
    if not waiting:
        return None
    free = whole.left(running)
    if not running or free.holds(waiting[0], whole):
        return 0
    until, beside = _reservation(waiting[0], running, whole, now)
    for i, claim in enumerate(waiting[1 : LOOK_AHEAD + 1], start=1):
        ends_before = 0 < claim.seconds <= until - now
        if free.holds(claim, whole) and (ends_before or beside.holds(claim, whole)):
            return i
    return None


def _reservation(first: Claim, running: Sequence[Running], whole: Capacity, now: float) -> tuple[float, Capacity]:
    """When the first job that waits should find room, and what is left beside it then.

    A job that should have ended, or whose time nobody knows, may end at once: nobody goes ahead on its account.
    """
    by_end = sorted(running, key=lambda one: now if one.claim.seconds <= 0 else max(now, one.ends_at))
    until = now
    for count in range(1, len(by_end) + 1):
        ended, rest = by_end[count - 1], by_end[count:]
        until = now if ended.claim.seconds <= 0 else max(now, ended.ends_at)
        free = whole.left(rest)
        if not rest or free.holds(first, whole):
            taken = Running(first, math.inf)
            return until, whole.left([*rest, taken])
    return until, Capacity(0, 0)
