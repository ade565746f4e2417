"""Jobs on a Ray cluster of this machine: each outcome its own, whatever happens to a worker or a node; stops; gangs."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from ray_nodes import node, ray_cluster
from stub_jobs import Stub

from rankscope.edges import machine
from rankscope.edges.executors import JobOutcome
from rankscope.edges.executors.on_ray import nodes
from rankscope.edges.executors.on_ray.connection import connect, disconnect
from rankscope.edges.executors.ray_cluster import OnRay
from rankscope.records import Resolved
from rankscope.study.problems import InputProblems
from rankscope.study.study import Execution

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """One node of two CPUs and two GPUs, which this machine need not have: Ray only counts them."""
    with ray_cluster(num_gpus=2) as made:
        yield made


Make = Callable[..., OnRay]


@pytest.fixture
def on_ray(cluster: Any) -> Iterator[Make]:
    made: list[OnRay] = []

    def make(**settings: Any) -> OnRay:
        execution = Execution(on="ray", address=cluster.address, **{"gpus_per_run": 0, **settings})
        resolved = Resolved(
            dtype="float32", device="cpu", worker_count=2, thread_count=1, micro_batch_tokens=64
        )  # fmt: skip
        plan: Any = SimpleNamespace(study="stubs", resolved=resolved)
        made.append(OnRay(connect(execution, "stubs"), plan, execution))
        return made[-1]

    yield make
    for executor in made:
        executor.close()


def run(executor: OnRay, jobs: list[Stub], idle: Callable[[], None] = lambda: None) -> dict[str, JobOutcome]:
    return {outcome.job.name: outcome for outcome in executor.run(jobs, idle)}  # type: ignore[attr-defined]


def lines(notes: Path, name: str) -> list[list[str]]:
    path = notes / name
    return [line.split(" ") for line in path.read_text().splitlines()] if path.exists() else []


def once(happened: Callable[[], bool], then: Callable[[], object]) -> Callable[[], None]:
    """Does something when something has happened, and never again."""
    done: list[bool] = []

    def idle() -> None:
        if not done and happened():
            done.append(True)
            then()

    return idle


def test_outcomes_deaths_and_workers_that_stay(on_ray: Make, tmp_path: Path) -> None:
    notes = str(tmp_path)
    executor = on_ray(retries=1)
    jobs = [
        Stub(notes, "a"), Stub(notes, "fails", "fail"), Stub(notes, "dies-once", "die"),
        Stub(notes, "dies", "die", times=9), Stub(notes, "b"),
    ]  # fmt: skip
    outcomes = run(executor, jobs)
    assert set(outcomes) == {job.name for job in jobs}
    assert all(outcome.elsewhere for outcome in outcomes.values())
    assert outcomes["fails"].error == "ValueError: no luck with fails"
    assert "Traceback" in outcomes["fails"].details
    assert len(lines(tmp_path, "fails.begun")) == 1, "a job that fails by itself is not begun again"
    assert outcomes["dies-once"].error is None
    assert len(lines(tmp_path, "dies-once.begun")) == 2
    assert "died" in str(outcomes["dies"].error)
    assert "2 times" in str(outcomes["dies"].error)
    assert len(lines(tmp_path, "dies.begun")) == 2
    assert outcomes["a"].error is outcomes["b"].error is None

    again = [Stub(notes, f"again{i}") for i in range(6)]
    assert all(outcome.error is None for outcome in run(executor, again).values())
    workers = {lines(tmp_path, job.name)[0][0] for job in again}
    assert len(workers) <= 2, "a worker stays for many jobs"
    for pid in workers:  # idle workers that die cost no job anything
        psutil.Process(int(pid)).kill()
    last = run(executor, [Stub(notes, "c")])
    assert last["c"].error is None


def test_a_stop_lets_jobs_save_and_leaves_the_rest(
    on_ray: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor = on_ray()
    jobs = [Stub(str(tmp_path), name, "hold") for name in ("x", "y", "z")]
    both = once(lambda: all((tmp_path / f"{name}.begun").exists() for name in "xy"), machine._STOP.set)
    try:
        outcomes = run(executor, jobs, both)
    finally:
        machine._STOP.clear()
    assert {name: outcome.error for name, outcome in outcomes.items()} == {"x": None, "y": None}
    assert [lines(tmp_path, name)[0][2] for name in "xy"] == ["stopped", "stopped"]
    assert not (tmp_path / "z.begun").exists()


def test_a_gang_holds_the_gpus_of_one_node(on_ray: Make, tmp_path: Path) -> None:
    executor = on_ray(gpus_per_run="auto")
    executor._plan.resolved = executor._plan.resolved.model_copy(update={"device": "cuda"})
    jobs = [Stub(str(tmp_path), "single"), Stub(str(tmp_path), "pair", slots=2), Stub(str(tmp_path), "after")]
    assert all(outcome.error is None for outcome in run(executor, jobs).values())
    assert sorted(lines(tmp_path, "pair")[0][1].split(",")) == ["0", "1"]
    assert lines(tmp_path, "single")[0][1] in ("0", "1")
    with pytest.raises(InputProblems, match=r"4 GPUs of one node, on a cluster of 1 node.*expected at most 2 GPUs"):
        run(executor, [Stub(str(tmp_path), "four", slots=4)])


def test_a_node_that_vanishes_and_one_that_is_told_to_go(cluster: Any, on_ray: Make, tmp_path: Path) -> None:
    """A job goes on elsewhere; the loss of its node is none of its own deaths (`retries: 0`)."""
    leaving = cluster.add_node(**node(num_cpus=8))
    executor = on_ray(retries=0)
    executor._plan.resolved = executor._plan.resolved.model_copy(update={"thread_count": 8})
    job = Stub(str(tmp_path), "x", "hold")
    began = tmp_path / "x.begun"

    def second_place() -> None:
        cluster.add_node(**node(num_cpus=8))
        cluster.remove_node(leaving, allow_graceful=False)

    def finish() -> bool:
        if len(lines(tmp_path, "x.begun")) == 2:
            (tmp_path / "x.go").touch()
        return False

    first, then = once(began.exists, second_place), once(finish, lambda: None)
    outcomes = run(executor, [job], lambda: (first(), then(), None)[-1])
    assert outcomes["x"].error is None
    begun = {line[0] for line in lines(tmp_path, "x.begun")}
    assert len(begun) == 2
    assert not any(psutil.pid_exists(int(pid)) for pid in begun - {lines(tmp_path, "x")[0][0]})

    import ray
    from ray._raylet import GcsClient
    from ray.core.generated import autoscaler_pb2

    told = next(one for one in nodes.alive_nodes(ray) if one.cpus == 8)
    going = Stub(str(tmp_path), "y", "hold")

    def drain() -> None:
        cluster.add_node(**node(num_cpus=8))
        why = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
        until = int((time.time() + 300) * 1000)
        accepted = GcsClient(address=cluster.address).drain_node(told.node_id, why, "a spot machine", until)
        assert accepted[0], accepted

    def go_on() -> bool:
        if len(lines(tmp_path, "y.begun")) == 2:
            (tmp_path / "y.go").touch()
        return False

    first, then = once((tmp_path / "y.begun").exists, drain), once(go_on, lambda: None)
    outcomes = run(executor, [going], lambda: (first(), then(), None)[-1])
    assert outcomes["y"].error is None
    assert [line[2] for line in lines(tmp_path, "y")] == ["stopped", "done"], "it saved its state before its node went"


# ---- what cannot be used ---------------------------------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def said(address: str) -> str:
    with pytest.raises(InputProblems) as told:
        connect(Execution(on="ray", address=address), "mine")
    assert len(told.value.problems) == 1
    return str(told.value)


def test_no_cluster_at_an_address(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    disconnect()
    assert "no cluster at 127.0.0.1:" in said(f"127.0.0.1:{free_port()}")
    assert "no cluster at ray://127.0.0.1:" in said(f"ray://127.0.0.1:{free_port()}")
    assert "expected auto, local, HOST:PORT" in said("nonsense")
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{free_port()}")
    assert "(connection refused), expected a running cluster: `ray start --head`" in said("auto")


@pytest.mark.parametrize("words", ["Proxy failed to Connect to backend!", "Starting Ray client server failed. See x."])
@pytest.mark.parametrize("failures", [2, 3])
def test_a_head_node_that_is_too_busy_for_a_client_is_asked_again(
    monkeypatch: pytest.MonkeyPatch, failures: int, words: str
) -> None:
    import ray

    disconnect()
    asked: list[str] = []

    def init(address: str, **options: Any) -> None:
        asked.append(address)
        if len(asked) <= failures:
            raise ConnectionAbortedError(f"Initialization failure from server: {words}")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"ray://127.0.0.1:{listening.getsockname()[1]}"
        if failures == 3:
            assert f"found a cluster at {address} whose head node did not start a server" in said(address)
        else:
            assert connect(Execution(on="ray", address=address), "mine") is ray
            disconnect()
    assert asked == [address] * 3


def test_nodes_with_other_versions_or_without_the_study(
    cluster: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ray = connect(Execution(on="ray", address=cluster.address), "mine")
    try:
        found = nodes.alive_nodes(ray)
        nodes.check_versions(ray, found, "mine")
        with pytest.raises(InputProblems) as told:
            nodes.check_folder(ray, found, str(tmp_path / "nowhere"), "mine")
        assert len(told.value.problems) == len(found)
        assert "nowhere: no study there, expected a path that every node sees" in str(told.value)
        monkeypatch.setattr("rankscope.__version__", "9.9")
        with pytest.raises(
            InputProblems, match=r"the node .*: found rankscope [\d.]+, expected rankscope 9.9, as here"
        ):
            nodes.check_versions(ray, found, "mine")
        with pytest.raises(InputProblems, match=r"the node .*: found no answer"):
            nodes._ask(ray, found[:1], lambda: 1 / 0, "mine")
    finally:
        disconnect()
