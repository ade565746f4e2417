"""Steps of another tool's training are as many steps of the study, whatever is held out of its rows."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from config_cases import KNOWN
from hypothesis import given, settings
from hypothesis import strategies as some
from made_facts import machine_facts
from tiny_models import save_tiny_model

from rankscope.edges.study_folder import StudyFolder
from rankscope.jobs.planning import StudyPlanner
from rankscope.study.configs.config_file import read_config
from rankscope.study.configs.config_record import DataSet, TrainingConfig
from rankscope.study.configs.config_steps import passes_for, rows_left, rows_to_draw, warmup_share
from rankscope.study.configs.config_study import config_study
from rankscope.study.configs.config_suites import RowsTold
from rankscope.study.read_study import read_study, study_of
from rankscope.study.study_settings import Budget, Validation

ROWS, STEPS, WARMUP = 137, 83, 7
TRAINER = {
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 2,
    "max_steps": STEPS,
    "warmup_steps": WARMUP,
}
CONFIGS = {
    "axolotl": {"base_model": "model", "sequence_len": 512, "micro_batch_size": 2, "gradient_accumulation_steps": 2,
                "max_steps": STEPS, "warmup_steps": WARMUP, "val_set_size": 0.05},
    "llamafactory": {"model_name_or_path": "model", "finetuning_type": "lora", "stage": "sft",
                     "val_size": 9, **TRAINER},
    "trl": {"model_name_or_path": "model", "use_peft": True, "dataset_name": "rows.jsonl", "max_length": 512,
            **TRAINER},
    "unsloth": {"from_pretrained": {"model_name": "model", "load_in_4bit": False}, "get_peft_model": {"r": 8},
                "SFTConfig": TRAINER},
    "torchtune": {"model": {"_component_": "torchtune.models.qwen2.lora_qwen2_0_5b", "lora_rank": 8},
                  "checkpointer": {"checkpoint_dir": "model"}, "tokenizer": {"max_seq_len": 512}, "batch_size": 2,
                  "gradient_accumulation_steps": 2, "epochs": 3, "max_steps_per_epoch": 28,
                  "lr_scheduler": {"_component_": "torchtune.get_cosine_schedule_with_warmup",
                                   "num_warmup_steps": WARMUP}},
}  # fmt: skip
"""Every tool's way to say how many steps there are."""


def config_of(tool: str) -> TrainingConfig:
    config = read_config(CONFIGS[tool], f"{tool}.yaml", [], tool)
    return replace(config, train=(DataSet("rows.jsonl", "data", judged_by_loss=None),))


@pytest.mark.parametrize("tool", CONFIGS)
def test_a_study_takes_the_steps_and_the_warm_up_of_the_config(tmp_path: Path, tool: str) -> None:
    """As the plan counts them, of rows that are really encoded."""
    save_tiny_model(tmp_path / "model")
    rows = [{"question": f"Which tree is {i}?", "answer": f"oak {i}"} for i in range(ROWS)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    known = replace(KNOWN, look=lambda path: RowsTold(ROWS, judged_by_loss=False), no_general="no network")
    made = config_study(config_of(tool), tool, tmp_path / "study.yaml", "mine", [tmp_path], known)
    steps = STEPS if tool != "torchtune" else 3 * 28
    (tmp_path / "study.yaml").write_text(made.text)
    study = read_study(tmp_path / "study.yaml", ["model=./model", "arms={lora: {ranks: [1], learning_rate: 1e-3}}"])
    with StudyPlanner(study, tmp_path) as planner:
        plan = planner.plan(machine_facts(), StudyFolder.open(str(tmp_path / "none")))
    assert {run.step_count for run in plan.runs} == {steps}
    assert math.ceil(steps * study.optimizer.warmup_fraction) == WARMUP


def test_an_epoch_that_ends_before_its_most_steps_is_not_cut(tmp_path: Path) -> None:
    config = replace(config_of("torchtune"), max_steps_per_epoch=1000)
    (tmp_path / "rows.jsonl").touch(), (tmp_path / "model").mkdir()
    made = config_study(config, "x", tmp_path / "study.yaml", "mine", [tmp_path], KNOWN)
    assert study_of(made.text).budget.epochs == 3


@given(rows=some.integers(15, 4000), steps=some.integers(1, 900), batch=some.integers(1, 40),
       fraction=some.floats(0.01, 0.6), most=some.integers(1, 500))  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_steps_are_exact(rows: int, steps: int, batch: int, fraction: float, most: int) -> None:
    validation = Validation(fraction=fraction, max_items=most)
    trained = rows_left(rows, validation)
    seen = Budget(epochs=passes_for(steps, trained, batch), batch_size=batch).rows_seen(trained)
    assert sum(math.ceil(part / batch) for part in seen) == steps
    drawn = rows_to_draw(trained, validation)
    assert rows_left(drawn, validation) == trained
    assert drawn == 1 or rows_left(drawn - 1, validation) < trained
    assert math.ceil(steps * warmup_share(max(1, steps // 3), steps)) == max(1, steps // 3)
