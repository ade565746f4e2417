"""Of which runs it is measured, before any is trained, how many arms train best together.

Packs form among the LoRA runs of one base, training set and seed. Where the study says `arms_together` that is written
down for them; `auto` times a few steps, if that takes less than packs are likely to save.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rankscope.records import PlannedRun, PlannedSearch
from rankscope.records.machine_facts import Device
from rankscope.study.methods.remedy_settings import Replay

TIMED_STEPS = 4
"""Timed steps, after one that is not: it allocates, and finds out what the model can do."""

LIKELY_SAVED: dict[Device, float] = {"cpu": 0.1, "mps": 0.1, "cuda": 0.5}
"""The share of training that packs are likely to save. On a CPU eight arms saved 0.41 on a base of 2.5 million
parameters; on a GPU, which mostly waits for kernels to be launched, eight saved 0.72 (docs/benchmarks.md, docs/log.md).
"""

FEW_ARMS = 3
SAVED_BY_FEW: dict[Device, float] = {"cpu": 0.03, "mps": 0.03, "cuda": 0.5}
"""The same where at most `FEW_ARMS` could train together. On a CPU three arms saved 0.03 and two 0.1 on the same base,
single steps differing by a fifth, and two arms nothing on a base of 268 million parameters."""

_FIRST_TRIES = 3
"""Steps of one arm, for each that is timed, before anything is known: of one arm, then of two."""


def packing_measured(
    runs: Iterable[PlannedRun], searches: Sequence[PlannedSearch], device: Device, *, auto: bool
) -> list[list[PlannedRun]]:
    """Groups of runs, of one seed and the same replayed rows, of which it must be decided how many train together.

    `runs` are those ahead, `searches` those of the study: what they train counts as well. `auto`: nothing is given.
    """
    groups: dict[tuple[str, str], list[PlannedRun]] = {}
    for run in runs:
        if run.arm.given is None and run.arm.traits.can_pack(run.arm):
            groups.setdefault((run.model, run.train_set), []).append(run)
    found = []
    for group in groups.values():
        own = max(_alike(group), key=len)  # the first of several that are as large
        saved = (SAVED_BY_FEW if len(own) <= FEW_ARMS else LIKELY_SAVED)[device]
        if len(own) > 1 and not (auto and _costs_more(group, searches, saved)):
            found.append(own)
    return found


def _alike(runs: Iterable[PlannedRun]) -> list[list[PlannedRun]]:
    """Runs of one seed and the same replayed rows: by seed, those that replay nothing first, whatever their order."""
    groups: dict[tuple[int, Replay | None], list[PlannedRun]] = {}
    for run in runs:
        groups.setdefault((run.seed, run.arm.replay), []).append(run)
    return [groups[key] for key in sorted(groups, key=lambda key: (key[0], key[1] is not None, repr(key[1])))]


def _costs_more(runs: Sequence[PlannedRun], searches: Sequence[PlannedSearch], likely_saved: float) -> bool:
    """Whether measuring takes more steps than packs are likely to save of those ahead, which is this share of them."""
    ahead = float(sum(run.step_count for run in runs))
    for search in searches:
        if (search.model, search.train_set) == (runs[0].model, runs[0].train_set):
            packed = sum(arm.traits.can_pack(arm) for arm in search.arms)
            ahead += search.step_count * search.runs * packed
    return likely_saved * ahead < _FIRST_TRIES * (TIMED_STEPS + 1)
