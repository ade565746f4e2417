"""Jobs in worker processes: each outcome its own, whatever happens to a worker, at work or idle."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import psutil
import pytest

from rankscope.edges.executors import Executor, WorkPlace, begin, this_machine
from rankscope.edges.executors.this_machine import InProcess, Workers
from rankscope.edges.study_folder import StudyFolder
from rankscope.study.study import Execution


@dataclass(frozen=True)
class Touch:
    """Writes the process's id into a file of its name; `does` is what happens instead."""

    folder: str
    name: str
    does: str = "touch"
    seconds: float = 0.0

    def run(self, place: WorkPlace) -> None:
        assert not place.stop_requested()
        if self.does == "fail":
            raise ValueError(f"no luck with {self.name}")
        if self.does == "wait":
            (Path(self.folder) / f"{self.name}.begun").touch()
            time.sleep(60)
        if self.does == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        (Path(self.folder) / self.name).write_text(str(os.getpid()))

    def mark_failed(self, folder: StudyFolder, error: str, details: str) -> dict[str, str]:
        return {self.name: error}


@pytest.fixture(params=["in process", "workers"])
def executor(request: pytest.FixtureRequest) -> Iterator[Executor]:
    made: Executor = InProcess(1) if request.param == "in process" else Workers(2, 1)
    yield made
    made.close()


def test_a_failed_job_does_not_stop_the_others(executor: Executor, tmp_path: Path) -> None:
    names = ["a", "b", "c", "d"]
    jobs = [Touch(str(tmp_path), name, "fail" if name == "b" else "touch") for name in names]
    outcomes = {outcome.job.name: outcome for outcome in executor.run(jobs, lambda: None)}
    assert set(outcomes) == set(names)
    assert outcomes["b"].error == "ValueError: no luck with b"
    assert "Traceback" in outcomes["b"].details
    assert all(outcomes[name].error is None for name in "acd")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "c", "d"]


def test_a_dead_worker_costs_its_own_job_only(tmp_path: Path) -> None:
    workers = Workers(1, 1)
    try:
        jobs = [Touch(str(tmp_path), "x", "die"), Touch(str(tmp_path), "y"), Touch(str(tmp_path), "z")]
        outcomes = {outcome.job.name: outcome for outcome in workers.run(jobs, lambda: None)}
    finally:
        workers.close()
    assert "by signal 9" in str(outcomes["x"].error)
    assert outcomes["y"].error is outcomes["z"].error is None
    same = {(tmp_path / name).read_text() for name in "yz"}
    assert len(same) == 1, "a worker stays for many jobs"
    assert str(os.getpid()) not in same


def test_an_idle_worker_that_dies_between_rounds_costs_nothing(tmp_path: Path) -> None:
    workers = Workers(1, 1)
    try:
        first = list(workers.run([Touch(str(tmp_path), "a")], lambda: None))
        os.kill(int((tmp_path / "a").read_text()), signal.SIGKILL)
        second = list(workers.run([Touch(str(tmp_path), "b"), Touch(str(tmp_path), "c")], lambda: None))
    finally:
        workers.close()
    assert [outcome.error for outcome in (*first, *second)] == [None, None, None]
    assert (tmp_path / "b").read_text() != (tmp_path / "a").read_text()


def test_a_fork_server_that_was_killed_is_started_again(tmp_path: Path) -> None:
    workers = Workers(1, 1)
    try:
        list(workers.run([Touch(str(tmp_path), "a")], lambda: None))
        worker = psutil.Process(int((tmp_path / "a").read_text()))
        server = worker.parent()
        assert server is not None
        server.kill()
        psutil.wait_procs([worker], timeout=10)
        outcomes = list(workers.run([Touch(str(tmp_path), "b"), Touch(str(tmp_path), "c")], lambda: None))
    finally:
        workers.close()
    assert [outcome.error for outcome in outcomes] == [None, None]


def test_a_fork_server_that_refuses_for_a_while_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that is being taken down refuses connections and cannot be replaced before it is gone."""
    workers = Workers(1, 1)
    kind = type(multiprocessing.get_context("forkserver").Process())
    refusals = iter([ConnectionRefusedError("refused")] * 3)
    plain = kind.start

    def start(self: BaseProcess) -> None:
        if (refusal := next(refusals, None)) is not None:
            raise refusal
        plain(self)

    monkeypatch.setattr(kind, "start", start)
    try:
        outcomes = list(workers.run([Touch(str(tmp_path), "a")], lambda: None))
    finally:
        workers.close()
    assert [outcome.error for outcome in outcomes] == [None]


def test_a_fork_server_that_is_killed_costs_the_jobs_at_work_and_says_so(tmp_path: Path) -> None:
    workers = Workers(1, 1)
    try:
        list(workers.run([Touch(str(tmp_path), "a")], lambda: None))
        server = psutil.Process(int((tmp_path / "a").read_text())).parent()
        assert server is not None
        killed: list[bool] = []

        def kill_once_at_work() -> None:
            if (tmp_path / "b.begun").exists() and not killed:
                server.kill()
                killed.append(True)

        outcomes = list(workers.run([Touch(str(tmp_path), "b", "wait"), Touch(str(tmp_path), "c")], kill_once_at_work))
    finally:
        workers.close()
    errors = {outcome.job.name: outcome.error for outcome in outcomes}
    assert errors == {"b": "its worker process ended with the fork server that had started it", "c": None}


FORKED_FROM_HERE = """
import sys, threading
from pathlib import Path
from test_this_machine import Mark
import rankscope.pipeline
from rankscope.edges.executors.this_machine import Workers
from rankscope.edges.worker_process import begin_fork_server
import psutil

if __name__ == "__main__":
    folder, thread = sys.argv[1:]
    Mark.here = True
    if thread:
        threading.Thread(target=threading.Event().wait, daemon=True).start()
    begin_fork_server(from_here=True)
    workers = Workers(1, 1)
    try:
        for name in ("a", "b"):
            for outcome in workers.run([Mark(folder, name)], lambda: None):
                assert outcome.error is None, outcome.details
            worker = psutil.Process(int((Path(folder) / name).read_text()))
            worker.parent().kill()
            psutil.wait_procs([worker], timeout=10)
    finally:
        workers.close()
"""


@dataclass(frozen=True)
class Mark(Touch):
    """Says besides whether it is in a process that has what the first one set."""

    here: ClassVar[bool] = False

    def run(self, place: WorkPlace) -> None:
        super().run(place)
        print(self.here, flush=True)


@pytest.mark.parametrize("thread", [False, True])
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing is forked from a process that has begun")
def test_a_fork_server_that_is_forked_from_here_has_what_is_here_and_is_replaced_when_it_is_killed(
    tmp_path: Path, thread: bool
) -> None:
    """In a program of its own; one that has a thread gets a server that imports for itself."""
    script = tmp_path / "program.py"
    script.write_text(FORKED_FROM_HERE)
    words = [sys.executable, str(script), str(tmp_path), "thread" * thread]
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, env={**os.environ, "PYTHONPATH": path})
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == (["False"] if thread else ["True"]) + ["False"]


@pytest.mark.parametrize(
    ("settings", "cores", "driver", "begun"),
    [
        ({}, 2, False, True),
        ({"workers": 3}, 1, False, True),
        ({}, 1, False, False),
        ({"workers": 1}, 8, False, False),
        ({}, 8, True, False),
        ({"device": "mps"}, 8, False, False),
        ({"on": "ray"}, 8, False, False),
    ],
)
def test_workers_are_forked_from_here_where_several_on_a_cpu_are_to_be_expected(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, settings: dict[str, Any], cores: int, driver: bool, begun: bool
) -> None:
    found: list[bool] = []
    monkeypatch.setattr(this_machine, "begin_fork_server", lambda from_here: found.append(from_here))
    monkeypatch.setattr(this_machine, "core_count", lambda: cores)
    monkeypatch.setattr(this_machine, "_GPU_DRIVERS", (str(tmp_path / "none"), str(tmp_path if driver else "none")))
    begin(SimpleNamespace(execution=Execution(**settings)))  # type: ignore[arg-type]
    assert found == [True] * begun
