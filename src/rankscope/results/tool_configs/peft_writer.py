"""An arm as PEFT's LoraConfig: adapter_config.json, and in a README.md what such a file has no words for."""

from __future__ import annotations

import json
from collections.abc import Mapping

from rankscope.results.tool_configs.trained_arm import LOW_RANK, ToolWriter, TrainedArm, told
from rankscope.results.tool_configs.trl_writer import trainer_settings

NAME = "adapter_config.json"


def write(trained: TrainedArm) -> Mapping[str, str]:
    """adapter_config.json, which LoraConfig.from_pretrained loads, and README.md with the training's settings."""
    arm = trained.arm
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": trained.base,
        "revision": trained.model.revision,
        "r": arm.rank,
        "lora_alpha": trained.alpha,
        "lora_dropout": arm.dropout,
        "target_modules": trained.target_names or "all-linear",
        "bias": "none",
        "init_lora_weights": "pissa" if arm.method == "pissa" else True,
        "use_rslora": arm.method == "rslora",
        "use_dora": arm.method == "dora",
    }
    training = trainer_settings(trained) | {"max_length": trained.study.budget.max_sequence_tokens}
    own: tuple[str, ...] = ("training: " + ", ".join(f"{key} {value}" for key, value in training.items()),)
    if trained.model.quantization is not None:
        own += ("the base is held in 4 bits: BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type='nf4')",)
    lines = "".join(f"- {line}\n" for line in told(trained, own=own))
    load = "    from peft import LoraConfig\n    config = LoraConfig.from_pretrained('.')\n"
    return {
        NAME: json.dumps(settings, indent=2, sort_keys=True) + "\n",
        "README.md": f"# {arm.label} for PEFT, by rankscope\n\n{load}\nWhat the file cannot say:\n\n{lines}",
    }


WRITERS = (ToolWriter(name="peft", title="PEFT", methods=LOW_RANK, write=write, rows=()),)
