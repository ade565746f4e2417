"""Which arms compute their activations twice, how large micro-batches are, and what of that is recorded and kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from made_facts import STUDY, machine_facts, planned

from rankscope.plan.checkpointing_choice import BUSY_TOKENS, may_checkpoint
from rankscope.plan.run_cost import KNOWN_MODELS
from rankscope.plan.run_time import describe_plan
from rankscope.records import Plan
from rankscope.study.study import Budget, Study

Read = Callable[..., Study]
LLAMA_8B = next(shape for shape in KNOWN_MODELS if shape.name == "Llama-3.1-8B").facts()
BATCH = ("budget.batch_size=64", "execution.offload=never")


def plan_on(study: Study, gigabytes: int, devices: int = 1, previous: Plan | None = None, **model: Any) -> Plan:
    """For a model of 8 billion parameters on GPUs of this size."""
    machine = machine_facts(
        device="cuda", device_memory_bytes=gigabytes * 10**9, memory_bytes=10**12, bfloat16_is_fast=True,
        disk_free_bytes=10**13, device_count=devices,
    )  # fmt: skip
    facts = LLAMA_8B.model_copy(update={"name": "bundled"} | model)
    kept = previous.resolved if previous is not None else None
    return planned(study, [facts], machine, token_count=100_000, previous=kept)


def twice(plan: Plan) -> dict[str, bool]:
    """By method, of arms that fit."""
    return {run.arm.method: run.checkpointing for run in plan.runs if run.fits}


def test_activations_are_kept_where_smaller_micro_batches_hold_them(read: Read) -> None:
    plan = plan_on(read(STUDY, *BATCH), 80)
    assert twice(plan) == {"lora": False}
    assert plan.resolved.micro_batch_tokens in (2048, 4096)
    assert plan.resolved.checkpointed == ["bundled medical full"], "the way in which it would need least"
    always = plan_on(read(STUDY, *BATCH, "budget.gradient_checkpointing=true"), 80)
    assert always.resolved.micro_batch_tokens == 16384
    one, other = (next(run for run in p.runs if run.arm.method == "lora") for p in (plan, always))
    assert one.run_id == other.run_id, "rounding only"
    assert other.train_flops > 1.3 * one.train_flops
    assert other.seconds > one.seconds


def test_where_they_fit_in_no_micro_batch_that_keeps_the_device_busy_they_are_computed_twice(read: Read) -> None:
    plan = plan_on(read(STUDY, *BATCH), 32)
    assert twice(plan) == {"lora": True}
    assert plan.resolved.micro_batch_tokens > BUSY_TOKENS["cuda"], "then micro-batches may be large"
    assert all(row["checkpointing"] for row in describe_plan(plan) if row["fits"])
    never = plan_on(read(STUDY, *BATCH, "budget.gradient_checkpointing=false"), 32)
    assert twice(never) == {"lora": False}
    assert never.resolved.micro_batch_tokens < BUSY_TOKENS["cuda"]


def test_a_gang_is_as_small_as_it_can_be_and_keeps_its_activations_where_they_fit_there(read: Read) -> None:
    for gigabytes in (64, 80, 96, 141):
        plan = plan_on(read(STUDY, *BATCH), gigabytes, devices=8)
        assert all(run.fits for run in plan.runs)
        full = next(run for run in plan.runs if run.arm.method == "full")
        saved = plan_on(read(STUDY, *BATCH, "budget.gradient_checkpointing=true"), gigabytes, devices=8)
        assert full.gang == next(run for run in saved.runs if run.arm.method == "full").gang
        never = read(STUDY, *BATCH, "budget.gradient_checkpointing=false")
        kept = plan_on(never, gigabytes, devices=8, previous=plan)  # in the same gangs and micro-batches
        assert next(run.fits for run in kept.runs if run.arm.method == "full") != full.checkpointing


def test_what_was_decided_stays_when_the_study_goes_on_elsewhere(read: Read) -> None:
    first = plan_on(read(STUDY, *BATCH), 32)
    again = plan_on(read(STUDY, *BATCH), 80, previous=first)
    assert twice(again)["lora"]
    assert again.resolved.micro_batch_tokens == first.resolved.micro_batch_tokens
    assert not twice(plan_on(read(STUDY, *BATCH, "budget.gradient_checkpointing=false"), 200, previous=first))["lora"]


@pytest.mark.parametrize("asked", ["auto", "true", "false"])
def test_who_cannot_compute_them_twice_does_not(read: Read, asked: str) -> None:
    study = read(STUDY, *BATCH, "arms.prefix-tuning={virtual_tokens: [4]}", f"budget.gradient_checkpointing={asked}")
    prefix = next(arm for arm in study.expand_arms() if arm.method == "prefix-tuning")
    lora = next(arm for arm in study.expand_arms() if arm.method == "lora")
    assert not may_checkpoint(study.budget, LLAMA_8B, prefix)
    assert may_checkpoint(study.budget, LLAMA_8B, lora) == (asked == "auto")
    assert not may_checkpoint(Budget(), LLAMA_8B.model_copy(update={"checkpointing": False}), lora)
    if asked == "auto":
        plan = plan_on(study, 32, key_value_width=1024)
        assert not any(run.checkpointing for run in plan.runs if run.arm.method == "prefix-tuning")
