"""An arm's training as a config of LLaMA-Factory: `llamafactory-cli train llamafactory.yaml`."""

from __future__ import annotations

from collections.abc import Mapping

from rankscope.results.tool_configs.trained_arm import (
    LOW_RANK,
    ToolWriter,
    TrainedArm,
    commented,
    only_said,
    told,
)
from rankscope.results.tool_configs.trl_writer import trainer_settings
from rankscope.study.yaml_text import dump_yaml

NAME = "llamafactory.yaml"
ROWS = "tokenized"


def write(trained: TrainedArm) -> Mapping[str, str]:
    """llamafactory.yaml. Rows are tokens, in a saved data set that it reads in place of `dataset`."""
    arm = trained.arm
    last = arm.method == "last-k-layers"
    own = ("dataset and template are asked for by name and not used: the rows in tokenized/ are tokens already",)
    settings = only_said(
        {
            "model_name_or_path": trained.base,
            "model_revision": trained.model.revision,
            "trust_remote_code": trained.model.trust_remote_code or None,
            "quantization_bit": 4 if trained.model.quantization == "nf4" else None,
            "stage": "sft",
            "do_train": True,
            "finetuning_type": "full" if arm.method == "full" else "freeze" if last else "lora",
            "freeze_trainable_layers": arm.setting("layers") if last else None,
            "lora_rank": arm.rank,
            "lora_alpha": trained.alpha if trained.low_rank else None,
            "lora_dropout": arm.dropout if trained.low_rank else None,
            "lora_target": (",".join(trained.target_names or ["all"])) if trained.low_rank else None,
            "use_rslora": True if arm.method == "rslora" else None,
            "use_dora": True if arm.method == "dora" else None,
            "pissa_init": True if arm.method == "pissa" else None,
            "dataset": "rankscope_rows",
            "tokenized_path": ROWS,
            "template": "empty",
            "cutoff_len": trained.study.budget.max_sequence_tokens,
            "packing": False,
            **trainer_settings(trained),
            "disable_gradient_checkpointing": not trained.checkpointing,
            "report_to": "none",
            "output_dir": f"{arm.label}-by-llamafactory",
        }
    )
    head = f"# {arm.label} for LLaMA-Factory, by rankscope. Train it:  llamafactory-cli train {NAME}\n"
    return {NAME: f"{head}{commented(told(trained, own=own))}{dump_yaml(settings)}"}


WRITERS = (
    ToolWriter(
        name="llamafactory", title="LLaMA-Factory", methods=("full", "last-k-layers", *LOW_RANK), write=write,
        rows=(ROWS,), rows_as_folder=True,
    ),
)  # fmt: skip
