"""A study on a Ray cluster, whatever dies: its tables are those of this machine's own executor."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from ray_nodes import node, ray_cluster
from test_resume import assert_same
from tiny_study import tiny_study

from rankscope.edges.study_folder import StudyFolder
from rankscope.records import Plan, RunStatus

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

SETTINGS: dict[str, Any] = {
    "arms": {"full": {"learning_rate": 1e-3}, "lora": {"ranks": [2, 4], "learning_rate": 1e-2}},
    "seeds": [0],
    "budget": {"epochs": 30, "batch_size": 8, "max_sequence_tokens": 128},
    "checkpoint": {"minutes": 0.002},
    "execution": {"arms_together": 2, "micro_batch_tokens": 4096},
    "dial": [0.5, 1],
    "selection": {"min_items": 8},
}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    with ray_cluster() as made:
        yield made


def command(study: Path, out: Path, *more: str) -> subprocess.Popen[str]:
    # A worker has as many threads as the plan says, and sums are rounded by that: one, here and there.
    line = [sys.executable, "-m", "rankscope", "run", str(study), "--out", str(out), *more]
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def on_ray(cluster: Any) -> list[str]:
    return ["--set", "execution.on=ray", "--set", f"execution.address={cluster.address}"]


def finish(process: subprocess.Popen[str], code: int = 0) -> str:
    output, errors = process.communicate(timeout=900)
    assert process.returncode == code, output + errors
    assert "Traceback" not in errors
    return errors


def statuses(out: Path) -> list[RunStatus]:
    """Of the runs that were begun."""
    folder = StudyFolder.open(out)
    plan: Plan | None = folder.read_plan() if folder.read_marker() is not None else None
    found = [folder.read_status(run.run_id) for run in plan.runs] if plan else []
    return [status for status in found if status is not None]


def attempts(out: Path) -> int:
    """The highest attempt of any run: whoever begins one again counts it up."""
    return max((status.attempt for status in statuses(out)), default=0)


def trains(out: Path, after: int = 0) -> bool:
    """Whether a run is in the middle of its training, begun after that many attempts."""
    return any(one.state == "running" and one.steps_done > 2 and one.attempt > after for one in statuses(out))


def wait_until(happens: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    while not happens():
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)


def workers() -> list[psutil.Process]:
    """Processes of this machine that run jobs of a cluster."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        with suppress(psutil.Error):
            if "ray::Place.perform" in " ".join(process.info["cmdline"] or []):
                found.append(process)
    return found


def test_killed_in_every_way_the_tables_are_those_of_one_machine(cluster: Any, tmp_path: Path) -> None:
    study, out = tiny_study(tmp_path / "input", **SETTINGS), tmp_path / "out"
    finish(command(study, tmp_path / "local"))

    running = command(study, out, *on_ray(cluster))
    wait_until(lambda: trains(out), running)
    before = attempts(out)
    for worker in workers():
        worker.kill()
    wait_until(lambda: trains(out, before) and bool(workers()), running)
    before = attempts(out)
    os.killpg(running.pid, signal.SIGKILL)  # the driver
    assert "begun again" in running.communicate()[1]

    stopped = command(study, out, *on_ray(cluster))
    wait_until(lambda: trains(out, before) and bool(workers()), stopped)
    before = attempts(out)
    stopped.send_signal(signal.SIGTERM)
    assert "stopped; what is done is kept" in finish(stopped, code=1)

    second = cluster.add_node(**node(num_cpus=4))
    last = command(study, out, *on_ray(cluster))
    wait_until(lambda: trains(out, before) and bool(workers()), last)
    cluster.remove_node(second, allow_graceful=False)
    finish(last)
    assert_same(out, tmp_path / "local")


def test_sharded_runs_and_two_studies_at_once(cluster: Any, tmp_path: Path) -> None:
    """Full arms of two processes each equal those of the local executor; two commands share a cluster."""
    sharded = {**SETTINGS, "budget": {"epochs": 3, "batch_size": 8, "max_sequence_tokens": 128}}
    sharded["execution"] = {**SETTINGS["execution"], "shards": 2}
    study = tiny_study(tmp_path / "input", **sharded)
    finish(command(study, tmp_path / "local"))
    both = [command(study, tmp_path / name, *on_ray(cluster)) for name in ("one", "two")]
    for process in both:
        finish(process)
    for name in ("one", "two"):
        assert_same(tmp_path / name, tmp_path / "local")
        assert {one.gang for one in statuses(tmp_path / name) if one.run_id.startswith("full")} == {2}
