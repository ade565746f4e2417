"""One worker on each device: what it sees, who gets which, and what becomes of the device when a worker dies.

The devices are names that no machine has: what is looked at is the environment of each process, not a GPU.
"""

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from made_plan import make_plan

from rankscope.edges.executors import WorkPlace
from rankscope.edges.executors.this_machine import Workers, make
from rankscope.edges.study_folder import StudyFolder
from rankscope.edges.worker_process import Place, gpu_names
from rankscope.records import Plan

UUIDS = ("GPU-6a1f2c9e-0000-0000-0000-000000000001", "GPU-6a1f2c9e-0000-0000-0000-000000000002")
WAIT_SECONDS = 120


@dataclass(frozen=True)
class Look:
    """Writes what it finds into a file of its name; before that it waits for others to be at work too, or dies."""

    folder: str
    name: str
    slots: int = 1
    seconds: float = 0.0
    beside: tuple[str, ...] = ()
    dies: bool = False

    def run(self, place: WorkPlace) -> None:
        folder = Path(self.folder)
        found = {
            "pid": os.getpid(), "devices": list(place.devices), "cores": sorted(os.sched_getaffinity(0)),
            "visible": os.environ.get("CUDA_VISIBLE_DEVICES"), "threads": torch.get_num_threads(),
            "began_with": began_with("CUDA_VISIBLE_DEVICES"), "at": time.time(),
        }  # fmt: skip
        (folder / f"{self.name}.json").write_text(json.dumps(found))
        if self.dies:
            os.kill(os.getpid(), signal.SIGKILL)
        until = time.monotonic() + WAIT_SECONDS
        while not all((folder / f"{other}.json").exists() for other in self.beside) and time.monotonic() < until:
            time.sleep(0.02)
        (folder / f"{self.name}.end").write_text(str(time.time()))

    def mark_failed(self, folder: StudyFolder, error: str, details: str) -> dict[str, str]:
        return {self.name: error}


def began_with(name: str) -> str | None:
    """A variable as it was when this process's program was started, whatever it has set since."""
    for entry in Path("/proc/self/environ").read_bytes().split(b"\0"):
        key, _, value = entry.partition(b"=")
        if key.decode() == name:
            return value.decode()
    return None


def looked(folder: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / f"{name}.json").read_text())
    return found


def ended(folder: Path, name: str) -> float:
    return float((folder / f"{name}.end").read_text())


@pytest.fixture
def no_cuda_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any look at a GPU in this process fails the test."""

    def refuse(*_: object) -> None:
        raise AssertionError("the driver looks at a GPU")

    for name in ("_lazy_init", "is_available", "device_count", "get_device_properties", "get_device_name"):
        monkeypatch.setattr(torch.cuda, name, refuse)


# ---- names and places -----------------------------------------------------------------------------------------------


def test_gpus_are_called_as_the_environment_calls_them() -> None:
    assert gpu_names([0, 3], {}) == ["0", "3"]
    assert gpu_names([1, 0], {"CUDA_VISIBLE_DEVICES": "4, 6,7"}) == ["6", "4"]
    assert gpu_names([1], {"CUDA_VISIBLE_DEVICES": ",".join(UUIDS)}) == [UUIDS[1]]
    assert gpu_names([0], {"CUDA_VISIBLE_DEVICES": "MIG-11111111-2222"}) == ["MIG-11111111-2222"]


def on_cuda(**changes: object) -> Plan:
    plan = make_plan()
    return plan.model_copy(update={"resolved": plan.resolved.model_copy(update={"device": "cuda", **changes})})


def test_a_study_on_cuda_has_worker_processes_even_for_one_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    one = make(on_cuda(gpus=[1], worker_count=1))
    assert isinstance(one, Workers)
    assert [place.gpu for place in one._places] == ["5"]
    two = make(on_cuda(gpus=[1, 0], worker_count=2))
    assert isinstance(two, Workers)
    assert [place.gpu for place in two._places] == ["5", "2"]


# ---- processes ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.usefixtures("no_cuda_here")
def test_each_worker_sees_its_own_gpu_and_a_gang_those_of_all_its_places(tmp_path: Path) -> None:
    """Two jobs that wait for each other, so that both devices are used at once, then a gang of two, then one more."""
    workers = Workers(2, 1, [Place("7"), Place(UUIDS[1])])
    folder = str(tmp_path)
    jobs = [
        Look(folder, "a", seconds=9, beside=("b",)), Look(folder, "b", seconds=8, beside=("a",)),
        Look(folder, "gang", slots=2, seconds=7), Look(folder, "c", seconds=60),  # too long to fill a gap before it
    ]  # fmt: skip
    try:
        outcomes = list(workers.run(jobs, lambda: None))
    finally:
        workers.close()
    assert [outcome.error for outcome in outcomes] == [None] * 4
    a, b, gang, c = (looked(tmp_path, name) for name in ("a", "b", "gang", "c"))
    for one in (a, b, c):
        assert one["visible"] == one["began_with"] == one["devices"][0], "it stood there before anything was imported"
        assert len(one["devices"]) == 1
    assert {a["visible"], b["visible"]} == {"7", UUIDS[1]}
    assert gang["devices"] == ["7", UUIDS[1]]
    assert gang["visible"] == gang["began_with"] == f"7,{UUIDS[1]}"
    assert gang["at"] >= max(ended(tmp_path, "a"), ended(tmp_path, "b")), "it waited for both devices"
    assert gang["pid"] not in (a["pid"], b["pid"]), "a gang has a process of its own"
    assert c["pid"] not in (a["pid"], b["pid"], gang["pid"]), "and who waited on its devices made room for it"
    assert c["at"] >= ended(tmp_path, "gang")
    assert a["threads"] == 1


@pytest.mark.slow
@pytest.mark.usefixtures("no_cuda_here")
def test_a_worker_that_dies_gives_its_gpu_back(tmp_path: Path) -> None:
    workers = Workers(1, 1, [Place("3")])
    jobs = [Look(str(tmp_path), "x", dies=True), Look(str(tmp_path), "y"), Look(str(tmp_path), "z")]
    try:
        outcomes = {outcome.job.name: outcome for outcome in workers.run(jobs, lambda: None)}  # type: ignore[attr-defined]
    finally:
        workers.close()
    assert "by signal 9" in str(outcomes["x"].error)
    assert outcomes["y"].error is outcomes["z"].error is None
    assert [looked(tmp_path, name)["visible"] for name in "xyz"] == ["3"] * 3
    assert looked(tmp_path, "y")["pid"] == looked(tmp_path, "z")["pid"] != looked(tmp_path, "x")["pid"]


@pytest.mark.slow
def test_workers_of_a_cpu_keep_to_their_cores_and_a_gang_to_those_of_both(tmp_path: Path) -> None:
    """With two cores two one-thread workers on different ones; where this process has one core, both on that."""
    mine = sorted(os.sched_getaffinity(0))
    first, last = mine[0], mine[-1]
    workers = Workers(2, 1, [Place(cores=(first,)), Place(cores=(last,))])
    folder = str(tmp_path)
    jobs = [
        Look(folder, "a", seconds=9, beside=("b",)), Look(folder, "b", seconds=8, beside=("a",)),
        Look(folder, "gang", slots=2, seconds=7),
    ]  # fmt: skip
    try:
        outcomes = list(workers.run(jobs, lambda: None))
    finally:
        workers.close()
    assert [outcome.error for outcome in outcomes] == [None] * 3
    a, b, gang = (looked(tmp_path, name) for name in ("a", "b", "gang"))
    assert sorted([a["cores"], b["cores"]]) == sorted([[first], [last]])
    assert gang["cores"] == sorted({first, last})
    assert gang["devices"] == a["devices"] == []
    assert gang["at"] >= max(ended(tmp_path, "a"), ended(tmp_path, "b"))


@pytest.mark.slow
def test_a_short_job_fills_the_place_that_a_gang_waits_beside(tmp_path: Path) -> None:
    """The gang is next, but has to wait for `long`; `short` is planned to end before that, `later` is not."""
    workers = Workers(2, 1)
    folder = str(tmp_path)
    jobs = [
        Look(folder, "long", seconds=60, beside=("short",)), Look(folder, "gang", slots=2, seconds=50),
        Look(folder, "later", seconds=1000), Look(folder, "short", seconds=1),
    ]  # fmt: skip
    try:
        order = [outcome.job.name for outcome in workers.run(jobs, lambda: None)]  # type: ignore[attr-defined]
    finally:
        workers.close()
    assert set(order[:2]) == {"long", "short"}, "long waits until short is at work"
    assert order[2:] == ["gang", "later"]


@pytest.mark.slow
def test_jobs_at_work_never_take_more_of_the_host_than_there_is(tmp_path: Path) -> None:
    workers = Workers(2, 1, host_bytes=100)
    jobs = [Hungry(str(tmp_path), name) for name in ("p", "q")]
    try:
        assert [outcome.error for outcome in workers.run(jobs, lambda: None)] == [None, None]
    finally:
        workers.close()
    assert looked(tmp_path, "q")["at"] >= ended(tmp_path, "p")


@dataclass(frozen=True)
class Hungry(Look):
    """Takes more than half of the host's memory, and a moment."""

    host_bytes: int = 60

    def run(self, place: WorkPlace) -> None:
        super().run(place)
        time.sleep(0.3)
        (Path(self.folder) / f"{self.name}.end").write_text(str(time.time()))
