"""Jobs on the nodes of a Ray cluster: each in a worker with its own GPUs, begun again where a process or a node dies.

Everything that a job needs and makes is in the study's folder, which all nodes see: a shared file system, or a store.
What goes through Ray is a job of a few hundred bytes and how it ended. docs/guide-ray.md says how to use it.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

from rankscope.edges.executors import Executor, Job, JobOutcome, Site, host_bytes_of, slots_of
from rankscope.edges.executors.on_ray.connection import connect, disconnect, said_by_ray
from rankscope.edges.executors.on_ray.nodes import (
    Node,
    alive_nodes,
    check_folder,
    check_settings,
    check_versions,
    grows,
    machine_of,
    of_cluster,
    told_to_go,
)
from rankscope.edges.executors.on_ray.place import outcome_of, sent
from rankscope.edges.executors.on_ray.workers import Needs, News, Ticket, Worker, Workers
from rankscope.edges.machine import stop_requested
from rankscope.edges.study_folder import StudyFolder
from rankscope.records import Plan
from rankscope.study.problems import InputProblems, Problem
from rankscope.study.study import Execution

NAME = "ray"

logger = logging.getLogger(__name__)

NODES_LOST = 20
"""How often a job is begun again because its node vanished: spot machines do; a job that brings nodes down must end."""

START_FAILURES = 10
"""Workers in a row that end before they begin; then the jobs that wait fail."""

WAITING_WORKERS = 8
"""Workers that a growing cluster is asked for beyond what its nodes have room for: it sees by them that it should."""

IDLE_SECONDS = 60.0
"""How long a worker without a job is kept, with the model that it loaded, before others may have its room."""

_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.25, 30.0
"""Between workers that cannot begin, doubled each time: a node may be short of memory for a while."""

_GIB = 2**30

_LOOK_SECONDS = 0.25
_NODES_SECONDS = 5.0
_NODE_TOLD_SECONDS = 40.0
"""How long Ray may take to notice that a node died (it asks every 3 s, and gives it up after five times)."""
_NEWS_SECONDS = 15.0


def make(plan: Plan) -> Executor:
    """On the cluster that is found by itself."""
    return reach(Execution(on=NAME), plan.study, Path.cwd()).make_executor(plan)


def reach(execution: Execution, study: str, folder: Path) -> Site:
    """Connect, compare versions on all nodes, and see what they are. Raises InputProblems where anything is amiss."""
    check_settings(execution, study)
    ray = connect(execution, study)
    nodes = alive_nodes(ray)
    check_versions(ray, nodes, study)
    fitting = usable_nodes(nodes, execution, study)
    machine = machine_of(ray, fitting, folder, study, gpus=execution.gpus_per_run != 0)
    return Site(machine, lambda plan: OnRay(ray, plan, execution))


def usable_nodes(nodes: Sequence[Node], execution: Execution, study: str) -> list[Node]:
    """Those on which runs go: those with GPUs where any has, unless the study asks for none.

    Raises InputProblems where there is none.
    """
    with_gpus = [node for node in nodes if node.gpus >= 1]
    if execution.gpus_per_run == "auto":
        found = with_gpus or [node for node in nodes if node.cpus >= 1]
    else:
        found = with_gpus if execution.gpus_per_run > 0 else [node for node in nodes if node.cpus >= 1]
    if not found:
        wants = execution.gpus_per_run not in ("auto", 0)
        place, what = (
            ("execution.gpus_per_run", "a node with a GPU") if wants else ("execution.address", "a node with a CPU")
        )
        raise InputProblems([Problem(study, place, f"a cluster of {of_cluster(nodes)}", what)])
    return found


class OnRay:
    """Hands jobs, in their order, to workers of which there are as many as find room."""

    def __init__(self, ray: Any, plan: Plan, execution: Execution) -> None:
        self._ray, self._plan, self._execution = ray, plan, execution
        self._nodes = usable_nodes(alive_nodes(ray), execution, plan.study)
        self._looked_at = self._saw_at = time.monotonic()
        self._grows = grows(ray)
        self._workers = Workers(ray, plan.resolved.thread_count)
        self._url = ""
        self._failures, self._ask_at = 0, 0.0

    def run(self, jobs: Sequence[Job], idle: Callable[[], None]) -> Iterator[JobOutcome]:
        """Yields outcomes as they come; `idle` is called about four times a second."""
        queue = deque(Ticket(job, self._needs(job)) for job in jobs)
        self._check(queue)
        told = False
        while self._workers.busy or (queue and not stop_requested()):
            if not stop_requested():
                self._look_at_nodes()
                self._hand_out(queue)
            elif not told:
                told = True
                self._workers.stop(self._workers.busy)
            for news in self._workers.news(_LOOK_SECONDS):
                yield from self._heed(news, queue)
            self._see_progress()
            idle()
        self._workers.let_go(self._workers.starting)

    def close(self) -> None:
        """End the workers, and leave the cluster."""
        self._workers.close()
        disconnect()

    # ---- what a job needs ----

    def _needs(self, job: Job) -> Needs:
        gang, per_run, threads = slots_of(job), self._execution.gpus_per_run, self._plan.resolved.thread_count
        gpus = per_run if per_run != "auto" else float(self._plan.resolved.device == "cuda")
        if gpus:
            gpus = float(gang) if gang > 1 else gpus
            # A node with fewer cores than GPUs must not keep GPUs from working.
            per_gpu = min((node.cpus / node.gpus for node in self._nodes if node.gpus), default=0.0)
            cpus = gpus if per_gpu >= 1 else 0.0
        else:
            widest = max(node.cpus for node in self._nodes)
            cpus = min(float(threads * gang), widest)  # processes of a gang may share cores
        return Needs(cpus, gpus, gang, self._memory(job, cpus, gpus))

    def _memory(self, job: Job, cpus: float, gpus: float) -> int:
        """What the plan says that a job takes of the host's memory, in whole GiB, so that jobs alike share workers.
        Ray gives away less than a machine has: what no node holds takes all of the largest."""
        largest = max((node.memory_bytes for node in self._nodes if node.holds(cpus, gpus)), default=0)
        return min(-(-host_bytes_of(job) // _GIB) * _GIB, largest)

    @staticmethod
    def _holds(node: Node, needs: Needs) -> int:
        return node.holds(needs.cpus, needs.gpus, needs.memory_bytes)

    def _check(self, queue: Sequence[Ticket]) -> None:
        """Raises InputProblems for a gang that no node holds, and once for nodes that do not see the study."""
        study = self._plan.study
        for ticket in queue:
            if not any(self._holds(node, ticket.needs) for node in self._nodes):
                most = max(node.gpus for node in self._nodes)
                needs = f"{ticket.needs.gang} GPUs of one node" if ticket.needs.gpus else f"{ticket.needs.cpus:g} CPUs"
                found = f"a run that takes {needs}, on a cluster of {of_cluster(self._nodes)}"
                expected = f"at most {most:g} GPUs on a node: fewer `execution.shards`, or larger nodes"
                raise InputProblems([Problem(study, "execution.on", found, expected)])
        url = str(getattr(sent(queue[0].job), "folder", "")) if queue else ""
        if url and url != self._url:
            check_folder(self._ray, self._nodes, url, study)
            self._url = url

    # ---- workers and jobs ----

    def _hand_out(self, queue: deque[Ticket]) -> None:
        """The first jobs to the workers that wait; strictly in order, so that a gang finds its devices free one day."""
        while queue:
            worker = self._workers.take_idle(queue[0].needs)
            if worker is None:
                break
            ticket = queue.popleft()
            self._workers.give(worker, ticket, sent(ticket.job))
        if not queue:
            self._workers.let_go(self._workers.starting)
        now = time.monotonic()
        self._workers.let_go(
            worker
            for worker in self._workers.idle
            if (queue and not worker.needs.serves(queue[0].needs)) or now - worker.idle_since > IDLE_SECONDS
        )
        self._ask_for_workers(queue)

    def _ask_for_workers(self, queue: deque[Ticket]) -> None:
        """As many as there are jobs of the first one's kind in a row, as far as the nodes have room, and a few more
        where the cluster grows. Whoever comes after a gang must not take its devices first."""
        if not queue or time.monotonic() < self._ask_at:
            return
        needs = queue[0].needs
        waiting = sum(1 for _ in takewhile(lambda ticket: needs.serves(ticket.needs), queue))
        starting = sum(worker.needs.serves(needs) for worker in self._workers.starting)
        have = starting + sum(worker.needs.serves(needs) for worker in self._workers.busy)
        room = sum(self._holds(node, needs) for node in self._nodes)
        if self._grows:
            room += WAITING_WORKERS
        for _ in range(min(waiting - starting, room - have)):
            self._workers.ask_for(needs, self._url)

    def _heed(self, news: News, queue: deque[Ticket]) -> Iterator[JobOutcome]:
        worker, ticket = news.worker, news.worker.ticket
        if news.what == "began" and not news.answer.problem:
            self._failures = 0
            self._workers.rest(worker)
        elif ticket is None:
            why = news.answer.problem if news.what == "began" else said_by_ray(news.answer)
            yield from self._not_begun(worker, why, queue)
        elif news.what == "unbegun":
            self._workers.let_go([worker])
            queue.appendleft(ticket)
        elif news.what == "ended":
            if worker.leaving:  # it saved its state because its node is told to go
                self._workers.let_go([worker])
                queue.appendleft(ticket)
                return
            self._workers.rest(worker)
            yield outcome_of(ticket.job, news.answer)
        else:
            yield from self._died(worker, ticket, news.answer, queue)

    def _not_begun(self, worker: Worker, why: str, queue: deque[Ticket]) -> Iterator[JobOutcome]:
        """A worker ended before it began, or cannot work where it is: its room may be another's next time."""
        self._workers.let_go([worker])
        self._failures += 1
        self._ask_at = time.monotonic() + min(_PAUSE_SECONDS * 2**self._failures, _LONGEST_PAUSE_SECONDS)
        logger.warning("ray: a worker could not begin: %s", why)
        if self._failures >= START_FAILURES:
            while queue:
                error = f"no worker could begin, {self._failures} times: {why}"
                yield outcome_of(queue.popleft().job, (error, ""))

    def _died(self, worker: Worker, ticket: Ticket, error: Exception, queue: deque[Ticket]) -> Iterator[JobOutcome]:
        """A job whose process or node is gone is begun again, as often as it may be."""
        self._workers.let_go([worker])
        if stop_requested():
            return
        assert worker.began is not None
        node_lost = self._has_vanished(worker.began.node_id, error)
        ticket.nodes_lost += node_lost
        ticket.deaths += not node_lost
        what = f"the node {worker.began.host} vanished" if node_lost else f"its process on {worker.began.host} died"
        told = f"{what} ({said_by_ray(error)})"
        if ticket.deaths > self._execution.retries or ticket.nodes_lost > NODES_LOST:
            times = ticket.deaths + ticket.nodes_lost
            yield outcome_of(ticket.job, (f"{told}, {times} time{'s' if times > 1 else ''}", str(error)))
            return
        logger.warning("ray: %s; the job is begun again, from its last checkpoint", told)
        queue.appendleft(ticket)

    def _has_vanished(self, node_id: str, error: Exception) -> bool:
        """Whether a node is gone, and not only a process on it. Of a connection that is cut Ray says at first that the
        worker cannot be reached, and only later that its node died."""
        until = time.monotonic()
        if isinstance(error, self._ray.exceptions.ActorUnavailableError):
            until += _NODE_TOLD_SECONDS
        while True:
            if "node has died" in str(error) or node_id not in {node.node_id for node in alive_nodes(self._ray)}:
                return True
            if time.monotonic() >= until or stop_requested():
                return False
            time.sleep(_LOOK_SECONDS)

    # ---- now and then ----

    def _look_at_nodes(self) -> None:
        """See nodes that came and went; workers on those that are told to go save their state and come back."""
        if time.monotonic() - self._looked_at < _NODES_SECONDS:
            return
        self._looked_at = time.monotonic()
        nodes = alive_nodes(self._ray)
        self._nodes = [node for node in nodes if node.gpus >= 1] if self._takes_gpus else nodes
        going = told_to_go(self._ray)
        told = [w for w in self._workers.busy if w.began and w.began.node_id in going and not w.leaving]
        for worker in told:
            worker.leaving = True
        self._workers.stop(told)

    @property
    def _takes_gpus(self) -> bool:
        per_run = self._execution.gpus_per_run
        return self._plan.resolved.device == "cuda" if per_run == "auto" else per_run > 0

    def _see_progress(self) -> None:
        """What running jobs write into a store is looked at now and then, for who follows them here."""
        if self._url and time.monotonic() - self._saw_at > _NEWS_SECONDS:
            self._saw_at = time.monotonic()
            StudyFolder.open(self._url).refresh()
