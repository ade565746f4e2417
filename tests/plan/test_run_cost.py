"""What runs cost, against counting by other means: PEFT and torch on small models, known numbers of a large one."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from made_facts import LLAMA_8B, machine_facts, model_facts, suite_facts, train_facts
from peft import LoraConfig, get_peft_model
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM

from rankscope.data import training_batches
from rankscope.model.load import linear_shapes
from rankscope.plan.run_cost import (
    disk_bytes,
    evaluate_flops,
    forward_flops,
    generated_tokens,
    memory_parts,
    step_count,
    train_flops,
)
from rankscope.records import ModelFacts
from rankscope.study.methods.lora_method import matches_target
from rankscope.study.study import SUPERVISED, Arm, Budget

FULL = Arm(label="full", method="full", learning_rate=1e-5)
TARGETS = ["all-linear", ("q_proj", "v_proj"), ("mlp.down_proj",), ("model.layers.0.self_attn.k_proj",)]


def lora(rank: int, targets: str | tuple[str, ...] = "all-linear") -> Arm:
    return Arm(
        label="lora", method="lora", rank=rank, alpha=2 * rank, targets=targets, learning_rate=1e-4  # type: ignore[arg-type]
    )  # fmt: skip


def tiny_llama() -> tuple[LlamaForCausalLM, ModelFacts]:
    config = LlamaConfig(
        vocab_size=96,
        hidden_size=32,
        intermediate_size=80,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=False,
        attn_implementation="eager",
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    facts = model_facts(
        layers=4,
        hidden_size=32,
        vocab_size=96,
        parameter_count=sum(p.numel() for p in model.parameters()),
        linear_shapes=linear_shapes(model),
    )
    return model, facts


@pytest.mark.parametrize("targets", TARGETS, ids=str)
@pytest.mark.parametrize("rank", [1, 8, 24])
def test_lora_parameters_are_those_that_peft_trains(rank: int, targets: str | tuple[str, ...]) -> None:
    model, facts = tiny_llama()
    modules = targets if isinstance(targets, str) else list(targets)
    peft = get_peft_model(model, LoraConfig(r=rank, target_modules=modules, task_type="CAUSAL_LM"))
    counted = sum(p.numel() for p in peft.parameters() if p.requires_grad)
    assert lora(rank, targets).trainable_parameters(facts) == counted


def test_parameters_of_llama_8b_are_the_known_ones() -> None:
    assert FULL.trainable_parameters(LLAMA_8B) == 8_030_261_248
    assert lora(16).trainable_parameters(LLAMA_8B) == 41_943_040
    assert lora(64).trainable_parameters(LLAMA_8B) == 167_772_160
    assert lora(8, ("q_proj", "v_proj")).trainable_parameters(LLAMA_8B) == 3_407_872


def test_targets_match_by_the_end_of_the_path_after_a_dot() -> None:
    assert matches_target("model.layers.0.self_attn.q_proj", "q_proj")
    assert matches_target("model.layers.0.self_attn.q_proj", "self_attn.q_proj")
    assert not matches_target("model.layers.0.self_attn.q_proj", "proj")
    assert not matches_target("model.layers.0.self_attn.qq_proj", "q_proj")


@pytest.mark.parametrize("rows", [1, 7, 100])
@pytest.mark.parametrize("epochs", [1e-9, 0.01, 0.5, 1, 2.3, 3])
@pytest.mark.parametrize("batch_size", [1, 16, 1000])
def test_steps_are_those_of_the_order_of_rows(rows: int, epochs: float, batch_size: int) -> None:
    counted = step_count(rows, Budget(epochs=epochs, batch_size=batch_size))
    assert counted == len(training_batches.order(rows, batch_size, epochs, seed=0))


@pytest.mark.parametrize("arm", [FULL, lora(8), lora(4, ("q_proj", "v_proj"))], ids=["full", "lora", "attention"])
def test_training_flops_agree_with_a_count_of_products(arm: Arm) -> None:
    """One row of 32 tokens, logits at its last 8. torch counts attention without its mask, which is little here, and no
    gradient below the first layer's adapters."""
    model, facts = tiny_llama()
    if arm.method == "lora":
        model.requires_grad_(False)
        targets = arm.targets if isinstance(arm.targets, str) else list(arm.targets or ())
        get_peft_model(model, LoraConfig(r=arm.rank, target_modules=targets, task_type="CAUSAL_LM"))
    ids = torch.randint(0, 96, (1, 32))
    with FlopCounterMode(display=False) as counter:
        model(ids, logits_to_keep=8).logits.sum().backward()
    train = train_facts(row_count=1, token_count=32, completion_token_count=8)
    planned = sum(train_flops(arm, facts, train, Budget(epochs=1, batch_size=1)))
    assert planned == pytest.approx(counter.get_total_flops(), rel=0.1)


def test_an_objective_that_reads_whole_rows_and_a_frozen_copy_costs_what_it_says() -> None:
    _, facts = tiny_llama()
    train, budget, arm = train_facts(row_count=4, token_count=128, completion_token_count=32), Budget(epochs=1), lora(8)
    whole = replace(SUPERVISED, loss_on="rows", reference_forwards=1.0)
    plain, more = (train_flops(arm, facts, train, budget, objective) for objective in (SUPERVISED, whole))
    forward = forward_flops(None, facts, 128, 128, 32)
    head = forward_flops(None, facts, 0, 128 - 32, 32)[0]
    assert more[0] == pytest.approx(plain[0] + forward[0] + 2 * head), "its own logits and those of the frozen copy"
    assert more[1] == pytest.approx(plain[1] + forward[1])


def test_lora_saves_about_a_third_of_full_fine_tunings_arithmetic() -> None:
    budget, train = Budget(epochs=1), train_facts()
    ratio = sum(train_flops(lora(16), LLAMA_8B, train, budget)) / sum(train_flops(FULL, LLAMA_8B, train, budget))
    assert 0.66 < ratio < 0.69
    tokens = train.token_count
    assert sum(train_flops(FULL, LLAMA_8B, train, budget)) == pytest.approx(6 * 6.98e9 * tokens, rel=0.02)


def test_training_flops_grow_with_epochs() -> None:
    one, half = (sum(train_flops(FULL, LLAMA_8B, train_facts(), Budget(epochs=e))) for e in (1, 0.5))
    assert half == pytest.approx(one / 2)


def test_generated_answers_cost_tokens_that_choices_do_not() -> None:
    choices, open_ = suite_facts(), suite_facts(form="open")
    assert generated_tokens(choices) == 0
    assert 0 < generated_tokens(open_) <= open_.item_count * open_.max_new_tokens
    assert evaluate_flops(FULL, LLAMA_8B, [open_]) > evaluate_flops(FULL, LLAMA_8B, [choices])
    assert evaluate_flops(None, LLAMA_8B, []) == (0.0, 0.0)


def test_memory_by_component() -> None:
    full = memory_parts(FULL, LLAMA_8B, "bfloat16", 4096, 0.5)
    count = 8_030_261_248
    assert full["weights"] == 2 * count
    assert full["masters"] == 4 * count
    assert full["moments"] == 8 * count
    assert full["gradients"] == 6 * count
    assert full["logits"] == 2048 * 128_256 * 12
    assert memory_parts(FULL, LLAMA_8B, "float32", 4096, 0.5)["masters"] == 0
    small = memory_parts(lora(16), LLAMA_8B, "bfloat16", 4096, 0.5)
    assert small["moments"] == 8 * 41_943_040
    assert sum(small.values()) < 80e9 < sum(full.values())
    twice = memory_parts(lora(16), LLAMA_8B, "bfloat16", 8192, 0.5)
    assert twice["activations"] == 2 * small["activations"]


def test_disk_holds_a_checkpoint_while_it_runs_and_an_adapter_for_good() -> None:
    suites = [suite_facts(item_count=0)]
    at_most, kept = disk_bytes(lora(16), LLAMA_8B, "bfloat16", suites, keep_full=False)
    assert kept == 2 * 41_943_040
    assert at_most == kept + 12 * 41_943_040
    assert disk_bytes(FULL, LLAMA_8B, "bfloat16", suites, keep_full=False)[1] == 0
    assert disk_bytes(FULL, LLAMA_8B, "bfloat16", suites, keep_full=True)[1] == 2 * 8_030_261_248
    assert machine_facts().disk_free_bytes > at_most
