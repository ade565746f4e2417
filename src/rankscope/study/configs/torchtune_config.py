"""torchtune's configs in YAML, whose parts name Python builders by `_component_`.

Source: github.com/pytorch/torchtune, recipes/configs and torchtune/datasets.
"""

from __future__ import annotations

from typing import Any

from rankscope.study.configs.config_keys import ConfigKeys
from rankscope.study.configs.config_record import Adapter, BaseModel, TrainingConfig
from rankscope.study.configs.config_tool import Beside, ConfigTool
from rankscope.study.configs.torchtune_data import read_data
from rankscope.study.study_settings import Schedule

COMPONENT = "_component_"
MARKS = {
    "checkpointer": 4, "tokenizer": 3, "model": 1, "optimizer_in_bwd": 3, "max_steps_per_epoch": 4, "dataset": 1,
    "metric_logger": 4, "enable_activation_checkpointing": 4, "gradient_accumulation_steps": 1, "lr_scheduler": 1,
    "epochs": 1, "clip_grad_norm": 3,
}  # fmt: skip
_NO_MATTER = (
    "output_dir", "metric_logger", "profiler", "log_*", "device", "compile", "resume_from_checkpoint", "shuffle",
    "save_*", "enable_activation_offloading", "optimizer_in_bwd", "batch_size_val", "run_val_every_n_steps", "loss",
    "low_cpu_ram", "fsdp_*", "tensor_parallel*", "custom_sharded_layers", "data_parallel*", "async_checkpointing",
    "keep_last_n_checkpoints", "checkpoint_files", "model_type", "recipe_checkpoint", "safe_serialization", "fused",
    "adapter_checkpoint", "enable_async_checkpointing", "use_distributed_state_dict", "cudnn_deterministic_mode",
    "context_parallel*", "activation_checkpointing_mode", "filename_format", "max_filename", COMPONENT, "merges_file",
    "path", "packed_*", "memory_efficient_fsdp_wrap", "quantize_base", "image_size", "name", "special_tokens_path",
    "num_output_chunks",
)  # fmt: skip
_HF_NAMES = {
    "output_proj": ("o_proj",), "q_proj": ("q_proj",), "k_proj": ("k_proj",), "v_proj": ("v_proj",),
    "mlp": ("gate_proj", "up_proj", "down_proj"),
}  # fmt: skip
_FUSED_NAMES = {
    "output_proj": ("o_proj",), "q_proj": ("qkv_proj",), "k_proj": ("qkv_proj",), "v_proj": ("qkv_proj",),
    "mlp": ("gate_up_proj", "down_proj"),
}  # fmt: skip
"""Names of modules in transformers; Phi-3 has its projections in one matrix."""
_SCHEDULES: dict[str, Schedule] = {"cosine": "cosine", "linear": "linear", "constant": "constant"}


def read(keys: ConfigKeys, beside: Beside) -> TrainingConfig:
    """The config in the study's words. Raises InputProblems for values of a wrong type."""
    model, tokenizer, loss = keys.section("model"), keys.section("tokenizer"), keys.section("loss")
    if any(word in (loss.text(COMPONENT) or "") for word in ("rlhf", "DPO", "PPO", "GRPO")):
        loss.wrong(COMPONENT, "a cross-entropy: a study is about supervised fine-tuning")
    built = _last(model.text(COMPONENT))
    adapter = _adapter(model, built)
    checkpointer = keys.section("checkpointer")
    folder = checkpointer.text("checkpoint_dir")
    checkpointer.take("output_dir")
    base = BaseModel(
        id=None if folder is None else folder.rstrip("/"),
        quantization="nf4" if built.startswith("qlora_") or model.flag("quantize_base") else None,
        dtype={"fp32": "float32"}.get(keys.text("dtype") or ""),
    )
    if tokenizer.has("prompt_template"):
        tokenizer.lost("prompt_template", "its text is needed: put it into the study as `model.chat_template`")
    optimizer, scheduler = keys.section("optimizer"), keys.section("lr_scheduler")
    _tell_optimizer(optimizer)
    data = read_data(keys)
    batch = (keys.count("batch_size") or 1) * (keys.count("gradient_accumulation_steps") or 1)
    epochs = keys.number("epochs") or 1.0
    steps = keys.count("max_steps_per_epoch")
    decay = optimizer.number("weight_decay")
    config = TrainingConfig(
        tool="torchtune", model=base, adapter=adapter, train=data.train, test=data.test, no_data=data.why_none,
        sequence_tokens=tokenizer.count("max_seq_len"), batch_size=batch, epochs=epochs,
        max_steps_per_epoch=steps if steps and steps > 0 else None, validation_share=data.validation_share,
        learning_rate=optimizer.number("lr"), schedule=_schedule(scheduler),
        warmup_steps=scheduler.count("num_warmup_steps"),
        warmup_fraction=None if scheduler.has("num_warmup_steps") else 0.0,
        weight_decay=0.01 if decay is None else decay, clip_norm=keys.number("clip_grad_norm") or 0.0,
        seed=keys.count("seed"), gradient_checkpointing=keys.flag("enable_activation_checkpointing") or None,
        not_carried=keys.not_carried,
    )  # fmt: skip
    keys.finish(_NO_MATTER, MARKS)
    return config


def _last(component: str | None) -> str:
    return (component or "").rsplit(".", 1)[-1]


def _adapter(model: ConfigKeys, built: str) -> Adapter:
    attention, mlp = model.names("lora_attn_modules") or (), model.flag("apply_lora_to_mlp")
    rank, alpha = model.count("lora_rank") or 8, model.number("lora_alpha") or 16.0
    dropout, dora = model.number("lora_dropout") or 0.0, model.flag("use_dora") or "dora_" in built
    model.lost("apply_lora_to_output", "the output head has no adapter")
    model.lose(dict.fromkeys(("encoder_trainable", "fusion_trainable", "decoder_trainable"), "only text is read"))
    if not built.startswith(("lora_", "qlora_", "dora_", "qdora_")):
        if "lora" in built or attention:
            model.note(f"model.{COMPONENT}: {built}: a builder that is not known; read as LoRA")
        else:
            return Adapter("full")
    table = _FUSED_NAMES if "phi3" in built or "phi4" in built else _HF_NAMES
    names = [name for part in (*attention, *(["mlp"] if mlp else [])) for name in table.get(part, (part,))]
    return Adapter("dora" if dora else "lora", rank, alpha, dropout, tuple(dict.fromkeys(names)) or None)


def _tell_optimizer(optimizer: ConfigKeys) -> None:
    given: Any = optimizer.text(COMPONENT) or "AdamW"
    if "8bit" in given:
        optimizer.note(
            f"optimizer: {given}: moments in 8 bits; the study keeps them whole. On CUDA `optimizer: {{name: "
            "adamw_8bit}` is the same"
        )
    elif "adamw" not in given.lower():
        optimizer.note(f"optimizer: {given}: every arm of a study is trained by AdamW")
    optimizer.lose({"betas": "AdamW has betas 0.9 and 0.999", "eps": "AdamW has eps 1e-8"})


def _schedule(scheduler: ConfigKeys) -> Schedule:
    """Of the builder's name; without a scheduler the rate is constant."""
    built = _last(scheduler.text(COMPONENT))
    scheduler.lost("num_cycles", "one half of a cosine")
    if not built:
        return "constant"
    known = next((schedule for word, schedule in _SCHEDULES.items() if word in built), None)
    if known is None:
        scheduler.note(f"lr_scheduler: {built}: a study has cosine, linear and constant; cosine stands in its place")
    return known or "cosine"


TOOLS = (ConfigTool(name="torchtune", title="torchtune", marks=MARKS, read=read),)
