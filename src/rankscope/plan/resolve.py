"""Decides once what a study leaves open on this machine: dtype, workers, threads, tokens of a micro-batch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from rankscope.plan.run_cost import memory_parts
from rankscope.records import MachineFacts, ModelFacts, Resolved, TrainFacts
from rankscope.study.problems import InputProblems, Problem
from rankscope.study.study import Arm, ModelSpec, Study

Dtype = Literal["float32", "bfloat16"]

USABLE_MEMORY = 0.9
"""Share of the memory that the plan may count on: the rest is the system's and the allocator's."""

_MICRO_BATCH_TOKENS = {"cpu": 4096, "cuda": 16384}
_LEAST_MICRO_BATCH_TOKENS = 256


def dtype_of(spec: ModelSpec, resolved: Resolved) -> Dtype:
    """The dtype in which this model is loaded: its own where the study gives it, else the study's."""
    return resolved.dtype if spec.dtype == "auto" else spec.dtype


def available_bytes(machine: MachineFacts, device: Literal["cpu", "cuda"]) -> int:
    """Memory that all workers on the device may use together."""
    total = machine.device_memory_bytes if device == "cuda" else machine.memory_bytes
    return int(total * USABLE_MEMORY)


def resolve(
    study: Study,
    arms: Sequence[Arm],
    models: Sequence[ModelFacts],
    train_sets: dict[str, list[TrainFacts]],
    machine: MachineFacts,
    previous: Resolved | None,
    file: str,
) -> Resolved:
    """The study's own choices first, then what an earlier plan decided, then what suits the machine.

    On CUDA one worker. On CPU one worker for each core as far as memory and the number of runs allow, the cores shared
    out among them. The micro-batch is the largest power of two that leaves every arm room, where one does.
    Raises InputProblems where an earlier plan was made for a device that this machine lacks.
    """
    given = {spec.dtype for spec in study.models}
    explicit = given.pop() if len(given) == 1 else "auto"
    if previous is not None:
        if previous.device == "cuda" and machine.device != "cuda":
            found = "a plan made for CUDA, on a machine without it"
            raise InputProblems([Problem(file, "plan.json", found, "the machine it was begun on, or another --out")])
        return previous if explicit == "auto" else previous.model_copy(update={"dtype": explicit})
    auto: Dtype = "bfloat16" if machine.bfloat16_is_fast else "float32"
    start = Resolved(
        dtype=auto if explicit == "auto" else explicit,
        device=machine.device,
        worker_count=1,
        thread_count=machine.core_count,
        micro_batch_tokens=_LEAST_MICRO_BATCH_TOKENS,
    )
    budget = available_bytes(machine, machine.device)
    specs = {spec.name: spec for spec in study.models}

    def fitting(tokens: int) -> list[int]:
        """What each arm needs that fits."""
        trial = start.model_copy(update={"micro_batch_tokens": tokens})
        needs = [
            sum(run_memory_parts(study, arm, facts, train, dtype_of(specs[facts.name], trial), trial).values())
            for facts in models
            for train in train_sets[facts.name]
            for arm in arms
        ]
        return [need for need in needs if need <= budget]

    tokens = _MICRO_BATCH_TOKENS[machine.device]
    while tokens > _LEAST_MICRO_BATCH_TOKENS and len(fitting(tokens)) < len(fitting(_LEAST_MICRO_BATCH_TOKENS)):
        tokens //= 2
    workers = 1
    if machine.device == "cpu":
        run_count = len(arms) * len(study.all_seeds) * sum(len(train_sets[facts.name]) for facts in models)
        largest = max(fitting(tokens), default=budget)
        workers = max(1, min(machine.core_count, run_count, budget // largest))
    update = {
        "micro_batch_tokens": tokens,
        "worker_count": workers,
        "thread_count": max(1, machine.core_count // workers),
    }
    return start.model_copy(update=update)


def run_memory_parts(
    study: Study, arm: Arm, facts: ModelFacts, train: TrainFacts, dtype: Dtype, resolved: Resolved
) -> dict[str, int]:
    """`memory_parts` for the micro-batches that this run has: never more than a batch, never less than its longest row.

    A batch is taken to have at most half as many tokens again as the average one.
    """
    longest = min(study.budget.max_sequence_tokens, facts.context_tokens)
    mean = train.token_count / max(1, train.row_count)
    batch = math.ceil(study.budget.batch_size * min(longest, 1.5 * mean))
    share = train.completion_token_count / max(1, train.token_count)
    tokens = max(min(resolved.micro_batch_tokens, batch), min(longest, batch))
    return memory_parts(
        arm, facts, dtype, tokens, share, resolved.device,
        checkpointing=study.budget.gradient_checkpointing, optimizer=study.optimizer.name,
    )  # fmt: skip
