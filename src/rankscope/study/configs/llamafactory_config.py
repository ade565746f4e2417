"""LLaMA-Factory's arguments, in YAML or JSON, with the data sets that its dataset_info.json describes.

Source: github.com/hiyouga/LLaMA-Factory, src/llamafactory/hparams and data/README.md.
"""

from __future__ import annotations

from typing import Any

from rankscope.study.configs.config_keys import ConfigKeys
from rankscope.study.configs.config_record import Adapter, BaseModel, DataSet, TrainingConfig
from rankscope.study.configs.config_tool import Beside, ConfigTool
from rankscope.study.configs.trainer_arguments import (
    NO_MATTER,
    dtype_of,
    lora_method,
    quantization_of,
    tell_packing,
    trainer_arguments,
)

MARKS = {
    "model_name_or_path": 1, "finetuning_type": 4, "stage": 3, "cutoff_len": 4, "lora_rank": 3, "lora_target": 3,
    "dataset": 2, "dataset_dir": 3, "template": 2, "quantization_bit": 3, "val_size": 3, "max_samples": 2,
    "learning_rate": 1, "per_device_train_batch_size": 1, "num_train_epochs": 1, "overwrite_cache": 2,
    "lora_alpha": 1, "lora_dropout": 1,
}  # fmt: skip
_NO_MATTER = (
    *NO_MATTER, "plot_loss", "overwrite_cache", "preprocessing_*", "tokenized_path", "media_dir", "use_unsloth*",
    "enable_liger_kernel", "low_cpu_mem_usage", "use_fast_tokenizer", "cache_dir", "infer_*", "vllm_*", "sglang_*",
    "export_*", "swanlab_*", "use_swanlab", "ray_*", "upcast_*", "use_reentrant_gc", "data_shared_file_system",
    "disable_gradient_checkpointing", "print_param_status", "buffer_size", "streaming", "offload_folder",
    "use_kv_cache", "quantization_device_map",
)  # fmt: skip
_LOST = {
    "loraplus_lr_ratio": "A and B have one rate; a study searches the rate for each rank",
    "loraplus_lr_embedding": "A and B have one rate",
    "additional_target": "embeddings and heads are not trained beside an adapter",
    "adapter_name_or_path": "training starts at the base; merge the adapter into it first",
    "train_on_prompt": "a study trains completions and assistant's turns",
    "mask_history": "every assistant's turn is trained",
    "mix_strategy": "each data set is a training set of its own",
    "interleave_probs": "each data set is a training set of its own",
    "neat_packing": "rows are not packed here",
    "tool_format": "calls of tools are written by the chat template",
    "enable_thinking": "thinking is switched off by the template's own option where it has one",
    "rope_scaling": "the model's own settings of positions are used",
    "resize_vocab": "no tokens are added",
    "add_tokens": "no tokens are added",
    "new_special_tokens": "no tokens are added",
    "add_special_tokens": "no tokens are added",
    "mixture_of_depths": "the model is fine-tuned as it is",
    "shift_attn": "attention is the model's own",
    "use_llama_pro": "blocks of the base are trained, not new ones",
    "freeze_trainable_modules": "blocks are trained whole",
    "disable_shuffling": "batches are a seeded shuffle of all rows",
    "pure_bf16": "the plan chooses the dtype; `model.dtype: bfloat16` forces it",
}
_OTHER_WAYS = ("use_galore", "use_apollo", "use_badam", "use_muon", "use_adam_mini")


def read(keys: ConfigKeys, beside: Beside) -> TrainingConfig:
    """The config in the study's words. Raises InputProblems for values of a wrong type, and where it is not about
    supervised fine-tuning."""
    stage = keys.text("stage") or "sft"
    if stage not in ("sft", "pt"):
        keys.wrong("stage", "sft or pt: a study is about supervised fine-tuning")
    arguments = trainer_arguments(keys)
    four_bits = keys.count("quantization_bit")
    method = keys.text("quantization_method") or "bnb"
    if four_bits is not None and (four_bits != 4 or method not in ("bnb", "bitsandbytes")):
        keys.note(f"quantization_bit: {four_bits} by {method}: a base is held in its own dtype or in 4 bits (nf4)")
    template = keys.text("template")
    if template not in (None, "empty") and stage == "sft":
        keys.note(
            f"template: {template}: a template that only LLaMA-Factory has by this name. The study uses the "
            "tokenizer's own; where that has none or another, put the text into the study as `model.chat_template`"
        )
    quantization_of(keys)
    model = BaseModel(
        id=keys.text("model_name_or_path"),
        revision=None if (revision := keys.text("model_revision")) == "main" else revision,
        dtype=dtype_of(keys.text("compute_dtype"), keys),
        trust_remote_code=keys.flag("trust_remote_code"),
        quantization="nf4" if four_bits == 4 else None,
        chat="never" if template == "empty" else "auto",
        system_prompt=keys.text("default_system"),
    )
    train, test, no_data = _data(keys, beside, plain=stage == "pt")
    if keys.flag("packing", default=stage == "pt"):
        tell_packing(keys, "packing", arguments["batch_size"])
    keys.lose(_LOST)
    keys.lose(dict.fromkeys(_OTHER_WAYS, "every arm of a study is trained by AdamW"))
    keys.lose(dict.fromkeys(("use_dft_loss", "use_asft_loss", "use_eaft_loss"), "the loss is plain cross-entropy"))
    size = keys.number("val_size") or 0.0
    config = TrainingConfig(
        tool="LLaMA-Factory", model=model, adapter=_adapter(keys), train=train, test=test,
        sequence_tokens=keys.count("cutoff_len") or 2048, validation_share=size if 0 < size < 1 else None,
        validation_rows=int(size) if size >= 1 else None, not_carried=keys.not_carried, no_data=no_data, **arguments,
    )  # fmt: skip
    keys.finish((*_NO_MATTER, *(f"{way.removeprefix('use_')}_*" for way in _OTHER_WAYS)), MARKS)
    return config


def _adapter(keys: ConfigKeys) -> Adapter:
    kind = keys.text("finetuning_type") or "lora"
    rank, alpha = keys.count("lora_rank") or 8, keys.number("lora_alpha")
    targets, dropout = keys.names("lora_target"), keys.number("lora_dropout") or 0.0
    layers, method = keys.count("freeze_trainable_layers") or 2, lora_method(keys)
    keys.take("pissa_iter", "pissa_convert", "create_new_adapter")
    if keys.flag("pissa_init"):
        method = "pissa"
    if kind == "full":
        return Adapter("full")
    if kind == "freeze":
        return Adapter("last-k-layers", layers=layers)
    if kind != "lora":
        keys.note(f"finetuning_type: {kind}: no method of a study; LoRA stands in its place (docs/models.md has more)")
    return Adapter(method, rank, alpha or 2.0 * rank, dropout, None if targets in (None, ("all",)) else targets)


def _data(
    keys: ConfigKeys, beside: Beside, *, plain: bool
) -> tuple[tuple[DataSet, ...], tuple[DataSet, ...], str | None]:
    """Training sets, test sets, and why there are none."""
    folder = keys.text("dataset_dir") or "data"
    limit = keys.count("max_samples")
    table = beside(f"{folder}/dataset_info.json")
    names, asked = keys.names("dataset") or (), keys.names("eval_dataset") or ()
    keys.flag("eval_on_each_dataset")
    if not names:
        return (), (), "no `dataset`"
    if not isinstance(table, dict):
        return (), (), f"dataset: {', '.join(names)}, which only {folder}/dataset_info.json explains; it is not there"
    for key, listed in (("dataset", names), ("eval_dataset", asked)):
        for name in listed:
            if not isinstance(table.get(name), dict):
                keys.problems.append(_no_such(keys, key, name, folder))
    keys.check()
    train, test = (
        tuple(_described(keys, key, name, table[name], folder, limit, plain=plain) for name in listed)
        for key, listed in (("dataset", names), ("eval_dataset", asked))
    )
    return train, test, None


def _no_such(keys: ConfigKeys, key: str, name: str, folder: str) -> Any:
    from rankscope.study.problems import Problem, show

    return Problem(keys.file, keys.name(key), show(name), f"a data set that {folder}/dataset_info.json describes")


def _described(
    keys: ConfigKeys, key: str, name: str, entry: dict[str, Any], folder: str, limit: int | None, *, plain: bool
) -> DataSet:
    """A data set as its entry of dataset_info.json describes it."""
    told = ConfigKeys(entry, f"{folder}/dataset_info.json", name, keys)
    file, hub = told.text("file_name"), told.text("hf_hub_url")
    told.take("ms_hub_url", "om_hub_url")
    where = hub or (f"{folder}/{file}" if file else told.text("cloud_file_name") or "")
    if not where:
        told.problems.append(_no_such(keys, key, name, folder))
    if told.flag("ranking"):
        told.note(f"{name}: pairs of better and worse answers: the better one is trained alone, if `columns` names it")
    columns = told.section("columns")
    if told.text("formatting") in ("sharegpt", "openai"):
        own = {"conversations": columns.text("messages") or "conversations"}
        tags = told.section("tags")
        if tags.text("role_tag") == "role":
            own = {"messages": own["conversations"]}
        tags.take("content_tag", "user_tag", "assistant_tag", "observation_tag", "function_tag", "system_tag")
    elif plain:
        own = {"text": columns.text("prompt") or "text"}
    else:
        usual = {
            "instruction": ("prompt", "instruction"),
            "input": ("query", "input"),
            "output": ("response", "output"),
        }
        own = {field: columns.text(theirs) or default for field, (theirs, default) in usual.items()}
        columns.lost("history", "earlier turns of Alpaca rows are not read")
    if (system := columns.text("system")) is not None:
        own["system"] = system
    columns.lose(dict.fromkeys(("tools", "images", "videos", "audios", "kto_tag"), "only text is read"))
    columns.take("chosen", "rejected", "prompt", "query", "response", "messages")
    return DataSet(
        where, keys.name(key), name=name, config=told.text("subset"), columns=own,
        split=told.text("split") or ("train" if hub else None), limit=told.count("num_samples") or limit,
        judged_by_loss=True,
    )  # fmt: skip


TOOLS = (ConfigTool(name="llamafactory", title="LLaMA-Factory", marks=MARKS, read=read),)
