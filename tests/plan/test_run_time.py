"""Times of a plan: what they grow with, and that what was measured takes the place of arithmetic."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from made_facts import machine_facts, model_facts, suite_facts, train_facts

from rankscope.plan import run_time
from rankscope.plan.make_plan import make_plan
from rankscope.plan.run_cost import forward_flops, train_flops
from rankscope.plan.run_time import Clock
from rankscope.records import MeasuredSpeed, Plan
from rankscope.study.study import Arm, Budget, Study

FACTS, TRAIN, SUITES = model_facts(), train_facts(), [suite_facts()]
BUDGET = Budget(epochs=2, batch_size=8)


def lora(rank: int) -> Arm:
    return Arm(
        label=f"r{rank}", method="lora", rank=rank, alpha=2 * rank, targets="all-linear", learning_rate=1e-4
    )  # fmt: skip


def measured(rank: int, per_token: float, evaluate: float = 5.0) -> MeasuredSpeed:
    return MeasuredSpeed(
        model=FACTS.name, train_set=TRAIN.name, arm=f"r{rank}", method="lora",
        trainable_parameters=lora(rank).trainable_parameters(FACTS), train_seconds_per_token=per_token,
        validation_seconds_per_token=per_token / 3, evaluate_seconds=evaluate, peak_memory_bytes=1,
    )  # fmt: skip


def clock(*found: MeasuredSpeed) -> Clock:
    return Clock(FACTS, TRAIN, SUITES, BUDGET, 1e10, "cpu", found)


def test_between_two_measured_ranks_time_is_linear_in_the_trained_parameters() -> None:
    timed = clock(measured(8, 0.002), measured(16, 0.004))
    tokens = 2 * TRAIN.token_count
    assert timed.training(lora(8)) == pytest.approx(tokens * 0.002)
    assert timed.training(lora(12)) == pytest.approx(tokens * 0.003)
    assert timed.training(lora(16), 0.25) == pytest.approx(tokens * 0.001)


def test_what_was_not_measured_is_calculated() -> None:
    full = Arm(label="full", method="full", learning_rate=1e-5)
    assert clock(measured(8, 0.002)).training(full) == clock().training(full)
    other = measured(8, 0.002).model_copy(update={"train_set": "another"})
    assert clock(other).training(lora(8)) == clock().training(lora(8))


def test_arithmetic_is_products_at_their_speeds_and_a_cost_for_each_layer_of_each_step() -> None:
    matrices, attention = train_flops(lora(8), FACTS, TRAIN, BUDGET)
    steps = 2 * -(-TRAIN.row_count // 8)
    products = matrices / run_time.EFFICIENCY + attention / run_time.ATTENTION_EFFICIENCY["cpu"]
    ins_and_outs = sum(out + in_ for out, in_ in FACTS.linear_shapes.values())
    values = 3 * 2 * TRAIN.token_count * (ins_and_outs + 4 * FACTS.hidden_size * FACTS.layer_count)
    expected = products / 1e10 + steps * FACTS.layer_count * run_time.LAYER_STEP_SECONDS["cpu"]
    expected += values * run_time.VALUE_SECONDS["cpu"]
    assert clock().training(lora(8)) == pytest.approx(expected)
    two = Clock(FACTS, TRAIN, SUITES, BUDGET, 1e10, "cpu", threads=2)
    assert two.training(lora(8)) == pytest.approx(expected - values * run_time.VALUE_SECONDS["cpu"] / 2)


def test_a_study_in_float32_is_timed_at_its_speed(read: Callable[..., Study]) -> None:
    machine = machine_facts(flops_per_second=1e12, flops_per_second_float32=1e11)
    study = read()

    def seconds(dtype: str) -> float:
        models = tuple(spec.model_copy(update={"dtype": dtype}) for spec in study.models)
        asked = study.model_copy(update={"models": models})
        plan = make_plan(asked, [FACTS], {FACTS.name: [TRAIN]}, {FACTS.name: SUITES}, machine)
        assert plan.resolved.thread_count == 1
        return plan.runs[0].seconds

    arm = planned(study).runs[0].arm
    timed = [Clock(FACTS, TRAIN, SUITES, study.budget, speed, "cpu") for speed in (1e12, 1e11)]
    parts = [one.training(arm) + one.validation(arm) + one.scoring(arm) for one in timed]
    assert [seconds("bfloat16"), seconds("float32")] == pytest.approx(parts)
    assert parts[0] < parts[1]


def test_a_forward_is_a_third_of_what_full_fine_tuning_computes() -> None:
    full = Arm(label="full", method="full", learning_rate=1e-5)
    tokens, completions = TRAIN.token_count, TRAIN.completion_token_count
    forward = forward_flops(full, FACTS, tokens, completions, tokens / TRAIN.row_count)
    trained = train_flops(full, FACTS, TRAIN, Budget(epochs=1, batch_size=8))
    assert [3 * part for part in forward] == pytest.approx(list(trained))


def planned(study: Study) -> Plan:
    return make_plan(study, [FACTS], {FACTS.name: [TRAIN]}, {FACTS.name: SUITES}, machine_facts())


def test_the_plan_counts_validation_base_analysis_and_derived_runs(read: Callable[..., Study]) -> None:
    study = read()
    plain = planned(study)
    inside = planned(study.model_copy(update={"analysis": study.analysis.model_copy(update={"enabled": True})}))
    resolved = plain.resolved
    speed = (machine_facts().flops_per_second or 3e10) * resolved.thread_count
    timed = Clock(FACTS, TRAIN, SUITES, study.budget, speed, "cpu", threads=resolved.thread_count)
    arm = plain.runs[-1].arm
    assert plain.runs[-1].seconds == pytest.approx(timed.training(arm) + timed.validation(arm) + timed.scoring(arm))
    assert timed.validation(arm) > 0
    assert plain.base_seconds == pytest.approx(timed.scoring(None))
    assert plain.derived_seconds == 0
    more = inside.runs[-1].seconds - plain.runs[-1].seconds
    assert more == pytest.approx(timed.inside(arm, study.analysis.probe_items))
    assert more > 0
    # ranks 4 and 8: of 8 one lower rank, one by energy, intruders with their control, and two dials by layer; of full
    # its spectrum cut and two dials by layer
    full = plain.runs[0].arm
    assert full.traits.whole
    assert inside.derived_seconds == pytest.approx(6 * timed.scoring(arm) + 3 * timed.scoring(full))
