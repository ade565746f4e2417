"""Memory by component: against known models, against what torch really holds, and what then fits on a GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from made_facts import STUDY, machine_facts, model_facts, suite_facts, train_facts
from transformers import AutoModelForCausalLM, LlamaConfig, PretrainedConfig, Qwen2Config

from rankscope.model.load import linear_shapes
from rankscope.plan.make_plan import make_plan
from rankscope.plan.run_cost import NF4_BYTES, memory_parts, weight_bytes
from rankscope.plan.run_time import plan_totals
from rankscope.records import ModelFacts, Plan
from rankscope.study.problems import InputProblems
from rankscope.study.study import Arm, Study

Read = Callable[..., Study]

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


# ---- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "place", "wish"),
    [
        ("model={id: bundled, quantization: nf4}", "model.quantization (bundled)", "quantization: nf4"),
        ("optimizer.name=adamw_8bit", "optimizer.name", "adamw_8bit"),
    ],
)
def test_4_and_8_bits_need_cuda_and_bitsandbytes(read: Read, override: str, place: str, wish: str) -> None:
    study = read(STUDY.replace("  full: {learning_rate: 1e-5}\n", ""), override)
    with pytest.raises(InputProblems) as caught:
        plan_of(study, [model_facts()], device="cpu", device_name="a processor")
    expected = f"study.yaml: {place}: found {wish} on a processor (cpu), expected a CUDA device"
    assert str(caught.value.problems[0]).startswith(expected)
    with pytest.raises(
        InputProblems, match=r"without the package bitsandbytes, expected pip install 'rankscope\[quant\]'"
    ):
        plan_of(study, [model_facts()])
    assert plan_of(study, [model_facts()], bitsandbytes=True).runs


def test_arms_that_change_the_base_itself_are_refused_on_4_bits(lines: Callable[..., list[str]]) -> None:
    text = STUDY.replace("model: bundled", "model: {id: org/a, quantization: nf4}").replace(
        "arms:\n", "arms:\n  pissa: {ranks: [4]}\n"
    )
    found = lines(text)
    said = 'on "org/a", whose weights are quantized, expected arms that leave the base\'s weights alone, such as lora'
    assert [said in line for line in found] == [True, True]
    assert ["pissa" in found[0], "full" in found[1]] == [True, True]
    wrong = lines(STUDY, "model={id: org/a, quantization: int3}")
    assert wrong == ['--set: model.quantization: found "int3", expected nf4, or null for none']


def test_checkpointing_is_refused_where_it_cannot_be_done(read: Read) -> None:
    study = read(STUDY, "budget.gradient_checkpointing=true", "arms.prefix-tuning={virtual_tokens: [4]}")
    with pytest.raises(InputProblems) as caught:
        plan_of(study, [model_facts(checkpointing=False, key_value_width=8)])
    found = [str(problem) for problem in caught.value.problems]
    assert "found bundled (LlamaForCausalLM), which cannot" in found[0]
    assert "found prefix-tuning-v4, whose trained keys and values it would drop" in found[1]
