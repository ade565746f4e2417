"""The keys that other tools' own schemas have, of those that we write, with the types that they take.

Read from the sources that are named, whose code is not here. Keys that LLaMA-Factory has from transformers' arguments
are looked up in transformers itself.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from transformers import Seq2SeqTrainingArguments

AXOLOTL: dict[str, tuple[type, ...]] = {
    "base_model": (str,), "revision_of_model": (str,), "trust_remote_code": (bool,), "load_in_4bit": (bool,),
    "adapter": (str,), "lora_r": (int,), "lora_alpha": (int,), "lora_dropout": (float, int),
    "lora_target_linear": (bool,), "lora_target_modules": (str, list), "peft_use_rslora": (bool,),
    "peft_use_dora": (bool,), "peft_init_lora_weights": (bool, str), "sequence_len": (int,), "sample_packing": (bool,),
    "micro_batch_size": (int,), "gradient_accumulation_steps": (int,), "num_epochs": (float, int), "optimizer": (str,),
    "learning_rate": (str, float), "lr_scheduler": (str,), "warmup_steps": (int,), "weight_decay": (float, int),
    "max_grad_norm": (float, int), "seed": (int,), "bf16": (str, bool), "gradient_checkpointing": (str, bool),
    "val_set_size": (float, int), "output_dir": (str,), "datasets": (list,), "test_datasets": (list,),
}  # fmt: skip
"""AxolotlInputConfig and its parents: axolotl-ai-cloud/axolotl, src/axolotl/utils/schemas, at 067b021c8b87."""

AXOLOTL_DATA: dict[str, tuple[type, ...]] = {
    "path": (str,), "ds_type": (str,), "split": (str,), "type": (str, dict, type(None)),
}  # fmt: skip
"""SFTDataset of the same."""

LLAMAFACTORY: dict[str, tuple[type, ...]] = {
    "model_name_or_path": (str,), "model_revision": (str,), "trust_remote_code": (bool,), "quantization_bit": (int,),
    "stage": (str,), "finetuning_type": (str,), "freeze_trainable_layers": (int,), "lora_rank": (int,),
    "lora_alpha": (int,), "lora_dropout": (float, int), "lora_target": (str,), "use_rslora": (bool,),
    "use_dora": (bool,), "pissa_init": (bool,), "dataset": (str,), "tokenized_path": (str,), "template": (str,),
    "cutoff_len": (int,), "packing": (bool,), "disable_gradient_checkpointing": (bool,),
}  # fmt: skip
"""The dataclasses of hiyouga/LLaMA-Factory, src/llamafactory/hparams, at ff6d4d12eeb0."""

TRAINER_TYPES: dict[str, tuple[type, ...]] = {
    "do_train": (bool,), "bf16": (bool,), "optim": (str,), "lr_scheduler_type": (str,), "report_to": (str,),
    "output_dir": (str,), "per_device_train_batch_size": (int,), "gradient_accumulation_steps": (int,),
    "warmup_steps": (int, float), "seed": (int,), "num_train_epochs": (int, float), "learning_rate": (float,),
    "weight_decay": (int, float), "max_grad_norm": (int, float),
}  # fmt: skip


def trainer_keys() -> dict[str, tuple[type, ...]]:
    """Of transformers' arguments, which LLaMA-Factory's inherit, those with a type above."""
    there = {field.name for field in fields(Seq2SeqTrainingArguments)}
    return {key: types for key, types in TRAINER_TYPES.items() if key in there}


def misfits(settings: dict[str, Any], known: dict[str, tuple[type, ...]]) -> list[str]:
    """The keys of written settings that a schema has not, or not with such a value."""
    return [key for key, value in settings.items() if key not in known or type(value) not in known[key]]
