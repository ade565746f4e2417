"""How a machine is shared out among workers: which GPUs, how many workers, and the threads of each. Pure arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rankscope.plan.gang_choice import most_shards
from rankscope.records import MachineFacts, Resolved
from rankscope.records.machine_facts import Device
from rankscope.study.problems import Problem
from rankscope.study.study import Execution


def device_of(execution: Execution, machine: MachineFacts, previous: Resolved | None = None) -> Device:
    """Where a study works on this machine: where an earlier plan began it, else as it asks."""
    if previous is not None:
        return previous.device
    return "mps" if execution.device == "mps" and machine.mps else machine.device


def place_problems(execution: Execution, device: Device, machine: MachineFacts, file: str) -> list[Problem]:
    """What a study that runs on `device` asks of a machine's GPUs, cores and shards that it has not; a line each."""
    found = [*_gpu_problems(execution, device, machine, file), *_shard_problems(execution, machine, file)]
    if execution.workers != "auto" and device != "cpu":
        wanted = f"workers: {execution.workers} on a machine with {_gpus(machine.device_count)}"
        found.append(Problem(file, "execution.workers", wanted, "auto: one on each GPU, or on each of `gpus`"))
    if execution.device == "mps" and not machine.mps:
        wanted = f"device: mps on a machine without Apple's GPU ({machine.device_name})"
        found.append(Problem(file, "execution.device", wanted, "auto, or a Mac whose GPU torch can use"))
    return found


def _gpu_problems(execution: Execution, device: Device, machine: MachineFacts, file: str) -> list[Problem]:
    if execution.gpus == "auto":
        return []
    if device != "cuda" or machine.device != "cuda":
        why = f"on a machine without a GPU ({machine.device_name})"
        if machine.device == "cuda":
            why = "in a study that was begun on a CPU"
        found = f"gpus: {list(execution.gpus)} {why}"
        return [Problem(file, "execution.gpus", found, "auto, or a machine with GPUs that torch can use")]
    unknown = [gpu for gpu in execution.gpus if gpu >= machine.device_count]
    numbers = f"numbers from 0 to {machine.device_count - 1}" if machine.device_count > 1 else "auto, or [0]"
    found = f"GPU {', '.join(map(str, unknown))} on a machine with {_gpus(machine.device_count)}"
    return [Problem(file, "execution.gpus", found, numbers)] if unknown else []


def _shard_problems(execution: Execution, machine: MachineFacts, file: str) -> list[Problem]:
    """Two processes on one GPU would take its memory twice; on a CPU they only take turns."""
    device = device_of(execution, machine)
    count = most_shards(machine, device)
    if execution.gpus != "auto":
        count, where = len(execution.gpus), f"with gpus: {list(execution.gpus)}"
    elif device == "mps":
        where = "with device: mps"
    elif machine.device == "cuda":
        where = f"on a machine with {_gpus(count)}"
    else:
        where = f"on a machine with {machine.core_count} core{'s' if machine.core_count != 1 else ''}"
    most = 2 ** (count.bit_length() - 1)
    expected = "auto or 1" if most == 1 else f"auto, or a power of two up to {most}"
    asked = {"shards": execution.shards, "scoring_shards": execution.scoring_shards}
    return [
        Problem(file, f"execution.{name}", f"{name}: {shards} {where}", expected)
        for name, shards in asked.items()
        if shards != "auto" and shards > count
    ]


def _gpus(count: int) -> str:
    return f"{count} GPU{'s' if count != 1 else ''}"


def chosen_gpus(execution: Execution, machine: MachineFacts) -> list[int]:
    """The GPUs that are used, as torch counts them; none on a CPU."""
    if machine.device != "cuda":
        return []
    return list(range(machine.device_count)) if execution.gpus == "auto" else list(execution.gpus)


def narrowed(machine: MachineFacts, execution: Execution) -> MachineFacts:
    """The machine with the study's GPUs alone, each taken to have the memory of the smallest of them; with a Mac's GPU
    where the study asks for it, in fp32, at a speed that nobody measured."""
    if device_of(execution, machine) == "mps":
        own = {"device": "mps", "bfloat16_is_fast": False, "flops_per_second": None, "flops_per_second_float32": None}
        return machine.model_copy(update=own)
    gpus = chosen_gpus(execution, machine)
    if not gpus:
        return machine
    known = [machine.device_memories_bytes[gpu] for gpu in gpus if gpu < len(machine.device_memories_bytes)]
    memory = min(known, default=machine.device_memory_bytes)
    return machine.model_copy(update={"device_count": len(gpus), "device_memory_bytes": memory})


def workers_kept(previous: Resolved, execution: Execution, machine: MachineFacts) -> dict[str, Any]:
    """What of an earlier plan's workers is as this machine and the study have it now, of `Resolved`.

    Which GPU a job ran on decides nothing, so these are chosen anew. On a CPU the number of threads rounds sums
    otherwise: it stays, unless the study gives another number of workers.
    """
    if previous.device == "cuda":
        return on_gpus(execution, machine)
    if previous.device == "mps":
        return {}
    if execution.workers in ("auto", previous.worker_count):
        nodes = machine.node_count
        return {"node_count": nodes, "worker_count": previous.workers_a_node * nodes}
    return on_cores(execution, machine, 1, [], 0)


def on_gpus(execution: Execution, machine: MachineFacts) -> dict[str, Any]:
    """One worker on each GPU, the host's cores shared out among them; the same on every node."""
    gpus = chosen_gpus(execution, machine)
    count, nodes = max(1, len(gpus)), machine.node_count
    threads = max(1, machine.core_count // count)
    return {"gpus": gpus, "node_count": nodes, "worker_count": count * nodes, "thread_count": threads}


def on_cores(
    execution: Execution, machine: MachineFacts, run_count: int, needs_bytes: Sequence[int], usable_bytes: int
) -> dict[str, Any]:
    """What the study gives, else one worker a core, as many as there are runs and the memory holds of the largest
    (`needs_bytes`: of each that fits), the cores shared out among them; the same on every node."""
    largest = max(1, *needs_bytes) if needs_bytes else max(1, usable_bytes)
    fitting = max(1, min(machine.core_count, run_count, usable_bytes // largest))
    count = fitting if execution.workers == "auto" else execution.workers
    nodes, threads = machine.node_count, max(1, machine.core_count // count)
    return {"node_count": nodes, "worker_count": count * nodes, "thread_count": threads}
