"""What is asked of a cluster's nodes, without a cluster."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from made_facts import STUDY, planned_on_gpus

from rankscope.edges.executors.on_ray import nodes as nodes_of_ray
from rankscope.edges.executors.on_ray.connection import connect
from rankscope.edges.executors.on_ray.nodes import Node, check_settings, look_from_outside, machine_of, of_cluster
from rankscope.edges.executors.on_ray.workers import Needs
from rankscope.edges.executors.ray_cluster import OnRay, usable_nodes
from rankscope.edges.machine import look_at_machine
from rankscope.study.problems import InputProblems
from rankscope.study.study import Execution, Study

HEAD, BIG, SMALL = Node("a", "head", 0, 0), Node("b", "big", 64, 8), Node("c", "small", 16, 0)


def test_runs_go_where_gpus_are_unless_none_are_asked_for() -> None:
    assert usable_nodes([HEAD, BIG, SMALL], Execution(on="ray"), "s") == [BIG]
    assert usable_nodes([HEAD, SMALL], Execution(on="ray"), "s") == [SMALL]
    assert usable_nodes([HEAD, BIG, SMALL], Execution(on="ray", gpus_per_run=0), "s") == [BIG, SMALL]
    with pytest.raises(InputProblems, match=r"s: execution.gpus_per_run: found a cluster of 2 nodes, 16 CPUs, 0 GPUs"):
        usable_nodes([HEAD, SMALL], Execution(on="ray", gpus_per_run=1), "s")
    with pytest.raises(InputProblems, match="expected a node with a CPU"):
        usable_nodes([HEAD], Execution(on="ray"), "s")


def test_room_of_a_node() -> None:
    assert BIG.holds(1, 1) == 8
    assert BIG.holds(16, 1) == 4
    assert BIG.holds(0.5, 0.5) == 16
    assert BIG.holds(8, 16) == 0
    assert SMALL.holds(3, 0) == 5
    roomy = replace(BIG, memory_bytes=800)
    assert [roomy.holds(1, 1, memory) for memory in (0, 100, 150, 801)] == [8, 8, 5, 0]
    assert BIG.holds(1, 1, 100) == 0, "what Ray does not give away"
    assert of_cluster([BIG]) == "1 node, 64 CPUs, 8 GPUs"


def test_without_the_package_a_line_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputProblems, match=r"s: execution.on: found no package for ray, .*'rankscope\[ray\]'"):
        connect(Execution(on="ray"), "s")


def test_a_node_without_gpus_for_runs_is_looked_at_as_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str | None] = []

    def run(*_: object, env: dict[str, str], **__: object) -> object:
        seen.append(env.get("CUDA_VISIBLE_DEVICES"))
        return type("Done", (), {"stdout": "noise\n" + json.dumps({"device": "cpu"})})()

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    monkeypatch.setattr("rankscope.edges.executors.on_ray.nodes.subprocess.run", run)
    assert [json.loads(look_from_outside(gpus)) for gpus in (True, False)] == [{"device": "cpu"}] * 2
    assert seen == [None, ""], "all of the node's, or none: never those of the task that asks"


def test_settings_of_the_local_executor_are_refused() -> None:
    with pytest.raises(InputProblems) as caught:
        check_settings(Execution(on="ray", gpus=(5, 0), workers=2), "trees")
    lines = [str(problem) for problem in caught.value.problems]
    assert [line.split(", expected")[0] for line in lines] == [
        "trees: execution.gpus: found gpus: [5, 0] with on: ray",
        "trees: execution.workers: found workers: 2 with on: ray",
    ]
    check_settings(Execution(on="ray"), "trees")


# ---- several nodes, and their memory ---------------------------------------------------------------------------------

GIB = 2**30


@pytest.mark.parametrize(
    ("nodes", "device", "each", "count"),
    [
        ([replace(BIG, node_id=str(i)) for i in range(3)], "cuda", 8, 3),
        ([BIG, Node("x", "half", 64, 4), Node("y", "half", 64, 4)], "cuda", 8, 2),
        ([replace(SMALL, node_id=str(i)) for i in range(4)], "cpu", 1, 4),
        ([SMALL, Node("x", "twice", 32, 0)], "cpu", 1, 3),
    ],
)
def test_a_plan_counts_on_as_many_nodes_as_there_are(
    nodes: list[Node], device: str, each: int, count: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen = look_at_machine(tmp_path, measure=False).model_copy(update={"device": device, "device_count": 8})
    monkeypatch.setattr(nodes_of_ray, "_own_node", lambda _: "")
    monkeypatch.setattr(nodes_of_ray, "_ask", lambda _, asked, *__: [seen.model_dump_json() for _ in asked])
    machine = machine_of(None, nodes, tmp_path, "s")
    assert machine.node_count == count
    assert machine.core_count == min(int(node.cpus) for node in nodes)
    assert device == "cpu" or machine.device_count == each


@dataclass(frozen=True)
class Large:
    host_bytes: int
    slots: int = 1


def on_ray(monkeypatch: pytest.MonkeyPatch, read: Callable[..., Study], *nodes: Node) -> OnRay:
    """The executor on a cluster of these nodes, of which nobody asks anything else."""
    module = "rankscope.edges.executors.ray_cluster"
    monkeypatch.setattr(f"{module}.alive_nodes", lambda _: list(nodes))
    monkeypatch.setattr(f"{module}.Workers", lambda *_: SimpleNamespace())
    monkeypatch.setattr(f"{module}.grows", lambda _: False)
    study = read(STUDY, "execution.on=ray")
    return OnRay(None, planned_on_gpus(study), study.execution)


def test_a_job_asks_for_the_memory_that_the_plan_says(
    monkeypatch: pytest.MonkeyPatch, read: Callable[..., Study]
) -> None:
    """In whole GiB, and never for more than a node gives away."""
    executor = on_ray(
        monkeypatch, read, HEAD, replace(BIG, memory_bytes=500 * GIB), replace(SMALL, memory_bytes=900 * GIB)
    )
    asked = [executor._needs(Large(size)) for size in (0, 3 * GIB // 2, 600 * GIB)]
    assert asked == [Needs(1, 1, 1, size * GIB) for size in (0, 2, 500)]
    assert asked[1].resources() == {"CPU": 1, "GPU": 1, "memory": 2 * GIB}
    assert executor._needs(Large(GIB, slots=4)) == Needs(4, 4, 4, GIB)
    silent = on_ray(monkeypatch, read, BIG)
    assert silent._needs(Large(3 * GIB)) == Needs(1, 1, 1, 0), "Ray does not say what the node has"


def test_a_worker_serves_jobs_that_need_no_more_memory_and_not_much_less() -> None:
    worker = Needs(1, 1, 1, 20 * GIB)
    served = {size: worker.serves(Needs(1, 1, 1, size * GIB)) for size in (0, 7, 8, 20, 21)}
    assert served == {0: False, 7: False, 8: True, 20: True, 21: False}
    assert not worker.serves(Needs(2, 2, 2, 20 * GIB))
