"""The plan: which runs and searches there are, what fits, what is resolved and kept, and what it costs in all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from made_facts import LLAMA_8B, STUDY, machine_facts, model_facts, planned, suite_facts, train_facts
from transformers import AutoModelForCausalLM, LlamaConfig, PretrainedConfig, Qwen2Config

from rankscope.model.load import linear_shapes
from rankscope.plan.make_plan import make_plan
from rankscope.plan.resolve import dtype_of
from rankscope.plan.run_cost import NF4_BYTES, memory_parts, weight_bytes
from rankscope.plan.run_time import describe_plan, plan_totals
from rankscope.records import ModelFacts, Plan
from rankscope.study.problems import InputProblems
from rankscope.study.study import Arm, Study

Read = Callable[..., Study]


def test_there_is_one_run_for_each_arm_and_seed(read: Read) -> None:
    plan = planned(read())
    assert [(run.arm.label, run.seed) for run in plan.runs] == [
        (label, seed) for label in ("full", "lora-r4", "lora-r8") for seed in (0, 1, 2)
    ]
    assert plan.searches == []
    assert all(run.fits and run.search_id is None for run in plan.runs)
    assert all(run.step_count == 21 and run.train_tokens == 12_000 for run in plan.runs)
    assert Plan.model_validate_json(plan.model_dump_json()) == plan


def test_every_part_of_the_cost_is_there(read: Read) -> None:
    full, *_, lora = planned(read()).runs
    for run in (full, lora):
        assert sum(run.memory_parts_bytes.values()) == run.memory_bytes
        assert min(run.train_flops, run.evaluate_flops, run.seconds, run.disk_bytes) > 0
    assert lora.trainable_parameters < full.trainable_parameters


def test_each_arm_with_an_auto_rate_has_its_own_search(read: Read) -> None:
    plan = planned(read(STUDY, "arms.lora.learning_rate=auto", "arms.full.learning_rate=auto"))
    assert [[arm.label for arm in search.arms] for search in plan.searches] == [["full"], ["lora-r4"], ["lora-r8"]]
    found = {search.search_id: search for search in plan.searches}
    for run in plan.runs:
        assert run.search_id is not None
        assert run.arm in found[run.search_id].arms
    full, anchor, other = plan.searches
    assert [(search.tries, len(search.rates), search.wave) for search in plan.searches] == [
        (5, 5, 0),
        (5, 5, 0),
        (3, 0, 1),
    ]
    assert other.after == [anchor.search_id]
    assert anchor.step_count == 21
    assert anchor.train_flops == pytest.approx(2.75 * plan.runs[3].train_flops)
    assert other.train_flops == pytest.approx(2.25 * plan.runs[6].train_flops)
    assert full.seed not in read().seeds


def test_a_shared_rate_has_one_search_and_a_warning(read: Read) -> None:
    plan = planned(read(STUDY, "arms.lora.learning_rate=auto_shared"))
    assert [[arm.label for arm in search.arms] for search in plan.searches] == [["lora-r4", "lora-r8"]]
    assert any("auto_shared" in warning for warning in plan.warnings)


def test_facts_of_several_models_stay_apart(read: Read) -> None:
    study = read(STUDY.replace("model: bundled", "model: [org/a, org/b]"))
    plan = planned(study, [model_facts("a"), model_facts("b", content_sha256="f" * 64)])
    assert [(t.model, t.name) for t in plan.train_sets] == [("a", "medical"), ("b", "medical")]
    assert {s.model for s in plan.suites} == {"a", "b"}
    assert len({run.run_id for run in plan.runs}) == 18


def test_the_same_run_twice_is_refused(read: Read) -> None:
    study = read(STUDY.replace("model: bundled", "model: [org/a, org/b]"))
    with pytest.raises(InputProblems, match=r"the same run twice \(a, medical, full and b, medical, full\)"):
        planned(study, [model_facts("a"), model_facts("b")])


# ---- what is resolved -----------------------------------------------------------------------------------------------


def test_dtype_is_the_studys_or_what_is_fast(read: Read) -> None:
    fast = machine_facts(bfloat16_is_fast=True)
    assert planned(read()).resolved.dtype == "float32"
    assert planned(read(), machine=fast).resolved.dtype == "bfloat16"
    assert planned(read(STUDY, "model.dtype=float32"), machine=fast).resolved.dtype == "float32"
    mixed = read(STUDY.replace("model: bundled", "model: [{id: org/a, dtype: float32}, org/b]"))
    plan = planned(mixed, [model_facts("a"), model_facts("b", content_sha256="f" * 64)], fast)
    assert {(run.model, run.dtype) for run in plan.runs} == {("a", "float32"), ("b", "bfloat16")}
    assert [dtype_of(spec, plan.resolved) for spec in mixed.models] == ["float32", "bfloat16"]


def test_small_models_share_out_the_cores_and_large_ones_have_them_all(read: Read) -> None:
    small = planned(read()).resolved
    assert (small.worker_count, small.thread_count) == (4, 1)
    few = planned(read(STUDY, "seeds=[0]", "arms.lora.ranks=[4]")).resolved
    assert (few.worker_count, few.thread_count) == (2, 2)
    tight = planned(read(), machine=machine_facts(memory_bytes=int(1.5e9))).resolved
    assert (tight.worker_count, tight.thread_count) == (2, 2)
    gpu = planned(read(), machine=machine_facts(device="cuda")).resolved
    assert (gpu.gpus, gpu.worker_count, gpu.thread_count) == ([0], 1, 4)


def test_an_earlier_plans_decisions_are_kept(read: Read) -> None:
    first = planned(read())
    other = machine_facts(core_count=64, bfloat16_is_fast=True, memory_bytes=10**12, device="cuda")
    again = planned(read(), machine=other, previous=first.resolved)
    assert again.resolved == first.resolved
    assert [run.run_id for run in again.runs] == [run.run_id for run in first.runs]
    assert any("begun on cpu" in warning for warning in again.warnings)
    on_gpu = planned(read(), machine=other).resolved
    with pytest.raises(InputProblems, match="a plan made for CUDA, on a machine without it"):
        planned(read(), previous=on_gpu)


# ---- what fits ------------------------------------------------------------------------------------------------------


def test_what_does_not_fit_says_what_it_needs_and_the_rest_goes_on(read: Read) -> None:
    gpu = machine_facts(device="cuda", device_memory_bytes=80 * 10**9, bfloat16_is_fast=True)
    plan = planned(read(STUDY, "arms.full.learning_rate=auto"), [LLAMA_8B.model_copy(update={"name": "bundled"})], gpu)
    by_method = {run.arm.method: run for run in plan.runs}
    assert by_method["lora"].fits
    assert not by_method["full"].fits
    reason = by_method["full"].reason
    assert reason is not None
    assert reason.startswith("needs 1")
    assert reason.endswith("GB of memory, this machine has 72 GB to use")
    assert plan.searches == []  # nothing to search for where nothing can run
    assert any("full on medical (bundled) does not fit: needs" in warning for warning in plan.warnings)
    assert (plan_totals(plan)["runs"], plan_totals(plan)["runs_that_do_not_fit"]) == (6, 3)


def test_the_micro_batch_shrinks_until_every_arm_that_can_fit_does(read: Read) -> None:
    study = read(STUDY, "budget.batch_size=1024", "arms.full.learning_rate=3e-5", "budget.gradient_checkpointing=false")
    facts = LLAMA_8B.model_copy(update={"name": "bundled"})
    large = machine_facts(device="cuda", device_memory_bytes=200 * 10**9, bfloat16_is_fast=True)
    small = large.model_copy(update={"device_memory_bytes": 32 * 10**9})
    plans = {name: planned(study, [facts], m, token_count=100_000) for name, m in (("large", large), ("small", small))}
    assert plans["small"].resolved.micro_batch_tokens < plans["large"].resolved.micro_batch_tokens
    assert all(run.fits for run in plans["small"].runs if run.arm.method == "lora")


def test_a_full_disk_is_noticed(read: Read) -> None:
    plan = planned(read(), machine=machine_facts(disk_free_bytes=100))
    assert not any(run.fits for run in plan.runs)
    assert "of disk" in str(plan.runs[0].reason)
    needed = plan_totals(planned(read()))["disk_bytes"]
    plan = planned(read(), machine=machine_facts(disk_free_bytes=needed - 1))
    assert any("GB of disk" in warning for warning in plan.warnings)


# ---- for people -----------------------------------------------------------------------------------------------------


def test_rows_and_totals_add_up(read: Read) -> None:
    plan = planned(read(STUDY, "arms.lora.learning_rate=auto"))
    rows, totals = describe_plan(plan), plan_totals(plan)
    assert [row["run_id"] for row in rows] == [run.run_id for run in plan.runs]
    assert totals["runs"] == len(rows) == 9
    assert totals["searches"] == 2
    assert totals["train_tokens"] == sum(row["train_tokens"] for row in rows)
    searched = sum(search.train_flops for search in plan.searches) / 1e12
    assert totals["teraflops"] == pytest.approx(sum(row["teraflops"] for row in rows) + searched)
    seconds = sum(row["seconds"] for row in rows) + sum(search.seconds for search in plan.searches)
    seconds += plan.base_seconds + plan.derived_seconds
    assert plan.schedule is not None
    placed = sum(job.seconds * len(job.devices) for job in plan.schedule.jobs)
    assert placed == pytest.approx(seconds)
    assert totals["seconds"] == plan.schedule.makespan_seconds >= seconds / plan.resolved.worker_count
    assert totals["memory_bytes"] == sum(sorted(row["memory_bytes"] for row in rows)[-4:])


# ---- memory by component, of known models, and what then fits on a GPU ----------------------------------------------

LLAMA = LlamaConfig(
    hidden_size=4096, intermediate_size=14_336, num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=8,
    vocab_size=128_256, max_position_embeddings=131_072, tie_word_embeddings=False,
)  # fmt: skip
QWEN = Qwen2Config(
    hidden_size=3584, intermediate_size=18_944, num_hidden_layers=28, num_attention_heads=28, num_key_value_heads=4,
    vocab_size=152_064, max_position_embeddings=32_768, tie_word_embeddings=False,
)  # fmt: skip
FULL = Arm(label="full", method="full", learning_rate=1e-5)
GPU = {"device": "cuda", "device_name": "80 GB", "device_memory_bytes": 80 * 10**9, "bfloat16_is_fast": True}


def lora(rank: int) -> Arm:
    return Arm(label="lora", method="lora", rank=rank, alpha=2 * rank, targets="all-linear", learning_rate=1e-4)


def facts_of(config: PretrainedConfig, name: str, **update: Any) -> ModelFacts:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    return model_facts(
        name,
        layers=config.num_hidden_layers,
        content_sha256=name.ljust(64, "0"),
        parameter_count=sum(p.numel() for p in model.parameters()),
        hidden_size=config.hidden_size,
        vocab_size=config.vocab_size,
        context_tokens=config.max_position_embeddings,
        tied_embeddings=False,
        linear_shapes=linear_shapes(model),
        **update,
    )


@pytest.fixture(scope="module")
def llama() -> ModelFacts:
    return facts_of(LLAMA, "Llama-3.1-8B-Instruct")


@pytest.fixture(scope="module")
def qwen() -> ModelFacts:
    return facts_of(QWEN, "Qwen2.5-7B-Instruct")


def test_the_papers_models_have_the_known_numbers_of_parameters(llama: ModelFacts, qwen: ModelFacts) -> None:
    assert FULL.trainable_parameters(llama) == llama.parameter_count == 8_030_261_248
    assert FULL.trainable_parameters(qwen) == qwen.parameter_count == 7_615_616_512
    assert lora(16).trainable_parameters(llama) == 41_943_040
    assert lora(16).trainable_parameters(qwen) == 40_370_176


def plan_of(study: Study, models: list[ModelFacts], **machine: Any) -> Plan:
    rows = train_facts(row_count=10_000, token_count=2_000_000, completion_token_count=200_000)
    sets = {facts.name: [rows] for facts in models}
    suites = {facts.name: [suite_facts(), suite_facts("law", domain="legal")] for facts in models}
    return make_plan(study, models, sets, suites, machine_facts(**{**GPU, **machine}), file="study.yaml")


PAPER = STUDY.replace("model: bundled", "model: [org/Llama-3.1-8B-Instruct, org/Qwen2.5-7B-Instruct]").replace(
    "ranks: [4, 8]", "ranks: [8, 128]"
)


def test_the_papers_models_on_an_80_gb_gpu(read: Read, llama: ModelFacts, qwen: ModelFacts) -> None:
    plan = plan_of(read(PAPER), [llama, qwen])
    for run in plan.runs:
        assert sum(run.memory_parts_bytes.values()) == run.memory_bytes
        if run.arm.method == "full":  # 20 bytes a parameter and more: only sharded over GPUs
            assert not run.fits
            assert str(run.reason).startswith(f"needs {run.memory_bytes / 1e9:.3g} GB of memory")
            assert run.memory_bytes > 20 * run.trainable_parameters
        else:
            assert run.fits, run.reason
            assert run.memory_bytes < 72e9
    assert any("full on medical (Llama-3.1-8B-Instruct) does not fit: needs 1" in line for line in plan.warnings)
    assert plan_totals(plan)["runs_that_do_not_fit"] == 6


def test_gradient_checkpointing_leaves_room_for_larger_micro_batches(read: Read, llama: ModelFacts) -> None:
    study = STUDY.replace("model: bundled", "model: org/Llama-3.1-8B-Instruct")
    plain, saved = (
        plan_of(read(study, f"budget.gradient_checkpointing={on}", "budget.batch_size=64"), [llama])
        for on in ("false", "true")
    )
    assert saved.resolved.micro_batch_tokens > plain.resolved.micro_batch_tokens
    per_token = {
        name: plan.runs[-1].memory_parts_bytes["activations"] / plan.resolved.micro_batch_tokens
        for name, plan in (("plain", plain), ("saved", saved))
    }
    assert per_token["saved"] < per_token["plain"] / 10
    assert [run.run_id for run in saved.runs] == [run.run_id for run in plain.runs]
    ratio = saved.runs[-1].train_flops / plain.runs[-1].train_flops
    assert 1.3 < ratio < 1.55, "LoRA: a forward more, of about two passes"


def test_a_base_in_4_bits_fits_a_small_gpu(read: Read, llama: ModelFacts) -> None:
    text = STUDY.replace("model: bundled", "model: {id: org/Llama-3.1-8B-Instruct, quantization: nf4}").replace(
        "  full: {learning_rate: 1e-5}\n", ""
    )
    small = {"device_memory_bytes": 16 * 10**9, "bitsandbytes": True}
    quantized = llama.model_copy(update={"quantization": "nf4"})
    study = read(text, "budget.gradient_checkpointing=true", "budget.batch_size=4")
    plan = plan_of(study, [quantized], **small)
    assert all(run.fits for run in plan.runs), plan.runs[0].reason
    blocks = sum(out * in_ for out, in_ in llama.linear_shapes.values())
    assert pytest.approx(4.127, abs=1e-3) == 8 * NF4_BYTES
    assert weight_bytes(quantized, "bfloat16") == pytest.approx(
        blocks * NF4_BYTES + (llama.parameter_count - blocks) * 2
    )
    plain = plan_of(
        read(text.replace(", quantization: nf4", ""), "budget.gradient_checkpointing=true"), [llama], **small
    )
    assert not any(run.fits for run in plain.runs)
    assert {run.run_id for run in plain.runs}.isdisjoint(run.run_id for run in plan.runs)
    parts = plan.runs[0].memory_parts_bytes
    assert parts["dequantized"] == 4096 * 14_336 * 2


def test_an_8_bit_optimizer_holds_a_quarter_of_the_moments(read: Read, llama: ModelFacts) -> None:
    parts = [
        memory_parts(FULL, llama, "bfloat16", 1024, 0.1, "cuda", optimizer=name) for name in ("adamw", "adamw_8bit")
    ]
    assert parts[0]["moments"] == 8 * llama.parameter_count
    assert parts[1]["moments"] == pytest.approx(parts[0]["moments"] / 4, rel=0.02)
    plan = plan_of(read(STUDY, "optimizer=adamw_8bit"), [model_facts()], bitsandbytes=True)
    assert plan.runs[0].disk_bytes < plan_of(read(), [model_facts()]).runs[0].disk_bytes
    assert plan.runs[0].run_id != plan_of(read(), [model_facts()]).runs[0].run_id


def test_of_best_checkpoints_one_an_arm_stays_on_the_disk(read: Read) -> None:
    kept = {
        keep: sum(r.kept_disk_bytes for r in plan_of(read(STUDY, f"keep.full={keep}"), [model_facts()]).runs)
        for keep in ("none", "best", "all")
    }
    weights = 2 * model_facts().parameter_count
    assert kept["best"] - kept["none"] == weights
    assert kept["all"] - kept["none"] == 3 * weights
