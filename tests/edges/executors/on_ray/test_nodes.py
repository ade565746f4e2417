"""What is asked of a cluster's nodes, without a cluster."""

from __future__ import annotations

import json
import sys

import pytest

from rankscope.edges.executors.on_ray.connection import connect
from rankscope.edges.executors.on_ray.nodes import Node, check_settings, look_from_outside, of_cluster
from rankscope.edges.executors.ray_cluster import usable_nodes
from rankscope.study.problems import InputProblems
from rankscope.study.study import Execution

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
