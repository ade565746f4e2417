"""An arm's training as a config of axolotl: `axolotl train axolotl.yaml`."""

from __future__ import annotations

from collections.abc import Mapping

from rankscope.results.tool_configs.trained_arm import (
    LOW_RANK,
    SCHEDULES,
    TRAIN_ROWS,
    VALIDATION_ROWS,
    ToolWriter,
    TrainedArm,
    commented,
    only_said,
    told,
)
from rankscope.study.problems import InputProblems, Problem
from rankscope.study.yaml_text import dump_yaml

NAME = "axolotl.yaml"


def write(trained: TrainedArm) -> Mapping[str, str]:
    """axolotl.yaml. Rows are tokens: a data set without a `type`. Raises InputProblems for an alpha with a fraction,
    which axolotl's schema refuses."""
    if trained.low_rank and not isinstance(trained.alpha, int):
        expected = "a whole number, or another tool"
        raise InputProblems([Problem("--config", "axolotl", f"alpha {trained.alpha:g}", expected)])
    arm, whole, nf4 = trained.arm, trained.arm.method == "full", trained.model.quantization == "nf4"
    budget, optimizer = trained.study.budget, trained.study.optimizer
    settings = only_said(
        {
            "base_model": trained.base,
            "revision_of_model": trained.model.revision,
            "trust_remote_code": trained.model.trust_remote_code or None,
            "load_in_4bit": True if nf4 else None,
            "adapter": None if whole else "qlora" if nf4 else "lora",
            "lora_r": arm.rank,
            "lora_alpha": None if whole else trained.alpha,
            "lora_dropout": None if whole else arm.dropout,
            "lora_target_linear": True if not whole and trained.target_names is None else None,
            "lora_target_modules": None if whole else trained.target_names,
            "peft_use_rslora": True if arm.method == "rslora" else None,
            "peft_use_dora": True if arm.method == "dora" else None,
            "peft_init_lora_weights": "pissa" if arm.method == "pissa" else None,
            "sequence_len": budget.max_sequence_tokens,
            "sample_packing": False,
            "micro_batch_size": trained.micro_batch,
            "gradient_accumulation_steps": trained.accumulation,
            "num_epochs": budget.epochs,
            "optimizer": "adamw_torch",
            "learning_rate": trained.learning_rate,
            "lr_scheduler": SCHEDULES[optimizer.schedule],
            "warmup_steps": trained.warmup_steps,
            "weight_decay": optimizer.weight_decay,
            "max_grad_norm": optimizer.clip_norm,
            "seed": trained.seed,
            "bf16": trained.dtype == "bfloat16",
            "gradient_checkpointing": trained.checkpointing,
            "val_set_size": 0.0,
            "output_dir": f"./{arm.label}-by-axolotl",
        }
    )
    data = "".join(
        f"{key}:\n  - path: {file}\n    ds_type: json\n    split: train\n    type:\n"
        for key, file in (("datasets", TRAIN_ROWS), ("test_datasets", VALIDATION_ROWS))
    )
    head = f"# {arm.label} for axolotl, by rankscope. Train it:  axolotl train {NAME}\n"
    return {NAME: f"{head}{commented(told(trained))}{dump_yaml(settings)}{data}"}


WRITERS = (ToolWriter(name="axolotl", title="axolotl", methods=("full", *LOW_RANK), write=write),)
