"""Where jobs run: the protocols of a job and of an executor, and the executors found by listing this folder.

An executor is one file here with a class of its own, `NAME` (what a study calls it: `execution: {on: NAME}`) and
`make(plan) -> Executor`. One whose jobs run elsewhere has `reach(execution, study, folder) -> Site` too, which says
what a plan may count on there. Nothing else names it.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from rankscope.edges import named_in, names_in
from rankscope.edges.freed_memory import give_back_freed_memory
from rankscope.edges.machine import look_at_machine
from rankscope.edges.study_folder import StudyFolder
from rankscope.records import MachineFacts, Plan
from rankscope.study.problems import InputProblems, Problem
from rankscope.study.store_urls import without_secrets
from rankscope.study.study import Study


@dataclass(frozen=True)
class WorkPlace:
    """What an executor tells a job about where it runs. `stop_requested`: save the state and return.

    `devices`: the GPUs that the job may use, as CUDA_VISIBLE_DEVICES names them; empty where all that it sees.
    """

    stop_requested: Callable[[], bool]
    devices: tuple[str, ...] = ()


class Job(Protocol):
    """A frozen value that can be sent to another process. What it needs and makes is in its study folder."""

    def run(self, place: WorkPlace) -> None:
        """Do what is missing of it. Any exception is the job's own failure."""

    @property
    def seconds(self) -> float:
        """Planned time, 0 where nobody knows: the longest jobs are begun first."""

    def mark_failed(self, folder: StudyFolder, error: str, details: str) -> dict[str, str]:
        """Leave `error` and the traceback in the study folder; gives what failed, and why, by run or search id."""


def slots_of(job: Job) -> int:
    """Places of the executor that a job takes: one, or a gang's number of processes where it says so (`slots`)."""
    return int(getattr(job, "slots", 1))


def host_bytes_of(job: Job) -> int:
    """What a job takes of the host's memory beside others (`host_bytes`), where it says so."""
    return int(getattr(job, "host_bytes", 0))


@dataclass(frozen=True)
class JobOutcome:
    """`error` is None where the job returned; `details` then holds the traceback for the run's log. `elsewhere`: it ran
    on another machine, so that this one looks again at a study that lies in a store."""

    job: Job
    error: str | None = None
    details: str = ""
    elsewhere: bool = False


class Executor(Protocol):
    """Runs jobs in any order and yields each outcome as it comes; a failed job never stops the others."""

    def run(self, jobs: Sequence[Job], idle: Callable[[], None]) -> Iterator[JobOutcome]:
        """`idle` is called now and then, to show progress."""

    def close(self) -> None:
        """Give back workers and whatever else is held."""


@dataclass(frozen=True)
class Site:
    """Where a study's jobs will run: what a plan may count on there, and what makes the executor of a plan."""

    machine: MachineFacts
    make_executor: Callable[[Plan], Executor]


def begin(study: Study) -> None:
    """Start what the study's executor will probably need, to be called when the jobs are imported and before anything
    else is done: the process has no threads yet. Nothing depends on it, and an executor that there is not is told of by
    `site_of`."""
    begin_own = getattr(named_in(__name__, study.execution.on), "begin", None)
    if begin_own is not None:
        begin_own(study.execution)


def site_of(study: Study, folder: Path) -> Site:
    """Where the study's own executor works. `folder`: whose disk fills, where that is this machine's.

    Raises InputProblems for an executor that there is not, and for a place that cannot be reached or used.
    """
    execution = study.execution
    check_executor(execution.on, study.name)
    reach = getattr(named_in(__name__, execution.on), "reach", None)
    if reach is not None:
        reached: Site = reach(execution, study.name, folder)
        return reached
    return Site(look_at_machine(folder), lambda plan: make_executor(execution.on, plan))


def make_executor(name: str, plan: Plan) -> Executor:
    """The executor of a name, as it is without settings of its own. Raises KeyError for a name that none has."""
    module = named_in(__name__, name)
    if module is None:
        raise KeyError(name)
    made: Executor = module.make(plan)
    return made


def check_executor(name: str, study: str) -> None:
    """Raises InputProblems for an executor that there is not. `study` is how messages name the study."""
    if name not in executor_names():
        problem = Problem(study, "execution.on", name, f"one of {', '.join(executor_names())}")
        raise InputProblems([problem])


def check_several_nodes(study: Study, described: MachineFacts | None) -> None:
    """Raises InputProblems where several nodes are described, and the study's jobs all run on one machine."""
    if described is None or described.node_count == 1:
        return
    on = study.execution.on
    check_executor(on, study.name)
    if getattr(named_in(__name__, on), "reach", None) is None:
        found = f"{described.node_count} nodes with on: {on}, whose jobs run on one machine"
        expected = "GPUs of one node, or `--set execution.on=ray`"
        raise InputProblems([Problem("--gpus", "", found, expected)])


def executor_names() -> list[str]:
    """What `execution: {on: ...}` may be."""
    return names_in(__name__)


def perform(job: Job, place: WorkPlace) -> JobOutcome:
    """Run a job. The one place that catches everything: a crash is the job's own and is kept whole, but for secrets."""
    give_back_freed_memory()
    try:
        job.run(place)
    except Exception as error:  # reported as it is, with its traceback
        text = without_secrets(f"{type(error).__name__}: {error}")
        return JobOutcome(job, error=text, details=without_secrets(traceback.format_exc()))
    return JobOutcome(job)
