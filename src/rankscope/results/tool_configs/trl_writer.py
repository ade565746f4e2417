"""An arm's training as a config of TRL's command line: `trl sft --config trl.yaml`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rankscope.results.tool_configs.trained_arm import (
    LOW_RANK,
    SCHEDULES,
    TRAIN_ROWS,
    ToolWriter,
    TrainedArm,
    commented,
    only_said,
    told,
)
from rankscope.study.yaml_text import dump_yaml

NAME = "trl.yaml"


def trainer_settings(trained: TrainedArm) -> dict[str, Any]:
    """What transformers' TrainingArguments say of the training, the same for every tool that is built on them."""
    budget, optimizer = trained.study.budget, trained.study.optimizer
    return {
        "per_device_train_batch_size": trained.micro_batch,
        "gradient_accumulation_steps": trained.accumulation,
        "num_train_epochs": budget.epochs,
        "learning_rate": trained.learning_rate,
        "lr_scheduler_type": SCHEDULES[optimizer.schedule],
        "warmup_steps": trained.warmup_steps,
        "weight_decay": optimizer.weight_decay,
        "max_grad_norm": optimizer.clip_norm,
        "optim": "adamw_torch",
        "seed": trained.seed,
        "bf16": trained.dtype == "bfloat16",
    }


def write(trained: TrainedArm) -> Mapping[str, str]:
    """trl.yaml. Rows are tokens, so that nothing is written by another template or cut at another length."""
    own: tuple[str, ...] = ("pissa starts as plain LoRA there: set init_lora_weights in a script of your own",)
    arm, whole = trained.arm, trained.arm.method == "full"
    settings = only_said(
        {
            "model_name_or_path": trained.base,
            "model_revision": trained.model.revision,
            "trust_remote_code": trained.model.trust_remote_code or None,
            "dtype": "float32",
            "load_in_4bit": True if trained.model.quantization == "nf4" else None,
            "datasets": [{"path": "json", "data_files": TRAIN_ROWS, "split": "train"}],
            "max_length": trained.study.budget.max_sequence_tokens,
            "completion_only_loss": True,
            "packing": False,
            "use_peft": not whole,
            "lora_r": arm.rank,
            "lora_alpha": None if whole else trained.alpha,
            "lora_dropout": None if whole else arm.dropout,
            "lora_target_modules": None if whole else trained.target_names or ["all-linear"],
            "use_rslora": True if arm.method == "rslora" else None,
            "use_dora": True if arm.method == "dora" else None,
            **trainer_settings(trained),
            "use_cpu": True if trained.device == "cpu" else None,
            "gradient_checkpointing": trained.checkpointing,
            "eval_strategy": "no",
            "report_to": "none",
            "output_dir": f"{arm.label}-by-trl",
        }
    )
    said = own if arm.method == "pissa" else ()
    if trained.device == "cpu":
        said = (*said, "use_cpu: the study ran on a CPU; without that line TRL takes a GPU")
    lines = told(trained, own=said)
    return {
        NAME: f"# {arm.label} for TRL, by rankscope. Train it:  trl sft --config {NAME}\n"
        f"{commented(lines)}{dump_yaml(settings)}"
    }


WRITERS = (ToolWriter(name="trl", title="TRL", methods=("full", *LOW_RANK), write=write),)
