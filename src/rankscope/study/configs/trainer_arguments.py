"""The arguments of transformers' Trainer and of PEFT, which several tools share, in the words of a TrainingConfig."""

from __future__ import annotations

from typing import Any

from rankscope.study.configs.config_keys import ConfigKeys
from rankscope.study.study_settings import Schedule

SCHEDULES: dict[str, Schedule] = {
    "cosine": "cosine",
    "linear": "linear",
    "constant": "constant",
    "constant_with_warmup": "constant",
}
_NEAREST: dict[str, Schedule] = {
    "cosine_with_restarts": "cosine",
    "cosine_with_min_lr": "cosine",
    "cosine_warmup_with_min_lr": "cosine",
    "polynomial": "linear",
    "warmup_stable_decay": "constant",
    "inverse_sqrt": "constant",
    "one_cycle": "cosine",
    "rex": "cosine",
}
_ADAMW = ("adamw_torch", "adamw_torch_fused", "adamw_hf", "adamw", "torch.optim.adamw", "adamw_apex_fused")

NO_MATTER = (
    "output_dir", "overwrite_output_dir", "logging_*", "log_*", "save_*", "report_to", "run_name", "eval_steps",
    "eval_strategy", "evaluation_strategy", "eval_on_start", "do_eval", "do_train", "do_predict", "per_device_eval_*",
    "eval_accumulation_steps", "push_to_hub*", "hub_*", "ddp_*", "fsdp*", "deepspeed", "tf32", "bf16*", "dataloader_*",
    "dataset_num_proc", "gradient_checkpointing_kwargs", "load_best_model_at_end", "metric_for_best_model", "project",
    "greater_is_better", "resume_from_checkpoint", "disable_tqdm", "include_*", "torch_compile*", "use_liger*",
    "remove_unused_columns", "attn_implementation", "flash_attn", "use_cache", "skip_memory_metrics", "data_seed",
    "accelerator_config", "torch_empty_cache_steps", "prediction_loss_only", "local_rank", "use_cpu", "trackio_*",
)  # fmt: skip
"""Arguments that decide where files go, what is shown, or how fast it is: nothing that a study measures."""


def schedule_of(keys: ConfigKeys, *names: str, default: Schedule = "linear") -> Schedule:
    """The schedule; the nearest of ours for one that a study has not, and told."""
    given = (keys.text(*names) or default).lower()
    if given in SCHEDULES:
        return SCHEDULES[given]
    nearest = _NEAREST.get(given, "cosine")
    keys.note(f"{keys.name(names[0])}: {given}: a study has cosine, linear and constant; {nearest} is the nearest")
    return nearest


def told_optimizer(keys: ConfigKeys, *names: str) -> None:
    """Say what a study's AdamW does in place of another optimizer."""
    given = keys.text(*names)
    word = (given or "adamw").lower()
    if word in _ADAMW:
        return
    if "adamw" in word and ("8bit" in word or "bnb" in word):
        told = "moments in 8 bits; the study keeps them whole. On CUDA `optimizer: {name: adamw_8bit}` is the same"
        keys.note(f"{keys.name(names[0])}: {given}: {told}")
    elif "adamw" in word:
        keys.note(f"{keys.name(names[0])}: {given}: trained by AdamW with its state in the device's memory")
    else:
        keys.note(f"{keys.name(names[0])}: {given}: every arm of a study is trained by AdamW")


def trainer_arguments(keys: ConfigKeys, *, batch_default: int = 8, rate_default: float = 5e-5) -> dict[str, Any]:
    """Fields of a TrainingConfig, of the arguments of transformers' TrainingArguments; its defaults where it is
    silent. `batch_default` and `rate_default`: of the class that the tool makes of it."""
    steps = keys.count("max_steps")
    warmup = keys.number("warmup_steps")
    fraction = keys.number("warmup_ratio")
    if warmup is not None and 0 < warmup < 1:  # a share since transformers 5
        fraction, warmup = warmup, None
    batch = keys.count("per_device_train_batch_size", "per_gpu_train_batch_size") or batch_default
    accumulation = keys.count("gradient_accumulation_steps") or 1
    told_optimizer(keys, "optim", "optimizer")
    keys.lose(
        {
            "fp16": "a study trains in bf16 or fp32",
            "group_by_length": "batches are a seeded shuffle of all rows",
            "train_sampling_strategy": "batches are a seeded shuffle of all rows",
            "neftune_noise_alpha": "no noise is added to embeddings",
            "label_smoothing_factor": "the loss is plain cross-entropy",
            "auto_find_batch_size": "micro-batches are found by the plan, and the batch stays as it is given",
            "lr_scheduler_kwargs": "the schedule has no settings of its own",
            "average_tokens_across_devices": "the loss is a mean over all tokens of a batch, on all devices",
        }
    )
    for key, usual in (("adam_beta1", 0.9), ("adam_beta2", 0.999), ("adam_epsilon", 1e-8)):
        if keys.has(key) and keys.number(key) != usual:
            keys.lost(key, f"AdamW has {usual:g} in a study")
    return {
        "batch_size": batch * accumulation,
        "epochs": keys.number("num_train_epochs") or 3.0,
        "max_steps": steps if steps is not None and steps > 0 else None,
        "learning_rate": keys.number("learning_rate") or rate_default,
        "schedule": schedule_of(keys, "lr_scheduler_type", "lr_scheduler"),
        "warmup_fraction": fraction if fraction is not None or warmup is not None else 0.0,
        "warmup_steps": int(warmup) if warmup else None,
        "weight_decay": keys.number("weight_decay") or 0.0,
        "clip_norm": keys.number("max_grad_norm") if keys.has("max_grad_norm") else 1.0,
        "seed": keys.count("seed"),
        "gradient_checkpointing": keys.flag("gradient_checkpointing") or None,
    }


def quantization_of(keys: ConfigKeys, four: str = "load_in_4bit", eight: str = "load_in_8bit") -> Any:
    """nf4 where the base is held in 4 bits; 8 bits and fp4 are told."""
    kind = keys.text("bnb_4bit_quant_type", "quantization_type")
    keys.flag("use_bnb_nested_quant", "double_quantization")
    keys.text("bnb_4bit_compute_dtype")
    in_eight = keys.flag(eight)
    if keys.flag(four):
        if kind not in (None, "nf4"):
            keys.note(f"{keys.name('bnb_4bit_quant_type')}: {kind}: a study holds a base in nf4")
        return "nf4"
    if in_eight:
        keys.note(f"{keys.name(eight)}: true: a base is held in its own dtype or in nf4, here in its own")
    return None


def tell_packing(keys: ConfigKeys, key: str, batch_rows: int) -> None:
    """Say that a packed batch holds more rows than a study's."""
    keys.note(
        f"{keys.name(key)}: true: rows are not packed here. {batch_rows} full sequences are one batch of yours: raise "
        "budget.batch_size to the rows that they hold"
    )


def lora_method(keys: ConfigKeys, *, dora: str = "use_dora", rslora: str = "use_rslora") -> str:
    """lora, dora or rslora by two flags; both at once are told, and rslora is left away."""
    is_dora, is_rank_stabilised = keys.flag(dora), keys.flag(rslora)
    if is_dora and is_rank_stabilised:
        keys.note(f"{keys.name(rslora)}: true: DoRA has the scale alpha/r here")
    return "dora" if is_dora else "rslora" if is_rank_stabilised else "lora"


def dtype_of(word: str | None, keys: ConfigKeys) -> str | None:
    """float32, bfloat16, or None for auto; fp16 is told."""
    plain = (word or "").removeprefix("torch.")
    if plain in ("float16", "fp16", "half"):
        keys.note(f"{keys.name('dtype')}: {word}: a study computes in bf16 or fp32")
    return {"bfloat16": "bfloat16", "bf16": "bfloat16", "float32": "float32", "fp32": "float32"}.get(plain)
