"""Where a run goes: alone where it fits, else the smallest gang, else one device with the host's memory beside it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from made_facts import STUDY, machine_facts, planned, planned_on_gpus

from rankscope.plan.gang_choice import (
    GangNeed,
    Room,
    can_shard,
    choose_gang,
    choose_scoring,
    gang_seconds,
    need_in_gang,
    scoring_need,
)
from rankscope.plan.run_cost import KNOWN_MODELS, memory_parts
from rankscope.records import Gang, ModelFacts
from rankscope.study.methods.remedy_settings import Retain
from rankscope.study.problems import InputProblems
from rankscope.study.study import Arm, Execution, Study

Read = Callable[..., Study]
FACTS = {shape.name: shape.facts() for shape in KNOWN_MODELS}
LLAMA_8B, LLAMA_70B, TIED = FACTS["Llama-3.1-8B"], FACTS["Llama-3.1-70B"], FACTS["Llama-3.2-1B"]
FULL = Arm(label="full", method="full", learning_rate=1e-5)
LORA = Arm(label="lora", method="lora", rank=16, alpha=32, targets="all-linear", learning_rate=1e-4)
DORA = Arm(label="dora", method="dora", rank=16, alpha=32, targets="all-linear", learning_rate=1e-4)
EIGHT = Room(device_bytes=72 * 10**9, host_bytes=1_000 * 10**9, devices=8, shared=False)


def alone(arm: Arm, facts: ModelFacts, optimizer: Any = "adamw", dtype: Any = "bfloat16") -> dict[str, int]:
    """At micro-batches whose activations and logits take about 9 GB for 8 billion parameters."""
    return memory_parts(arm, facts, dtype, 12_000, 0.16, "cuda", checkpointing=True, optimizer=optimizer)


def chosen(arm: Arm, facts: ModelFacts, room: Room = EIGHT, optimizer: Any = "adamw", **execution: Any) -> GangNeed:
    return choose_gang(arm, facts, alone(arm, facts, optimizer), room, Execution(**execution), optimizer)


@pytest.mark.parametrize(("size", "gigabytes"), [(4, 44), (8, 28)])
def test_full_fine_tuning_of_8_billion_parameters(size: int, gigabytes: int) -> None:
    """What the prototypes were reckoned to need, without the gradients that stand whole for a moment: 4.4 GB here."""
    need = need_in_gang(FULL, LLAMA_8B, alone(FULL, LLAMA_8B), Gang(size=size), "adamw")
    assert need.device_bytes / 1e9 == pytest.approx(gigabytes + 4, abs=1)


def test_every_part_is_counted() -> None:
    need = need_in_gang(FULL, LLAMA_8B, alone(FULL, LLAMA_8B), Gang(size=8), "adamw")
    count, words, block = LLAMA_8B.parameter_count, 128_256 * 4096, 218_112_000
    assert need.parts["weights"] == 0
    assert need.parts["masters"] == need.parts["gradients"] == pytest.approx(4 * count / 8, abs=8)
    assert need.parts["moments"] == pytest.approx(8 * count / 8, abs=8)
    root = 2 * words + 4096
    assert need.parts["gathered"] == pytest.approx(2 * (root + 2 * block) + 6 * block + 4 * words, rel=1e-3)


def test_lora_on_70_billion_keeps_its_factors_whole() -> None:
    before = alone(LORA, LLAMA_70B)
    need = need_in_gang(LORA, LLAMA_70B, before, Gang(size=8), "adamw")
    adapter = 2 * LORA.stored_parameters(LLAMA_70B)
    assert need.parts["weights"] - adapter == pytest.approx(17.6e9, rel=0.01)
    for part in ("masters", "moments", "gradients"):
        assert need.parts[part] == before[part]


def test_the_smallest_gang_that_fits() -> None:
    assert chosen(LORA, LLAMA_8B).gang == Gang()
    assert chosen(FULL, TIED).gang == Gang()
    assert chosen(FULL, LLAMA_8B).gang == Gang(size=4)
    assert chosen(LORA, LLAMA_70B).gang == Gang(size=4)
    assert chosen(FULL, LLAMA_8B, Room(40 * 10**9, 10**12, 8, False)).gang == Gang(size=8)
    for arm, facts in ((FULL, LLAMA_8B), (LORA, LLAMA_70B)):
        smaller = need_in_gang(arm, facts, alone(arm, facts), Gang(size=2), "adamw")
        assert not smaller.fits(EIGHT)


def test_the_hosts_memory_is_the_last_resort() -> None:
    one = Room(72 * 10**9, 200 * 10**9, 1, False)
    need = chosen(FULL, LLAMA_8B, one)
    assert need.gang == Gang(size=1, offload=True)
    assert 128e9 < need.host_bytes < 150e9
    assert 10e9 < need.device_bytes < 25e9
    assert need.fits(one)
    assert chosen(FULL, LLAMA_8B, one, offload="never").gang == Gang()
    assert not chosen(FULL, LLAMA_8B, one, offload="never").fits(one)
    assert not chosen(FULL, LLAMA_8B, Room(72 * 10**9, 100 * 10**9, 1, False)).fits(one)
    assert chosen(FULL, TIED, one, offload="always").gang.offload


def test_bf16_without_masters_fits_one_gpu_of_80_gb() -> None:
    parts = alone(FULL, LLAMA_8B, "adamw_bf16")
    assert parts["masters"] == 0
    state = parts["weights"] + parts["moments"] + parts["gradients"]
    assert state / LLAMA_8B.parameter_count == pytest.approx(6.03, abs=0.01)
    assert sum(parts.values()) == pytest.approx(57e9, abs=2e9)
    assert chosen(FULL, LLAMA_8B, optimizer="adamw_bf16").gang == Gang()


def test_a_cpu_shares_out_only_where_it_is_told_to() -> None:
    """Its processes share one memory, so a gang saves nothing."""
    cores = Room(10**9, 10**9, 8, True)
    assert chosen(FULL, LLAMA_8B, cores).gang == Gang()
    assert chosen(FULL, TIED, cores, shards=2).gang == Gang(size=2)


def test_who_cannot_be_shared_out_stays_alone() -> None:
    assert chosen(DORA, LLAMA_70B).gang == Gang()
    assert "dora" in (can_shard(DORA, LLAMA_70B, "adamw") or "")
    assert can_shard(FULL, LLAMA_8B, "adamw_8bit") is not None
    assert can_shard(LORA, LLAMA_8B, "adamw_8bit") is None
    assert can_shard(LORA.model_copy(update={"dropout": 0.1}), LLAMA_8B, "adamw") is not None


def test_a_gang_takes_less_time_and_the_hosts_memory_more() -> None:
    assert 100 / 8 < gang_seconds(100, Gang(size=8)) < 100 / 4
    assert 200 <= gang_seconds(100, Gang(offload=True)) <= 300
    assert gang_seconds(100, Gang()) == 100


def test_who_is_kept_near_the_base_is_shared_out_with_what_that_takes() -> None:
    near = FULL.model_copy(update={"retain": Retain(kl=0.1)})
    plain, kept = (need_in_gang(arm, LLAMA_8B, alone(arm, LLAMA_8B), Gang(size=8), "adamw") for arm in (FULL, near))
    assert can_shard(near, LLAMA_8B, "adamw") is None
    assert kept.parts["reference"] == pytest.approx(2 * LLAMA_8B.parameter_count / 8, abs=8)
    assert kept.device_bytes > plain.device_bytes + kept.parts["reference"], "and the base's blocks, as they run"


# ---- scoring --------------------------------------------------------------------------------------------------------


def scored(arm: Arm | None, facts: ModelFacts, room: Room = EIGHT, copies: int = 1, **execution: Any) -> Gang:
    return choose_scoring(arm, facts, "bfloat16", room, Execution(**execution), copies).gang


def test_what_fits_one_device_is_scored_there() -> None:
    assert scored(None, LLAMA_8B) == scored(LORA, LLAMA_8B) == scored(FULL, LLAMA_8B, copies=3) == Gang()


def test_what_does_not_is_scored_by_the_smallest_gang_that_holds_it() -> None:
    small = Room(36 * 10**9, 10**12, 8, False)
    assert scored(None, LLAMA_70B) == scored(LORA, LLAMA_70B) == Gang(size=4)
    assert scored(FULL, LLAMA_8B, small) == Gang()
    assert scored(FULL, LLAMA_8B, small, copies=3) == Gang(size=2)
    assert not scoring_need(None, LLAMA_70B, "bfloat16", Gang(size=2)).fits(EIGHT)
    assert scored(FULL, LLAMA_8B, Room(36 * 10**9, 10**12, 1, False), copies=3) == Gang(offload=True)
    assert scored(FULL, LLAMA_8B, Room(36 * 10**9, 10**12, 1, False), copies=3, offload="never") == Gang()


def test_shards_for_scoring_are_taken_as_given() -> None:
    cores = Room(10**9, 10**9, 8, True)
    assert scored(None, LLAMA_8B, cores) == Gang()
    assert scored(None, LLAMA_8B, cores, scoring_shards=2) == Gang(size=2)
    assert scored(DORA, LLAMA_8B, cores, scoring_shards=2) == Gang()
    assert scored(None, LLAMA_70B, scoring_shards=8) == Gang(size=8)


def test_each_device_has_its_part_and_the_adapter_whole() -> None:
    need, whole = (scoring_need(LORA, LLAMA_70B, "bfloat16", Gang(size=size)) for size in (8, 1))
    adapter = 2 * LORA.stored_parameters(LLAMA_70B)
    assert need.parts["weights"] - adapter == pytest.approx((whole.parts["weights"] - adapter) / 8, abs=8)
    assert need.parts["gathered"] == pytest.approx(2 * (2 * 128_256 * 8192 + 2 * 855_654_400), rel=1e-3)


# ---- in a plan ------------------------------------------------------------------------------------------------------


def test_a_plan_records_its_gangs_and_keeps_them(read: Read) -> None:
    plan = planned_on_gpus(read(STUDY, "budget.gradient_checkpointing=false"))
    gangs = {run.arm.method: run.gang for run in plan.runs}
    assert gangs["lora"] == 1
    assert gangs["full"] in (4, 8)
    assert all(run.fits for run in plan.runs)
    assert set(plan.resolved.gangs) == {"bundled medical full"}
    again = planned(
        read(), plan.models,
        machine_facts(device="cuda", device_memory_bytes=180 * 10**9, bfloat16_is_fast=True, device_count=8,
                      disk_free_bytes=10**13),
        previous=plan.resolved,
    )  # fmt: skip
    assert {run.arm.method: run.gang for run in again.runs} == gangs


def test_a_gang_that_began_larger_than_the_machine_is_refused(read: Read) -> None:
    plan = planned_on_gpus(read(STUDY, "budget.gradient_checkpointing=false"))
    with pytest.raises(InputProblems, match=r"gangs of [48] devices, on a machine with fewer"):
        planned(read(), plan.models, machine_facts(device="cuda", device_count=2), previous=plan.resolved)


def test_more_shards_than_devices_are_refused(read: Read) -> None:
    with pytest.raises(InputProblems) as caught:
        planned_on_gpus(read(STUDY, "execution.shards=16"))
    expected = "study.yaml: execution.shards: found shards: 16 on a machine with 8 GPUs, expected "
    assert [str(problem) for problem in caught.value.problems] == [expected + "auto, or a power of two up to 8"]


def test_more_processes_than_a_cpu_can_bear_are_refused(read: Read) -> None:
    with pytest.raises(InputProblems) as caught:
        planned(read(STUDY, "execution.shards=16"), [LLAMA_8B.model_copy(update={"name": "bundled"})], machine_facts())
    (line,) = map(str, caught.value.problems)
    assert line.startswith("study.yaml: execution.shards: found shards: 16 on a machine with ")
    assert line.endswith(" cores, expected auto, or a power of two up to 8")


def test_a_plan_records_where_it_is_scored(read: Read) -> None:
    """Three copies of 8 billion parameters, for the dials, on GPUs of 40 GB."""
    plan = planned_on_gpus(read(), device_memory_bytes=40 * 10**9)
    scoring = {run.arm.method: run.scoring for run in plan.runs}
    assert scoring == {"full": Gang(size=2), "lora": Gang()}
    assert all(run.fits for run in plan.runs)
    assert plan.base_gang("bundled") == Gang()
    assert plan.resolved.scoring_gangs == {"bundled medical full": Gang(size=2)}
    machine = machine_facts(device="cuda", device_memory_bytes=180 * 10**9, bfloat16_is_fast=True, device_count=8,
                            disk_free_bytes=10**13)  # fmt: skip
    again = planned(read(), plan.models, machine, previous=plan.resolved)
    assert {run.arm.method: run.scoring for run in again.runs} == scoring


def test_a_base_that_no_device_holds_is_scored_in_a_gang(read: Read) -> None:
    facts = LLAMA_70B.model_copy(update={"name": "bundled"})
    machine = machine_facts(device="cuda", device_memory_bytes=80 * 10**9, memory_bytes=10**12, bfloat16_is_fast=True,
                            disk_free_bytes=10**13, device_count=8)  # fmt: skip
    plan = planned(read(STUDY, "budget.gradient_checkpointing=false"), [facts], machine)
    assert plan.base_gang("bundled") == Gang(size=4)
    assert {(run.gang, run.scoring.size) for run in plan.runs if run.arm.method == "lora" and run.fits} == {(8, 4)}


@pytest.mark.parametrize("method", ["dora", "pissa"])
def test_shards_are_refused_for_who_cannot_have_them(read: Read, method: str) -> None:
    with pytest.raises(InputProblems) as caught:
        planned_on_gpus(read(STUDY, "execution.shards=2", f"arms.lora.method={method}"))
    labels = {arm.label for arm in read(STUDY, f"arms.lora.method={method}").expand_arms() if arm.method == method}
    lines = [str(problem) for problem in caught.value.problems]
    assert len(lines) == len(labels) > 0
    for label, line in zip(sorted(labels), sorted(lines), strict=True):
        assert line.startswith(f"study.yaml: arms ({label}): found shards: 2, and {method} is not shared out: full ")
        assert line.endswith("expected shards: auto, which leaves it on one device, or a study without it")


def test_who_does_not_fit_and_cannot_be_shared_out_is_told_why(read: Read) -> None:
    plan = planned_on_gpus(read(STUDY, "arms.lora.method=dora"), device_memory_bytes=12 * 10**9)
    (reason,) = {run.reason for run in plan.runs if run.arm.method == "dora" and run.arm.rank == 8}
    assert reason is not None
    assert reason.endswith("to use, and dora is not shared out: full methods and LoRA without dropout are")


@pytest.mark.parametrize("name", ["shards", "scoring_shards"])
@pytest.mark.parametrize("wrong", ["3", "0", "two", "2048"])
def test_shards_are_a_power_of_two(lines: Callable[..., list[str]], wrong: str, name: str) -> None:
    (line,) = lines(STUDY, f"execution.{name}={wrong}")
    assert f"execution.{name}: found" in line
    assert "auto or a power of two from 1 to 1024" in line


def test_what_lies_in_the_hosts_memory_is_said_to_be_slow(read: Read) -> None:
    plan = planned_on_gpus(read(), device_count=1, memory_bytes=300 * 10**9)
    assert [run.offload for run in plan.runs if run.arm.method == "full"] == [True] * 3
    assert any("full: one device holds it only with" in warning for warning in plan.warnings)
