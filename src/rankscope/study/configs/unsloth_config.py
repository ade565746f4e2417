"""The arguments of an unsloth script as JSON (or YAML): of from_pretrained, get_peft_model and SFTConfig.

Either one mapping for each call, under its name, or all arguments in one mapping. An argument that is not given has
unsloth's default. Source: github.com/unslothai/unsloth, unsloth/models/loader.py and llama.py.
"""

from __future__ import annotations

from collections.abc import Iterable

from rankscope.study.configs.config_keys import ConfigKeys
from rankscope.study.configs.config_record import Adapter, BaseModel, DataSet, TrainingConfig
from rankscope.study.configs.config_tool import Beside, ConfigTool
from rankscope.study.configs.trainer_arguments import NO_MATTER, dtype_of, tell_packing, trainer_arguments

_CALLS = (
    "from_pretrained", "get_peft_model", "SFTConfig", "TrainingArguments", "UnslothTrainingArguments", "SFTTrainer",
    "UnslothTrainer", "get_chat_template", "load_dataset", "train_on_responses_only",
)  # fmt: skip
MARKS = {
    **{call: 5 for call in _CALLS if call not in ("SFTConfig", "TrainingArguments", "SFTTrainer")},
    **{f"{owner}.from_pretrained": 6 for owner in ("FastLanguageModel", "FastModel", "FastVisionModel")},
    **{f"{owner}.get_peft_model": 6 for owner in ("FastLanguageModel", "FastModel", "FastVisionModel")},
    "SFTConfig": 3, "TrainingArguments": 3, "SFTTrainer": 3, "model_name": 2, "max_seq_length": 2, "r": 2,
    "random_state": 3, "use_gradient_checkpointing": 3, "full_finetuning": 3, "lora_alpha": 1, "target_modules": 1,
    "load_in_4bit": 1, "per_device_train_batch_size": 1,
}  # fmt: skip
_SEVEN = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_NO_MATTER = (
    *NO_MATTER, "device_map", "token", "use_gradient_checkpointing", "fast_inference", "gpu_memory_utilization",
    "max_lora_rank", "float8_kv_cache", "dataset_num_proc", "tokenizer", "model", "processing_class", "args",
    "train_dataset", "fix_tokenizer", "use_exact_model_name", "temporary_location", "unsloth_*", "instruction_part",
    "response_part", "layers_pattern", "task_type", "mapping", "map_eos_token", "num_proc", "callbacks",
)  # fmt: skip
_LOST = {
    "loftq_config": "an adapter starts as PEFT's default",
    "modules_to_save": "embeddings and heads are not trained beside an adapter",
    "layers_to_transform": "adapters are put on every layer",
    "rope_scaling": "the model's own settings of positions are used",
    "embedding_learning_rate": "one rate for all weights of an arm",
    "load_in_8bit": "a base is held in its own dtype or in nf4",
    "load_in_16bit": "the plan chooses the dtype",
    "finetune_vision_layers": "only text is read",
    "formatting_func": "rows are read by docs/data.md's shapes, or by a `template`",
    "data_collator": "batches are made of rows by their shapes",
    "init_lora_weights": "an adapter starts as PEFT's default",
}


def read(keys: ConfigKeys, beside: Beside) -> TrainingConfig:
    """The arguments in the study's words. Raises InputProblems for values of a wrong type."""
    loading = _call(keys, "from_pretrained")
    adapting = _call(keys, "get_peft_model")
    training = _call(keys, "SFTConfig", "TrainingArguments", "UnslothTrainingArguments")
    trainer = _call(keys, "SFTTrainer", "UnslothTrainer")
    given = trainer.section("args") if trainer is not keys and trainer.has("args") else training
    arguments = trainer_arguments(given)
    longest = loading.count("max_seq_length") or given.count("max_length", "max_seq_length")
    trainer.take("max_seq_length")
    adapting.take("max_seq_length")
    whole = loading.flag("full_finetuning")
    model = _model(keys, loading, quantized=not whole)
    arguments["gradient_checkpointing"] = adapting.take("use_gradient_checkpointing") not in (None, False) or None
    field = given.text("dataset_text_field") or trainer.text("dataset_text_field")
    if any([given.flag("packing"), trainer.flag("packing")]):
        tell_packing(given, "packing", arguments["batch_size"])
    adapter, random_state = _adapter(adapting, whole=whole), adapting.count("random_state")
    for part in {id(one): one for one in (loading, adapting, given, trainer)}.values():
        part.lose(_LOST)
    data = _data(keys, field)
    if data and field == "text":
        keys.note(
            "dataset_text_field: text: the text that your script makes is not in the data set; its rows are read as "
            "they are. Give the prompt as the training set's `template` where it is none of docs/data.md's"
        )
    keys.take("train_on_responses_only")  # what a study does
    arguments["seed"] = arguments["seed"] if arguments["seed"] is not None else random_state
    config = TrainingConfig(
        tool="unsloth", model=model, adapter=adapter, train=data, sequence_tokens=longest or 2048,
        not_carried=keys.not_carried, no_data=None if data else "no data set among the arguments", **arguments,
    )  # fmt: skip
    keys.finish(_NO_MATTER, (*MARKS, *_SEVEN))
    return config


def _call(keys: ConfigKeys, *names: str) -> ConfigKeys:
    """The arguments of a call: the mapping under its name (or `FastLanguageModel.` and its name), else all of them."""
    owners = ("", "FastLanguageModel.", "FastModel.", "FastVisionModel.")
    named: Iterable[str] = (f"{owner}{name}" for name in names for owner in owners)
    key = next((key for key in named if keys.has(key)), None)
    return keys.section(key) if key is not None else keys


def _model(keys: ConfigKeys, loading: ConfigKeys, *, quantized: bool) -> BaseModel:
    name = loading.text("model_name", "pretrained_model_name_or_path")
    four = loading.flag("load_in_4bit", default=quantized)
    if name is not None and name.endswith(("-bnb-4bit", "-unsloth-bnb-4bit")):
        plain = name.removesuffix("-bnb-4bit").removesuffix("-unsloth")
        keys.note(f"model_name: {name}: weights that are 4-bit already; the study holds {plain} in 4 bits (nf4)")
        name, four = plain, True
    template = _call(keys, "get_chat_template")
    text = template.text("chat_template")
    if text is not None and "{" not in text:
        keys.note(
            f"chat_template: {text}: a template that unsloth has by this name. The study uses the tokenizer's own; "
            "where that has none or another, put the text into the study as `model.chat_template`"
        )
        text = None
    return BaseModel(
        id=name, revision=loading.text("revision"), dtype=dtype_of(loading.text("dtype"), loading),
        trust_remote_code=loading.flag("trust_remote_code"), quantization="nf4" if four else None, chat_template=text,
    )  # fmt: skip


def _adapter(adapting: ConfigKeys, *, whole: bool) -> Adapter:
    rank, alpha = adapting.count("r") or 16, adapting.number("lora_alpha") or 16.0
    dropout, targets = adapting.number("lora_dropout") or 0.0, adapting.names("target_modules")
    stabilised = adapting.flag("use_rslora")
    if adapting.has("bias") and adapting.text("bias") != "none":
        adapting.lost("bias", "biases are not trained beside an adapter")
    for part in ("finetune_language_layers", "finetune_attention_modules", "finetune_mlp_modules"):
        if not adapting.flag(part, default=True):
            adapting.note(f"{adapting.name(part)}: false: `targets` of the arms says which modules have an adapter")
    if whole:
        return Adapter("full")
    return Adapter(
        "rslora" if stabilised else "lora",
        rank,
        alpha,
        dropout,
        None if targets == ("all-linear",) else targets or _SEVEN,
    )


def _data(keys: ConfigKeys, field: str | None) -> tuple[DataSet, ...]:
    """A data set by id or file, under `load_dataset`, `dataset` or `dataset_name`."""
    columns = None if field in (None, "text") else {"text": str(field)}
    key = next((key for key in ("load_dataset", "dataset") if keys.has(key)), "dataset")
    if keys.has(key) and not isinstance(keys.take(key), str):
        one = keys.section(key)
        where, files = one.text("path", "name_or_path", "id") or "", one.names("data_files")
        where = files[0] if files else where
        config, split = one.text("name", "config"), one.text("split")
        return (DataSet(where, one.name("path"), config=config, split=split or "train", columns=columns,
                        judged_by_loss=None),)  # fmt: skip
    name = keys.text(key) or keys.text("dataset_name")
    split = keys.text("dataset_split", "split")
    if name is None:
        return ()
    return (DataSet(name, key, split=split or "train", columns=columns, judged_by_loss=None),)


TOOLS = (ConfigTool(name="unsloth", title="unsloth", marks=MARKS, read=read),)
