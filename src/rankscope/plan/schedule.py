"""The schedule of a plan: list scheduling of its jobs on the workers that it has, longest first, stage after stage.

Pure simulation, by the rule by which the local executor begins jobs (`placement.py`), on several nodes by that of the
Ray executor, and in the stages of `pipeline.py`, each of which waits for the one before.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

from rankscope.plan.packing_choice import packing_measured
from rankscope.plan.placement import LOOK_AHEAD, Capacity, Claim, Running, next_to_begin
from rankscope.records import PlannedRun, PlannedSearch, Schedule, ScheduledJob
from rankscope.records.machine_facts import Device
from rankscope.records.schedule_record import JobKind
from rankscope.study.methods.remedy_settings import Replay


@dataclass(frozen=True)
class Task:
    """A job to be placed, as of `ScheduledJob`; `claim` is what it takes and for how long."""

    what: JobKind
    ids: tuple[str, ...]
    claim: Claim


def _turn(task: Task) -> tuple[bool, float]:
    """Bases first, then the longest."""
    return task.what != "base", -task.claim.seconds


@dataclass
class Work:
    """What a study does: bases (by model) and samples, then searches and runs, then derived runs.

    `looks`: with adaptive seeds the numbers of seeds after which the verdict is asked. `arms_together`: arms of a pack;
    `auto`: one by one, as far as a plan can know, and it may be measured on `device`.
    `own_derivations`: seconds that runs take beyond their own for what is made of their weights while these are there.
    """

    looks: Sequence[int] = ()
    arms_together: int | Literal["auto"] = 1
    device: Device = "cpu"
    bases: dict[str, Claim] = field(default_factory=dict)
    samples: dict[str, Claim] = field(default_factory=dict)
    searches: list[PlannedSearch] = field(default_factory=list)
    runs: list[PlannedRun] = field(default_factory=list)
    derived: dict[str, Claim] = field(default_factory=dict)
    own_derivations: dict[str, float] = field(default_factory=dict)

    def stages(self, base_ids: Mapping[str, str]) -> list[list[Task]]:
        """The jobs of each stage, those of one in no order. `base_ids` are the bases' run ids, by model.

        Where neither searches nor samples wait for the bases, and packing is not measured beside them, runs are.
        """
        bases = [Task("base", (base_ids[model],), claim) for model, claim in self.bases.items()]
        found = [[Task("samples", (name,), claim) for name, claim in self.samples.items()]]
        runs = [run for run in self.runs if run.fits]
        ends = [0, *self.looks] if self.looks else [0, max((run.seed for run in runs), default=0) + 1]
        for first, last in pairwise(ends):
            own = [run for run in runs if first <= run.seed < last]
            found += self._round(own, self.searches if first == 0 else [])
        found.append([Task("derived", (name,), claim) for name, claim in self.derived.items()])
        found = [stage for stage in found if stage]
        first_runs = [run for run in runs if run.seed < ends[1]]
        measured = packing_measured(first_runs, self.searches, self.device, auto=self.arms_together == "auto")
        if self.searches or self.samples or measured or not first_runs:
            return [stage for stage in [bases, *found] if stage]
        return [[*bases, *found[0]], *found[1:]]

    def _round(self, runs: Sequence[PlannedRun], searches: Sequence[PlannedSearch]) -> list[list[Task]]:
        """Searches wave by wave, beside the first of them the runs that wait for none, then those that do."""
        waves: dict[int, list[Task]] = {0: []}
        for search in searches:
            claim = Claim(search.devices, search.host_bytes, search.seconds)
            waves.setdefault(search.wave, []).append(Task("search", (search.search_id,), claim))
        waves[0] += self._training([run for run in runs if run.search_id is None])
        after = self._training([run for run in runs if run.search_id is not None])
        return [*(waves[wave] for wave in sorted(waves)), after]

    def _training(self, runs: Sequence[PlannedRun]) -> list[Task]:
        """Runs as they are trained: in packs where the study gives a number of arms, else one by one."""
        packs: list[list[PlannedRun]] = []
        begun: dict[tuple[str, str, int, int, bool, Replay | None], list[PlannedRun]] = {}
        together = 1 if self.arms_together == "auto" else self.arms_together
        for run in sorted(runs, key=lambda one: -one.seconds):
            key = (run.model, run.train_set, run.seed, run.gang, run.offload, run.arm.replay)
            if together == 1 or run.arm.given is not None or not run.arm.traits.can_pack(run.arm):
                packs.append([run])
            elif key in begun and len(begun[key]) < together:
                begun[key].append(run)
            else:
                begun[key] = [run]
                packs.append(begun[key])
        return [self._of_pack(pack) for pack in packs]

    def _of_pack(self, pack: Sequence[PlannedRun]) -> Task:
        seconds = sum(run.seconds + self.own_derivations.get(run.run_id, 0.0) for run in pack)
        claim = Claim(pack[0].devices, max(run.host_bytes for run in pack), seconds)
        return Task("run" if len(pack) == 1 else "pack", tuple(run.run_id for run in pack), claim)


def schedule(
    stages: Sequence[Sequence[Task]],
    device: Device,
    devices: Sequence[int],
    host_bytes: int,
    node_count: int = 1,
) -> Schedule:
    """Place every job: as soon as there is room for it, by the executor's rule, on the first devices that are free.

    Each of `node_count` nodes has an equal part of `devices`, and `host_bytes`.
    """
    whole, each = Capacity(len(devices), host_bytes), len(devices) // node_count
    nodes = [devices[i * each : (i + 1) * each] for i in range(node_count)]
    jobs: list[ScheduledJob] = []
    now = 0.0
    for number, stage in enumerate(stages):
        if node_count > 1:
            placed = _place_on_nodes(stage, nodes, host_bytes, now, number)
        else:
            placed = _place(stage, devices, whole, now, number)
        jobs += placed
        now = max((job.end_seconds for job in placed), default=now)
    busy = sum(job.seconds * len(job.devices) for job in jobs)
    return Schedule(
        device=device,
        devices=list(devices),
        makespan_seconds=now,
        gpu_hours=busy / 3600 if device == "cuda" else 0.0,
        idle_share=1 - busy / (now * len(devices)) if now > 0 else 0.0,
        host_bytes=host_bytes,
        node_count=node_count,
        jobs=jobs,
    )


def _place(
    stage: Sequence[Task], devices: Sequence[int], whole: Capacity, begin: float, number: int
) -> list[ScheduledJob]:
    waiting = sorted(stage, key=_turn)
    free, now = list(devices), begin
    running: list[tuple[float, int, Running, list[int]]] = []
    placed: list[ScheduledJob] = []
    while waiting or running:
        at_work = [one[2] for one in running]
        ahead = [task.claim for task in waiting[: LOOK_AHEAD + 1]]
        chosen = next_to_begin(ahead, at_work, whole, now)
        if chosen is None:
            now, _, _, given_back = heapq.heappop(running)
            free = sorted([*free, *given_back], key=devices.index)
            continue
        task = waiting.pop(chosen)
        slots = min(task.claim.slots, whole.slots)
        own, free = free[:slots], free[slots:]
        end = now + task.claim.seconds
        heapq.heappush(running, (end, len(placed), Running(task.claim, end), own))
        placed.append(_placed(task, number, own, now))
    return placed


def _placed(task: Task, stage: int, devices: list[int], now: float) -> ScheduledJob:
    return ScheduledJob(
        what=task.what, ids=list(task.ids), stage=stage, devices=devices, start_seconds=now,
        end_seconds=now + task.claim.seconds, host_bytes=task.claim.host_bytes,
    )  # fmt: skip


@dataclass
class _Room:
    """What is free on one node."""

    devices: list[int]
    host_bytes: int


def _place_on_nodes(
    stage: Sequence[Task], nodes: Sequence[Sequence[int]], host_bytes: int, begin: float, number: int
) -> list[ScheduledJob]:
    """Strictly in order, as jobs are handed out on a cluster: who waits holds back those behind. A job is on one node,
    of those with room for it the one with the fewest free devices; what no node holds takes the whole of one."""
    waiting = deque(sorted(stage, key=_turn))
    rooms, now = [_Room(list(node), host_bytes) for node in nodes], begin
    running: list[tuple[float, int, _Room, list[int], int]] = []
    placed: list[ScheduledJob] = []
    while waiting or running:
        first = waiting[0].claim if waiting else None
        slots = min(first.slots, len(nodes[0])) if first else 0
        memory = min(first.host_bytes, host_bytes) if first else 0
        fitting = [room for room in rooms if len(room.devices) >= slots and room.host_bytes >= memory]
        if not waiting or not fitting:
            now, _, room, own, memory = heapq.heappop(running)
            room.devices, room.host_bytes = sorted([*room.devices, *own]), room.host_bytes + memory
            continue
        room = min(fitting, key=lambda one: len(one.devices))
        own, room.devices = room.devices[:slots], room.devices[slots:]
        room.host_bytes -= memory
        job = _placed(waiting.popleft(), number, own, now)
        heapq.heappush(running, (job.end_seconds, len(placed), room, own, memory))
        placed.append(job)
    return placed


def what_is_left(planned: Schedule, runs: Iterable[PlannedRun], done: Collection[str]) -> Schedule:
    """The schedule of what is still to do, where runs and bases are `done` by their ids: of searches those whose runs
    are not, and nothing where no run is left. A pack of which some runs are done counts whole."""
    left = [run for run in runs if run.fits and run.run_id not in done]
    needed = {run.run_id for run in left} | {run.search_id for run in left}
    stages: dict[int, list[Task]] = {}
    for job in planned.jobs if left else ():
        by_run = job.what in ("run", "pack", "search")
        if needed.isdisjoint(job.ids) if by_run else set(job.ids) <= set(done):
            continue
        claim = Claim(len(job.devices), job.host_bytes, job.seconds)
        stages.setdefault(job.stage, []).append(Task(job.what, tuple(job.ids), claim))
    ordered = [stages[number] for number in sorted(stages)]
    return schedule(ordered, planned.device, planned.devices, planned.host_bytes, planned.node_count)
