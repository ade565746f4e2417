"""The workers that this study has on a cluster: started, given jobs, listened to, told to stop, let go."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from rankscope.edges.executors import Job
from rankscope.edges.executors.on_ray.place import Began, actor_of

logger = logging.getLogger(__name__)

_SPARE_BYTES = 4 * 2**30
"""Memory that a worker may hold beyond twice what its job needs."""


@dataclass(frozen=True)
class Needs:
    """What a job takes of its node, in Ray's resources. `gang`: its processes, in a placement group."""

    cpus: float
    gpus: float
    gang: int = 1
    memory_bytes: int = 0
    """Of the host; 0 where nobody knows."""

    def serves(self, job: Needs) -> bool:
        """Whether a worker with this room does a job that needs `job`: of memory not less, and not so much more that
        other workers would miss it. To be let go costs a worker the model that it loaded."""
        most = 2 * job.memory_bytes + _SPARE_BYTES
        return (self.cpus, self.gpus, self.gang) == (job.cpus, job.gpus, job.gang) and (
            job.memory_bytes <= self.memory_bytes <= most
        )

    def resources(self) -> dict[str, float]:
        """As a placement group has them."""
        named = {"CPU": self.cpus, "GPU": self.gpus, "memory": float(self.memory_bytes)}
        return {name: amount for name, amount in named.items() if amount}


@dataclass
class Ticket:
    """A job on its way. `deaths` of processes that ran it, `nodes_lost` under it."""

    job: Job
    needs: Needs
    deaths: int = 0
    nodes_lost: int = 0


@dataclass(eq=False)
class Worker:
    """A process on a node. `ref`: what it was last asked, whose answer is waited for; `waits`: a job that it gets as
    soon as it answers that it lives; `leaving`: its node is told to go."""

    actor: Any
    needs: Needs
    ref: Any
    group: Any = None
    waits: Job | None = None
    began: Began | None = None
    ticket: Ticket | None = None
    idle_since: float = field(default_factory=time.monotonic)
    leaving: bool = False


@dataclass(frozen=True)
class News:
    """What a worker answered. `lost`: it is gone, and `answer` is Ray's error; `unbegun`: it was gone before its job
    came, which costs the job nothing."""

    what: Literal["began", "ended", "lost", "unbegun"]
    worker: Worker
    answer: Any


class Workers:
    """All of one study's. `url`: of the study's folder, which a worker looks for where it begins."""

    def __init__(self, ray: Any, thread_count: int) -> None:
        self._ray, self._threads = ray, thread_count
        self._actor = actor_of(ray)
        self._asked: dict[Any, Worker] = {}
        self._idle: list[Worker] = []

    @property
    def starting(self) -> list[Worker]:
        """Those that have not begun: no node has room yet, or their process is being made."""
        return [worker for worker in self._asked.values() if worker.began is None]

    @property
    def busy(self) -> list[Worker]:
        """Those that run a job."""
        return [worker for worker in self._asked.values() if worker.ticket is not None]

    @property
    def idle(self) -> list[Worker]:
        """Those that wait for a job."""
        return list(self._idle)

    def ask_for(self, needs: Needs, url: str) -> None:
        """Start a worker where there is room, or as soon as there is."""
        options: dict[str, Any] = {"num_cpus": needs.cpus, "num_gpus": needs.gpus}
        if needs.memory_bytes:
            options["memory"] = needs.memory_bytes
        group = None
        if needs.gang > 1:
            from ray.util.placement_group import placement_group
            from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

            group = placement_group([needs.resources()], strategy="STRICT_PACK")
            options["scheduling_strategy"] = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=0)
        actor = self._actor.options(**options).remote(self._threads)
        worker = Worker(actor, needs, None, group)
        self._ask(worker, actor.begin.remote(url))

    def take_idle(self, needs: Needs) -> Worker | None:
        """A worker that waits and has this room; it is no longer idle."""
        for worker in self._idle:
            if worker.needs.serves(needs):
                self._idle.remove(worker)
                return worker
        return None

    def give(self, worker: Worker, ticket: Ticket, job: Job) -> None:
        """Hand a job, as it is sent, to a worker that was idle. It is asked first whether it still lives: who dies with
        a job in hand is held against the job, and who died before is not."""
        worker.ticket, worker.waits = ticket, job
        self._ask(worker, worker.actor.begin.remote(""))

    def _ask(self, worker: Worker, ref: Any) -> None:
        worker.ref = ref
        self._asked[ref] = worker

    def news(self, wait_seconds: float) -> Iterator[News]:
        """What has been answered since; waits a little where nothing was."""
        refs = list(self._asked)
        if not refs:
            time.sleep(wait_seconds)
            return
        ready, _ = self._ray.wait(refs, num_returns=1, timeout=wait_seconds)
        if ready and len(refs) > 1:
            ready, _ = self._ray.wait(refs, num_returns=len(refs), timeout=0)
        for ref in ready:
            worker = self._asked.pop(ref)
            news = self._answer(ref, worker)
            if news.what == "began" and worker.waits is not None:
                job, worker.waits = worker.waits, None
                self._ask(worker, worker.actor.perform.remote(job))
                continue
            yield news

    def _answer(self, ref: Any, worker: Worker) -> News:
        try:
            answer = self._ray.get(ref)
        except self._ray.exceptions.RayTaskError as error:  # the process lives: what it was sent cannot be run there
            if worker.ticket is None:
                return News("lost", worker, error)
            return News("ended", worker, (_last_line(str(error)), str(error)))
        except self._ray.exceptions.RayError as error:
            return News("unbegun" if worker.waits is not None else "lost", worker, error)
        if worker.began is None or worker.waits is not None:
            worker.began = answer
            return News("began", worker, answer)
        return News("ended", worker, answer)

    def rest(self, worker: Worker) -> None:
        """A worker has nothing to do."""
        worker.ticket, worker.idle_since = None, time.monotonic()
        self._idle.append(worker)

    def stop(self, workers: Iterable[Worker]) -> None:
        """Ask workers to save the state of their jobs and return them."""
        for worker in workers:
            with contextlib.suppress(self._ray.exceptions.RayError):
                worker.actor.stop.options(concurrency_group="control").remote()

    def let_go(self, workers: Iterable[Worker]) -> None:
        """End workers, and give back their room."""
        for worker in list(workers):
            self._asked.pop(worker.ref, None)
            if worker in self._idle:
                self._idle.remove(worker)
            with contextlib.suppress(self._ray.exceptions.RayError, ConnectionError):
                self._ray.kill(worker.actor)
                if worker.group is not None:
                    from ray.util.placement_group import remove_placement_group

                    remove_placement_group(worker.group)

    def close(self) -> None:
        """End them all."""
        self.let_go([*self._asked.values(), *self._idle])


def _last_line(said: str) -> str:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return lines[-1] if lines else "an error without words"
