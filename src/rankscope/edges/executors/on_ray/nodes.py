"""The nodes of a cluster: what each is and has installed, compared before anything is trained, and what a plan may
count on there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rankscope.edges.machine import look_at_machine
from rankscope.edges.study_folder import StudyFolder
from rankscope.records import MachineFacts
from rankscope.records.record_base import parse_record
from rankscope.study.problems import InputProblems, Problem
from rankscope.study.study import Execution

ANSWER_SECONDS = 180.0
"""How long a node may take to answer: a process is started there, and torch is imported."""

COMPARED = ("python", "rankscope", "torch", "transformers", "peft", "tokenizers")
"""Packages whose versions must be the same everywhere: Python's first two numbers, the others before a +."""


@dataclass(frozen=True)
class Node:
    """A node that is alive, with what Ray may give away there."""

    node_id: str
    host: str
    cpus: float
    gpus: float
    memory_bytes: int = 0
    """Of the host, as Ray gives it away; 0 where Ray does not say."""

    def holds(self, cpus: float, gpus: float, memory_bytes: int = 0) -> int:
        """How many runs that take so much find room there."""
        taken = [(self.cpus, cpus), (self.gpus, gpus), (self.memory_bytes, memory_bytes)]
        rooms = [room / part for room, part in taken if part]
        return int(min(rooms, default=0.0) + 1e-9)


def alive_nodes(ray: Any) -> list[Node]:
    """The nodes that are there now."""
    return [
        Node(
            node_id=one["NodeID"],
            host=one.get("NodeManagerHostname") or one.get("NodeManagerAddress") or one["NodeID"][:12],
            cpus=float(one["Resources"].get("CPU", 0.0)),
            gpus=float(one["Resources"].get("GPU", 0.0)),
            memory_bytes=int(one["Resources"].get("memory", 0)),
        )
        for one in ray.nodes()
        if one["Alive"]
    ]


def of_cluster(nodes: Sequence[Node]) -> str:
    """A cluster in words."""
    count = f"{len(nodes)} node{'s' if len(nodes) != 1 else ''}"
    return f"{count}, {sum(n.cpus for n in nodes):g} CPUs, {sum(n.gpus for n in nodes):g} GPUs"


def told_to_go(ray: Any) -> set[str]:
    """Ids of nodes that a cloud or a person told to go. An inner part of Ray's, which its client lacks: where it cannot
    be asked, the node's end is noticed when it has come."""
    try:
        return set(ray._private.state.state.get_draining_nodes())
    except Exception:
        return set()


def grows(ray: Any) -> bool:
    """Whether the cluster starts more nodes where there is work for them."""
    try:
        return ray._private.state.state.get_cluster_config() is not None
    except Exception:  # as above
        return False


def check_settings(execution: Execution, study: str) -> None:
    """Raises InputProblems for settings of the local executor, which would change the plan and nothing else."""
    gpus = execution.gpus if execution.gpus == "auto" else list(execution.gpus)
    expected = "auto: Ray gives runs their GPUs and cores (`gpus_per_run`)"
    problems = [
        Problem(study, f"execution.{name}", f"{name}: {value} with on: ray", expected)
        for name, value in (("gpus", gpus), ("workers", execution.workers))
        if value != "auto"
    ]
    if problems:
        raise InputProblems(problems)


# ---- versions --------------------------------------------------------------------------------------------------------


def check_versions(ray: Any, nodes: Sequence[Node], study: str) -> None:
    """Ask every node what is installed there. Raises InputProblems for what differs from here, a line a node."""
    installed = _installed_asker()
    ours = {name: _comparable(name, version) for name, version in installed().items()}
    answers = _ask(ray, nodes, installed, study)
    problems = []
    for node, theirs in zip(nodes, answers, strict=True):
        wrong = [name for name in COMPARED if ours.get(name) != _comparable(name, theirs.get(name))]
        if wrong:
            found = ", ".join(f"{name} {theirs.get(name) or 'not installed'}" for name in wrong)
            expected = ", ".join(f"{name} {ours.get(name)}" for name in wrong)
            problems.append(Problem(study, f"the node {node.host}", found, f"{expected}, as here"))
    if problems:
        raise InputProblems(problems)


def _comparable(name: str, version: str | None) -> str | None:
    if version is None:
        return None
    return ".".join(version.split(".")[:2]) if name == "python" else version.partition("+")[0]


def _installed_asker() -> Any:
    """A function that runs where rankscope may be missing: it is sent by value, and names nothing of this file."""
    names = COMPARED

    def installed() -> dict[str, str | None]:
        import importlib
        import platform
        from importlib import metadata

        found: dict[str, str | None] = {"python": platform.python_version()}
        for name in names[1:]:
            try:
                found[name] = metadata.version(name)
            except metadata.PackageNotFoundError:
                found[name] = None
        try:
            found["rankscope"] = importlib.import_module("rankscope").__version__
        except ImportError:
            found["rankscope"] = None
        return found

    return installed


# ---- what a plan may count on ----------------------------------------------------------------------------------------


def machine_of(ray: Any, nodes: Sequence[Node], folder: Path, study: str, *, gpus: bool = True) -> MachineFacts:
    """The least of what the nodes have, one of each kind looked at; of GPUs the most that a node has, for gangs. Of
    such nodes there are as many as the GPUs of the cluster make, or its cores where none has a GPU.

    `gpus`: whether runs take any; else nodes are looked at as if they had none.
    """
    kinds = {(node.cpus, node.gpus): node for node in reversed(nodes)}
    here = _own_node(ray) if gpus else ""
    looked = [node for node in kinds.values() if node.node_id != here]
    found = _ask(ray, looked, look_from_outside, study, gpus)
    answers = dict(zip((node.node_id for node in looked), found, strict=True))
    facts = []
    for node in kinds.values():
        told = answers.get(node.node_id)
        one = look_at_machine(folder) if told is None else parse_record(MachineFacts, told.encode(), node.host)
        update: dict[str, Any] = {"core_count": max(1, int(node.cpus))}
        if one.device == "cuda":
            update["device_count"] = max(1, min(one.device_count, int(node.gpus)))
        facts.append(one.model_copy(update=update))
    least = min(facts, key=lambda one: (one.device_memory_bytes, one.memory_bytes))
    update = {
        name: min(getattr(one, name) for one in facts) for name in ("core_count", "memory_bytes", "disk_free_bytes")
    }
    update["device_count"] = max(one.device_count for one in facts)
    if least.device == "cuda":
        alike = sum(int(node.gpus) for node in nodes) // update["device_count"]
    else:
        alike = sum(max(1, int(node.cpus) // update["core_count"]) for node in nodes)
    return least.model_copy(update={**update, "node_count": max(1, alike)})


def look_from_outside(gpus: bool) -> str:
    """What this node is, as JSON, found in a process of its own that sees all of its GPUs, or none.

    What Ray lets a task without GPUs see depends on Ray's version and environment.
    """
    code = "from pathlib import Path; from rankscope.edges.machine import look_at_machine as look; "
    code += "print(look(Path.cwd()).model_dump_json())"
    environment = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    if not gpus:
        environment["CUDA_VISIBLE_DEVICES"] = ""
    environment["PYTHONPATH"] = os.pathsep.join(one for one in sys.path if one)
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    return str(json.dumps(json.loads(done.stdout.strip().splitlines()[-1])))


def _own_node(ray: Any) -> str:
    """The node on which this process is; empty where it is outside the cluster."""
    if ray.util.client.ray.is_connected():
        return ""
    return str(ray.get_runtime_context().get_node_id())


# ---- the study's folder ----------------------------------------------------------------------------------------------


def check_folder(ray: Any, nodes: Sequence[Node], url: str, study: str) -> None:
    """Raises InputProblems for nodes that do not see the study at its path or URL."""
    answers = _ask(ray, nodes, why_unseen, study, url)
    expected = "a path that every node sees (a shared file system), or s3://..."
    problems = [
        Problem(study, f"the node {node.host}", f"{url}: {why}", expected)
        for node, why in zip(nodes, answers, strict=True)
        if why
    ]
    if problems:
        raise InputProblems(problems)


def why_unseen(url: str) -> str:
    """Why the study at `url` cannot be worked on from here; empty where it can."""
    try:
        folder = StudyFolder.open(url)
        if folder.read_marker() is None or folder.read_plan() is None:
            return "no study there"
    except InputProblems as error:
        return "; ".join(problem.found for problem in error.problems)
    except OSError as error:
        return error.strerror or type(error).__name__
    return ""


def _ask(ray: Any, nodes: Sequence[Node], function: Any, study: str, *arguments: Any) -> list[Any]:
    """What `function` gives on each node. Raises InputProblems for nodes that do not answer."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    refs = []
    for node in nodes:
        there = NodeAffinitySchedulingStrategy(node_id=node.node_id, soft=False)
        task = ray.remote(num_cpus=0, max_retries=1, max_calls=1)(function)
        refs.append(task.options(scheduling_strategy=there).remote(*arguments))
    answers, problems = [], []
    for node, ref in zip(nodes, refs, strict=True):
        try:
            answers.append(ray.get(ref, timeout=ANSWER_SECONDS))
        except Exception as error:  # whatever a node's Python, disk or network does
            why = " ".join(str(error).split()).removeprefix("ray::")[-300:]
            problems.append(Problem(study, f"the node {node.host}", f"no answer ({why})", "a node that runs tasks"))
    if problems:
        raise InputProblems(problems)
    return answers
