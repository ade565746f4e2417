"""What this machine can train, and what would let it train more. Loads no model and asks nobody."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from rankscope.edges.machine import look_at_machine, versions
from rankscope.edges.trackers import tracker_names, tracker_problems
from rankscope.plan.resolve import available_bytes
from rankscope.plan.run_cost import KNOWN_MODELS, memory_parts
from rankscope.records import MachineFacts, ModelFacts
from rankscope.study.methods import Arm
from rankscope.tools.next_command import next_command

TOKENS = 1024
"""A micro-batch of one row of this many tokens, a quarter of them with loss: the least that a study needs."""

_SHARE_WITH_LOSS = 0.25


def _way(method: Literal["full", "lora"]) -> Arm:
    if method == "full":
        return Arm(label="full", method="full", learning_rate="auto")
    return Arm(label="lora-r16", method="lora", rank=16, alpha=32.0, targets="all-linear", learning_rate="auto")


WAYS: tuple[tuple[str, Literal["full", "lora"], bool], ...] = (
    ("full fine-tuning", "full", False),
    ("LoRA, rank 16", "lora", False),
    ("LoRA on a base in 4 bits", "lora", True),
)
"""(name, method, base in NF4): what `examine` looks for the largest model of."""


def examine(folder: Path, machine: MachineFacts | None = None) -> dict[str, Any]:
    """`doctor --json`: {machine, dtype, versions, trainable: [...], fixes: [...], next: {command, why}}.

    `trainable` has for each of WAYS the largest model of the ladder that fits in the memory a plan counts on, with
    gradient checkpointing, and the smallest that does not (None where there is none).
    """
    machine = machine or look_at_machine(folder)
    dtype: Literal["float32", "bfloat16"] = "bfloat16" if machine.bfloat16_is_fast else "float32"
    models = [shape.facts() for shape in KNOWN_MODELS]
    return {
        "machine": machine.model_dump(),
        "dtype": dtype,
        "usable_memory_bytes": available_bytes(machine, machine.device),
        "versions": versions(),
        "trainable": [_largest(way, models, machine, dtype) for way in WAYS],
        "fixes": fixes(machine),
        "next": next_command(folder).as_json(),
    }


def _largest(
    way: tuple[str, Literal["full", "lora"], bool],
    models: Sequence[ModelFacts],
    machine: MachineFacts,
    dtype: Literal["float32", "bfloat16"],
) -> dict[str, Any]:
    name, method, quantized = way
    if quantized and not (machine.device == "cuda" and machine.bitsandbytes):
        reason = "needs a CUDA device" if machine.device != "cuda" else "needs pip install 'rankscope[quant]'"
        return {"way": name, "fits": None, "too_large": None, "reason": reason}
    room = available_bytes(machine, machine.device)
    needs: list[dict[str, Any]] = []
    for facts in models:
        held = facts.model_copy(update={"quantization": "nf4"}) if quantized else facts
        parts = memory_parts(_way(method), held, dtype, TOKENS, _SHARE_WITH_LOSS, machine.device, checkpointing=True)
        needs.append(
            {
                "model": facts.name, "parameters": facts.parameter_count, "memory_bytes": sum(parts.values()),
                "memory_parts_bytes": parts,
            }
        )  # fmt: skip
    fits = [need for need in needs if need["memory_bytes"] <= room]
    rest = [need for need in needs if need["memory_bytes"] > room]
    return {"way": name, "fits": fits[-1] if fits else None, "too_large": rest[0] if rest else None, "reason": None}


def fixes(machine: MachineFacts) -> list[str]:
    """What is missing or slow here, each with what to do about it."""
    found = []
    if machine.device == "cpu" and shutil.which("nvidia-smi"):
        how = "install torch with CUDA (https://pytorch.org/get-started/locally)"
        if torch.version.cuda is not None:
            how = "see whether nvidia-smi works and CUDA_VISIBLE_DEVICES is not empty"
        found.append(f"An NVIDIA driver is here, but torch sees no GPU: {how}.")
    elif machine.device == "cpu":
        found.append("No GPU: models of a billion parameters and more will be slow; the bundled demo is made for it.")
    if not machine.bfloat16_is_fast:
        found.append("bfloat16 is not fast here, so `dtype: auto` is float32: twice the memory for weights.")
    if machine.device == "cuda" and not machine.bitsandbytes:
        found.append("Bases in 4 bits and 8-bit AdamW need a package: pip install 'rankscope[quant]'.")
    limit = _container_memory()
    if limit is not None and limit < machine.memory_bytes:
        found.append(
            f"This container may use {limit / 1e9:.1f} GB of memory, less than the machine's "
            f"{machine.memory_bytes / 1e9:.1f} GB which a plan counts on: raise the limit."
        )
    if machine.disk_free_bytes < 10e9:
        found.append(f"Only {machine.disk_free_bytes / 1e9:.1f} GB of disk are free: write to another --out.")
    if os.environ.get("HF_HUB_OFFLINE") == "1":
        found.append("HF_HUB_OFFLINE is set: models and data sets by hub id must be in the cache already.")
    if importlib.util.find_spec("lm_eval") is None:
        found.append("lm-eval's suites need a package: pip install 'rankscope[harness]'.")
    lacking = [name for name in tracker_names() if tracker_problems([name], "doctor")]
    return found + [f"track: [{name}] needs a package: pip install 'rankscope[{name}]'." for name in lacking]


def _container_memory() -> int | None:
    """The control group's limit; None where there is none, or no control groups (version 2)."""
    path = Path("/sys/fs/cgroup/memory.max")
    text = path.read_text(encoding="ascii").strip() if path.is_file() else "max"
    return int(text) if text.isdigit() else None
