"""What a plan refuses before anything runs, and what it warns of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from made_facts import STUDY, machine_facts, model_facts, planned

from rankscope.plan.plan_checks import check_arms
from rankscope.records import ModelFacts, Plan
from rankscope.study.problems import InputProblems
from rankscope.study.study import Study

Read = Callable[..., Study]
GPU = {"device": "cuda", "device_name": "80 GB", "device_memory_bytes": 80 * 10**9, "bfloat16_is_fast": True}


def plan_of(study: Study, models: list[ModelFacts], **machine: Any) -> Plan:
    return planned(study, models, machine_facts(**{**GPU, **machine}))


# ---- targets and ranks ----------------------------------------------------------------------------------------------


def test_a_target_that_does_not_exist_is_refused_with_the_nearest(read: Read) -> None:
    expected = (
        "which is no linear module of bundled, expected all-linear or some of "
        "q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj"
    )
    with pytest.raises(InputProblems) as caught:
        planned(read(STUDY, "arms.lora.targets=[q_prj, v_proj, lm_head]"))
    assert [str(problem) for problem in caught.value.problems] == [
        f"study.yaml: arms.lora.targets: found q_prj, {expected}; did you mean `q_proj`?",
        f"study.yaml: arms.lora.targets: found lm_head, {expected}",
    ]


def test_a_rank_that_no_target_can_use_is_refused_and_one_that_some_cannot_is_warned_of(read: Read) -> None:
    study = read(STUDY, "arms.lora.ranks=[8, 9, 16, 17]")  # smaller sides are 8 (k, v) and 16
    problems, warnings = check_arms(study, model_facts(), "study.yaml")
    assert [str(problem) for problem in problems] == [
        "study.yaml: arms.lora.ranks: found rank 17, above the smaller side of every target of bundled, "
        "expected at most 16"
    ]
    assert [warning.split(":")[0] for warning in warnings] == ["lora-r9", "lora-r16"]
    assert "(8) of 4 of 14 targets" in warnings[0]
    only = read(STUDY, "arms.lora.ranks=[9]", "arms.lora.targets=[k_proj]")
    assert "expected at most 8" in str(check_arms(only, model_facts(), "s")[0][0])


# ---- what a machine or a model cannot do -----------------------------------------------------------------------------


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


# ---- warnings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["seeds=[0]"], "one seed"),
        (["arms.lora.alpha=16"], "differ in scale (alpha/r is 2, 4)"),
        (["arms.other={method: lora, ranks: [2], targets: [q_proj], learning_rate: 1e-4}"], "differ in target modules"),
        (["arms.full.learning_rate=2e-4"], "at LoRA's learning rate (0.0002)"),
        (["suites.law.domain=medical", "suites.maths.domain=medical"], "its forgetting cannot be measured"),
        (["budget.max_sequence_tokens=4096"], "its context of 2048 tokens"),
    ],
)
def test_what_weakens_the_answer_is_warned_of(read: Read, overrides: list[str], words: str) -> None:
    assert planned(read()).warnings == []
    assert sum(words in warning for warning in planned(read(STUDY, *overrides)).warnings) == 1


def test_times_without_a_measured_speed_are_called_nominal(read: Read) -> None:
    plan = planned(read(), machine=machine_facts(flops_per_second=None))
    assert any("not measured" in warning for warning in plan.warnings)
    assert all(run.seconds > 0 for run in plan.runs)
