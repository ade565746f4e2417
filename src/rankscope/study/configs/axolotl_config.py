"""axolotl's config in YAML: what it says of model, adapter and training; axolotl_data.py reads its data sets.

Source: github.com/axolotl-ai-cloud/axolotl, src/axolotl/utils/schemas.
"""

from __future__ import annotations

from typing import Any

from rankscope.study.configs.axolotl_data import read_data
from rankscope.study.configs.config_keys import ConfigKeys
from rankscope.study.configs.config_record import Adapter, BaseModel, TrainingConfig
from rankscope.study.configs.config_tool import Beside, ConfigTool
from rankscope.study.configs.trainer_arguments import (
    NO_MATTER,
    lora_method,
    quantization_of,
    schedule_of,
    tell_packing,
    told_optimizer,
)

MARKS = {
    "base_model": 4, "micro_batch_size": 4, "sequence_len": 4, "datasets": 1, "adapter": 2, "num_epochs": 2,
    "val_set_size": 3, "lora_target_linear": 3, "sample_packing": 3, "lr_scheduler": 1, "lora_r": 1,
    "dataset_prepared_path": 3, "pretraining_dataset": 3, "evals_per_epoch": 2, "saves_per_epoch": 2,
}  # fmt: skip
_NO_MATTER = (
    *NO_MATTER, "wandb_*", "mlflow_*", "comet_*", "use_tensorboard", "dataset_prepared_path", "dataset_processes",
    "evals_per_epoch", "saves_per_epoch", "eval_sample_packing", "eval_batch_size", "eval_table*", "flash_attn*",
    "flash_attention", "xformers_attention", "sdp_attention", "flex_attention", "flex_attn*", "sage_attention",
    "eager_attention", "loss_watchdog_*", "special_tokens", "bf16", "bfloat16", "model_type", "tokenizer_type",
    "tokenizer_config", "base_model_config", "processor_type", "is_*_derived_model", "plugins", "liger_*", "strict",
    "cut_cross_entropy", "pad_to_sequence_len", "lora_on_cpu",
    "lora_mlp_kernel", "lora_qkv_kernel", "lora_o_kernel",
    "lora_embedding_kernel", "fused_attn_kernel", "use_scattermoe",
    "use_sonicmoe", "experts_implementation", "context_parallel_size", "dp_shard_size",
    "dp_replicate_size", "tensor_parallel_size", "gc_steps", "auto_resume_*",
    "low_cpu_mem_usage", "device_map", "max_memory", "gpu_memory_limit", "use_ray", "ray_*", "debug", "hf_use_*",
    "tokenizer_use_*", "shuffle_merged_datasets", "experimental_*", "use_kernels", "profiler_*", "sample_packing_*",
    "lora_modules_to_save_*", "skip_prepare_dataset", "unsloth_*", "local_rank", "chunked_cross_entropy*", "tiled_mlp*",
    "early_stopping_patience", "group_by_*", "ddp", "multipack_*", "remove_unused_columns", "save_*", "eot_tokens",
)  # fmt: skip
_LOST = {
    "lora_model_dir": "training starts at the base; merge the adapter into it first",
    "lora_modules_to_save": "embeddings and heads are not trained beside an adapter",
    "lora_target_parameters": "adapters are put on linear modules alone",
    "lora_rank_pattern": "one rank for all targets of an arm",
    "lora_alpha_pattern": "one alpha for all targets of an arm",
    "lora_fan_in_fan_out": "told from the model's own layers",
    "peft_layers_to_transform": "adapters are put on every layer",
    "peft_layers_pattern": "adapters are put on every layer",
    "peft_layer_replication": "every layer is used once",
    "loraplus_lr_ratio": "A and B have one rate; a study searches the rate for each rank",
    "loraplus_lr_embedding": "A and B have one rate",
    "relora": "an adapter is trained once, without restarts",
    "relora_prune_ratio": "an adapter is trained once",
    "relora_cpu_offload": "an adapter is trained once",
    "jagged_restart_steps": "the schedule has no restarts",
    "jagged_restart_warmup_steps": "the schedule has no restarts",
    "jagged_restart_anneal_steps": "the schedule has no restarts",
    "cosine_min_lr_ratio": "the cosine ends at 0",
    "cosine_constant_lr_ratio": "the cosine ends at 0",
    "lr_groups": "one rate for all weights of an arm",
    "embedding_lr": "one rate for all weights of an arm",
    "embedding_lr_scale": "one rate for all weights of an arm",
    "unfrozen_parameters": "`full` trains all weights; docs/models.md has other parts",
    "freeze_mm_modules": "only text is read",
    "neftune_noise_alpha": "no noise is added to embeddings",
    "train_on_inputs": "a study trains completions and assistant's turns",
    "fp16": "a study trains in bf16 or fp32",
    "float16": "a study trains in bf16 or fp32",
    "gptq": "a base is held in its own dtype or in nf4",
    "model_quantization_config": "a base is held in its own dtype or in nf4",
    "model_quantization_config_kwargs": "a base is held in its own dtype or in nf4",
    "tokens": "no tokens are added",
    "added_tokens_overrides": "no tokens are added",
    "chat_template_kwargs": "a chat template is used without further settings, thinking switched off",
    "excess_length_strategy": "a row that is too long is left out and counted, never cut",
    "streaming": "rows are encoded once, before training",
    "optim_args": "AdamW has betas 0.9 and 0.999, eps 1e-8",
    "peft": "the settings of PEFT are the study's own",
    "lr_quadratic_warmup": "the warm-up is linear",
    "curriculum_sampling": "batches are a seeded shuffle of all rows",
    "dataset_exact_deduplication": "rows that say the same are always kept once",
}


def read(keys: ConfigKeys, beside: Beside) -> TrainingConfig:
    """The config in the study's words. Raises InputProblems for values of a wrong type, and where it is not about
    supervised fine-tuning."""
    for key in ("rl", "reward_model", "process_reward_model"):
        if keys.flag(key) if key != "rl" else keys.text(key) is not None:
            keys.wrong(key, "none: a study is about supervised fine-tuning")
    micro, accumulation = keys.count("micro_batch_size") or 1, keys.count("gradient_accumulation_steps") or 1
    whole = keys.count("batch_size")
    told_optimizer(keys, "optimizer")
    adapter, quantization = _adapter(keys), quantization_of(keys)
    keys.lose(_LOST)
    for key, usual in (("adam_beta1", 0.9), ("adam_beta2", 0.999), ("adam_epsilon", 1e-8)):
        if keys.has(key) and keys.number(key) != usual:
            keys.lost(key, f"AdamW has {usual:g} in a study")
    if keys.flag("sample_packing") | keys.flag("multipack_real_batches"):
        tell_packing(keys, "sample_packing", whole or micro * accumulation)
    train, test, plain, no_data = read_data(keys)
    size = keys.number("val_set_size") or 0.0
    steps = keys.count("max_steps")
    warmup, fraction = keys.number("warmup_steps"), keys.number("warmup_ratio")
    if warmup is not None and 0 < warmup < 1:  # a share since transformers 5
        fraction, warmup = warmup, None
    config = TrainingConfig(
        tool="axolotl", model=_model(keys, quantization, plain=plain), adapter=adapter, train=train, test=test,
        sequence_tokens=keys.count("sequence_len") or 512, batch_size=whole or micro * accumulation,
        epochs=keys.number("num_epochs") or 1.0, max_steps=steps if steps and steps > 0 else None,
        validation_share=size if 0 < size < 1 else None, validation_rows=int(size) if size >= 1 else None,
        learning_rate=keys.number("learning_rate"), schedule=schedule_of(keys, "lr_scheduler", default="cosine"),
        warmup_fraction=0.03 if fraction is None and not warmup else fraction,
        warmup_steps=int(warmup) if warmup else None,
        weight_decay=keys.number("weight_decay") or 0.0,
        clip_norm=keys.number("max_grad_norm") if keys.has("max_grad_norm") else 1.0, seed=keys.count("seed"),
        gradient_checkpointing=_checkpointing(keys), not_carried=keys.not_carried, no_data=no_data,
    )  # fmt: skip
    keys.finish(_NO_MATTER, MARKS)
    return config


def _checkpointing(keys: ConfigKeys) -> bool | None:
    """True where it is asked for; ways to move activations elsewhere are told."""
    keys.lost("activation_offloading", "activations are computed again where memory needs it")
    if keys.has("gradient_checkpointing") and keys.take("gradient_checkpointing") in ("offload", "offload_disk"):
        keys.lost("gradient_checkpointing", "activations are computed again, and kept nowhere else")
        return True
    return keys.flag("gradient_checkpointing") or None


def _adapter(keys: ConfigKeys) -> Adapter:
    kind = keys.text("adapter")
    rank, alpha = keys.count("lora_r") or 8, keys.number("lora_alpha") or 16.0
    dropout, everything = keys.number("lora_dropout") or 0.0, keys.flag("lora_target_linear")
    targets = keys.names("lora_target_modules")
    method = lora_method(keys, dora="peft_use_dora", rslora="peft_use_rslora")
    start = keys.take("peft_init_lora_weights")
    if isinstance(start, str) and start.startswith("pissa"):
        method = "pissa"
    elif start not in (None, True):
        keys.lost("peft_init_lora_weights", "LoRA starts as PEFT's default; `pissa` is a method of its own")
    if kind is None:
        return Adapter("full")
    if kind not in ("lora", "qlora"):
        keys.note(f"adapter: {kind}: no method of a study; LoRA stands in its place (docs/models.md has more)")
    if targets is not None and any(mark in name for name in targets for mark in "\\*+(["):
        keys.note(f"lora_target_modules: {targets[0]}: a pattern; the study has all-linear")
        everything = True
    return Adapter(method, rank, alpha, dropout, None if everything else targets)


def _model(keys: ConfigKeys, quantization: Any, *, plain: bool) -> BaseModel:
    name, text = keys.text("chat_template"), keys.text("chat_template_jinja")
    if name not in (None, "jinja", "tokenizer_default") and text is None and not plain:
        keys.note(
            f"chat_template: {name}: a template that axolotl has by this name. The study uses the tokenizer's own; "
            "where that has none or another, put the text into the study as `model.chat_template`"
        )
    return BaseModel(
        id=keys.text("base_model"),
        revision=keys.text("revision_of_model", "model_revision"),
        trust_remote_code=keys.flag("trust_remote_code"),
        quantization=quantization,
        chat="never" if plain else "auto",
        chat_template=text,
        system_prompt=None if plain else keys.text("default_system_message"),
    )


TOOLS = (ConfigTool(name="axolotl", title="axolotl", marks=MARKS, read=read),)
