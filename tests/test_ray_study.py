"""A study on a Ray cluster, whatever dies: its tables are those of this machine's own executor."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest
from moto_server import SECRET, Moto, moto_server, wait_for_port
from ray_nodes import node, ray_cluster
from test_array_jobs import run
from test_paper_study import STUDIES, made_hub, tiny_changes
from test_resume import assert_same, tables
from tiny_study import tiny_study

from rankscope.edges.study_folder import StudyFolder
from rankscope.records import Plan, RunStatus
from rankscope.study.read_study import read_study

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
def moto() -> Iterator[Moto]:
    """A server whose credentials this process and all that it starts know."""
    with moto_server() as server, pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        yield server


@pytest.fixture(scope="module")
def cluster(moto: Moto) -> Iterator[Any]:
    """With a server for clients, whose address is in `client`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with ray_cluster(ray_client_server_port=port) as made:
        host = made.head_node.node_ip_address
        wait_for_port(host, port)
        made.client = f"ray://{host}:{port}"
        yield made


def command(
    study: Path, out: Path | str, *more: str, environment: Mapping[str, str] | None = None
) -> subprocess.Popen[str]:
    # A worker has as many threads as the plan says, and sums are rounded by that: one, here and there.
    line = [sys.executable, "-m", "rankscope", "run", str(study), "--out", str(out), *more]
    return subprocess.Popen(
        line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True, env=environment
    )


def on_ray(address: str) -> list[str]:
    return ["--set", "execution.on=ray", "--set", f"execution.address={address}"]


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
    run(study, tmp_path / "local")

    running = command(study, out, *on_ray(cluster.address))
    wait_until(lambda: trains(out), running)
    before = attempts(out)
    for worker in workers():
        worker.kill()
    wait_until(lambda: trains(out, before) and bool(workers()), running)
    before = attempts(out)
    os.killpg(running.pid, signal.SIGKILL)  # the driver
    assert "begun again" in running.communicate()[1]

    stopped = command(study, out, *on_ray(cluster.address))
    wait_until(lambda: trains(out, before) and bool(workers()), stopped)
    before = attempts(out)
    stopped.send_signal(signal.SIGTERM)
    assert "stopped; what is done is kept" in finish(stopped, code=1)

    second = cluster.add_node(**node(num_cpus=4))
    last = command(study, out, *on_ray(cluster.address))
    wait_until(lambda: trains(out, before) and bool(workers()), last)
    cluster.remove_node(second, allow_graceful=False)
    finish(last)
    assert_same(out, tmp_path / "local")


def test_a_ray_of_the_command_s_own_has_a_token_that_is_nowhere_on_the_disk(tmp_path: Path) -> None:
    """The laptop's command of docs/guide-ray.md, in an environment that knows nothing of Ray's tokens."""
    arms = {"lora": {"ranks": [2], "learning_rate": 1e-2}}
    budget = {"epochs": 1, "batch_size": 8, "max_sequence_tokens": 128}
    study, home = tiny_study(tmp_path / "input", arms=arms, seeds=[0], budget=budget, dial=[1]), tmp_path / "home"
    home.mkdir()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {"HOME": str(home), "RAY_worker_niceness": "0", "RAY_memory_monitor_refresh_ms": "0"}
    said = finish(command(study, tmp_path / "out", *on_ray("local"), environment=environment))
    for word in ("gcs_", "uthenticat", "AuthToken", "auth_token"):
        assert word not in said
    assert [one.state for one in statuses(tmp_path / "out")] == ["done"]
    assert not list(home.rglob("*token*"))


def test_the_paper_s_study_in_gangs_beside_one_on_s3(cluster: Any, moto: Moto, tmp_path: Path) -> None:
    """Two commands share a cluster. One is studies/paper.yaml with tiny models and rows, its analysis, and seeds as the
    verdict asks for them, every run in a gang of two processes. The other comes from a laptop: by Ray's client, its
    folder in a bucket. The tables of both are those of this machine alone."""
    moto.bucket("lab")
    words = paper_words(tmp_path)
    stored = tiny_study(tmp_path / "input", **{**SETTINGS, "budget": {**SETTINGS["budget"], "epochs": 3}})
    own_cache = {**os.environ, "RANKSCOPE_CACHE": str(tmp_path / "laptop")}
    begun = [
        command(STUDIES / "paper.yaml", tmp_path / "paper", *words, *on_ray(cluster.address)),
        command(stored, "s3://lab/study", *on_ray(cluster.client), environment=own_cache),
    ]
    run(STUDIES / "paper.yaml", tmp_path / "local", overrides=words[1::2])
    run(stored, tmp_path / "disk")
    said = [finish(process) for process in begun]
    assert_same(tmp_path / "paper", tmp_path / "local")
    found = statuses(tmp_path / "paper")
    assert {one.gang for one in found} == {2}
    assert len(found) >= 3, "three seeds, and more where the verdict asked"
    for table in ("spectra", "hidden", "attention", "neurons"):
        assert len(pd.read_parquet(tmp_path / "paper" / "tables" / f"{table}.parquet")), table

    moto.bucket("lab").get("lab/study", str(tmp_path / "fetched"), recursive=True)
    ours, theirs = tables(tmp_path / "fetched"), tables(tmp_path / "disk")
    assert ours.keys() == theirs.keys()
    for name in ours:
        pd.testing.assert_frame_equal(ours[name], theirs[name], check_exact=True, obj=name)
    assert SECRET not in "".join(said)
    assert not [
        path for path in (tmp_path / "fetched").rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()
    ]


def paper_words(folder: Path) -> list[str]:
    """`--set` and a change, again and again: of the paper's study the full arm, one model, one training set. Every
    process of a gang imports torch, which is most of what they take."""
    model, *changes = tiny_changes(folder, made_hub(folder / "hub"))
    few = [
        "arms={full: {learning_rate: 1e-3}}", "seeds.max=4", "suites.gsm8k.max_new_tokens=4", "analysis.derived=false",
        "analysis.probe_items=5", "execution.shards=2", "execution.arms_together=2",
        "execution.micro_batch_tokens=4096",
    ]  # fmt: skip
    train = {
        "medical": read_study(STUDIES / "paper.yaml", changes)
        .train["medical"]
        .model_dump(mode="json", exclude_defaults=True)
    }
    first = f"model={json.dumps(json.loads(model.partition('=')[2])[:1])}"
    return [word for change in (first, *changes, *few, f"train={json.dumps(train)}") for word in ("--set", change)]
