"""Jobs in worker processes: each outcome its own, whatever happens to a worker."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from rankscope.edges.local_executor import Executor, InProcess, Job, Workers


def touch(folder: str, run_ids: tuple[str, ...]) -> None:
    for run_id in run_ids:
        (Path(folder) / run_id).write_text(str(os.getpid()))


def fail(folder: str, run_ids: tuple[str, ...]) -> None:
    raise ValueError(f"no luck with {run_ids[0]}")


def die(folder: str, run_ids: tuple[str, ...]) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture(params=["in process", "workers"])
def executor(request: pytest.FixtureRequest) -> Iterator[Executor]:
    made: Executor = InProcess(1) if request.param == "in process" else Workers(2, 1)
    yield made
    made.close()


def test_a_failed_job_does_not_stop_the_others(executor: Executor, tmp_path: Path) -> None:
    names = ["a", "b", "c", "d"]
    jobs = [Job(fail if name == "b" else touch, str(tmp_path), (name,)) for name in names]
    outcomes = {outcome.job.run_ids[0]: outcome for outcome in executor.run(jobs, lambda: None)}
    assert set(outcomes) == set(names)
    assert outcomes["b"].error == "ValueError: no luck with b"
    assert "Traceback" in outcomes["b"].details
    assert all(outcomes[name].error is None for name in "acd")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "c", "d"]


def test_a_dead_worker_costs_its_own_job_only(tmp_path: Path) -> None:
    workers = Workers(1, 1)
    try:
        jobs = [Job(die, str(tmp_path), ("x",)), Job(touch, str(tmp_path), ("y",)), Job(touch, str(tmp_path), ("z",))]
        outcomes = {outcome.job.run_ids[0]: outcome for outcome in workers.run(jobs, lambda: None)}
    finally:
        workers.close()
    assert "by signal 9" in str(outcomes["x"].error)
    assert outcomes["y"].error is outcomes["z"].error is None
    same = {(tmp_path / name).read_text() for name in "yz"}
    assert len(same) == 1, "a worker stays for many jobs"
    assert str(os.getpid()) not in same
