"""TRL's command line in YAML (`trl sft --config`): the keys of SFTConfig, ModelConfig, ScriptArguments and a mixture.

The alignment handbook's `dataset_mixture` and older names (max_seq_length, torch_dtype) are read too.
Source: github.com/huggingface/trl, trl/scripts/sft.py and trl/trainer/sft_config.py.
"""

from __future__ import annotations

from pathlib import Path

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
    "model_name_or_path": 1, "use_peft": 3, "dataset_name": 3, "dataset_train_split": 3, "dataset_mixture": 3,
    "max_length": 2, "max_seq_length": 1, "lora_r": 1, "lora_target_modules": 1, "completion_only_loss": 3,
    "assistant_only_loss": 3, "dataset_text_field": 2, "packing": 1, "torch_dtype": 1, "chat_template_path": 3,
    "learning_rate": 1, "per_device_train_batch_size": 1, "num_train_epochs": 1,
}  # fmt: skip
_FILES = (".json", ".jsonl", ".csv", ".parquet", ".arrow")
_OF_PREFERENCES = ("beta", "max_prompt_length", "rpo_alpha", "desirable_weight", "reward_funcs", "num_generations")
_NO_MATTER = (*NO_MATTER, "env", "dataset_streaming", "streaming", "ignore_bias_buffers", "pad_token", "pad_to_*")


def read(keys: ConfigKeys, beside: Beside) -> TrainingConfig:
    """The config in the study's words. Raises InputProblems for values of a wrong type."""
    for key in _OF_PREFERENCES:
        if keys.take(key) is not None:
            keys.wrong(key, "none: a study is about supervised fine-tuning")
    arguments = trainer_arguments(keys, rate_default=2e-5)
    model = BaseModel(
        id=keys.text("model_name_or_path"),
        revision=_revision(keys),
        dtype=dtype_of(keys.text("dtype", "torch_dtype"), keys),
        trust_remote_code=keys.flag("trust_remote_code"),
        quantization=quantization_of(keys),
        chat_template=_chat_template(keys),
    )
    train, test, share, rows = _data(keys)
    _tell_loss(keys)
    if keys.flag("packing"):
        tell_packing(keys, "packing", arguments["batch_size"])
    keys.lose(
        {
            "packing_strategy": "rows are not packed here",
            "eval_packing": "rows are not packed here",
            "padding_free": "batches are without padding where that is exact, by themselves",
            "model_init_kwargs": "how the model is loaded is for `model` to say",
            "dataset_kwargs": "rows are prepared as docs/data.md says",
            "eos_token": "a row ends with the tokenizer's own EOS, or what its chat template writes",
            "loss_type": "the loss is plain cross-entropy",
            "lora_modules_to_save": "embeddings and heads are not trained beside an adapter",
            "lora_target_parameters": "adapters are put on linear modules alone",
            "activation_offloading": "activations are computed again where memory needs it",
            "truncation_mode": "a row that is too long is left out and counted, never cut",
        }
    )
    if keys.has("lora_task_type") and keys.text("lora_task_type") != "CAUSAL_LM":
        keys.lost("lora_task_type", "a study fine-tunes causal language models")
    config = TrainingConfig(
        tool="TRL", model=model, adapter=_adapter(keys), train=train, test=test,
        sequence_tokens=keys.count("max_length", "max_seq_length") or 1024,
        validation_share=share, validation_rows=rows, not_carried=keys.not_carried, **arguments,
    )  # fmt: skip
    keys.finish(_NO_MATTER, MARKS)
    return config


def _adapter(keys: ConfigKeys) -> Adapter:
    rank, alpha = keys.count("lora_r") or 16, keys.number("lora_alpha") or 32.0
    dropout = keys.number("lora_dropout")
    targets, method = keys.names("lora_target_modules"), lora_method(keys)
    if not keys.flag("use_peft"):
        return Adapter(method="full")
    if targets is None:
        keys.note("lora_target_modules: not given: PEFT's choice for the architecture; the study has all-linear")
    if targets in (("all-linear",), None):
        targets = None
    return Adapter(method, rank, alpha, 0.05 if dropout is None else dropout, targets)


def _revision(keys: ConfigKeys) -> str | None:
    revision = keys.text("model_revision")
    return None if revision == "main" else revision


def _chat_template(keys: ConfigKeys) -> str | None:
    """A template's text; of a path, or of another model's name, the text is asked for."""
    text = keys.text("chat_template")
    if text is not None and "{" in text:
        return text
    name = text or keys.text("chat_template_path")
    if name is not None:
        keys.note(f"chat_template_path: {name}: its text is needed: put it into the study as `model.chat_template`")
    return None


def _data(keys: ConfigKeys) -> tuple[tuple[DataSet, ...], tuple[DataSet, ...], float | None, int | None]:
    """Training sets, test sets, and the share or the rows that the tool would split off."""
    field = keys.text("dataset_text_field")
    columns = None if field in (None, "text") else {"text": str(field)}
    mixture = keys.section("dataset_mixture")
    listed = [_of_mixture(one) for one in (*keys.sections("datasets"), *mixture.sections("datasets"))]
    mixture.lost("seed", "of the tool's own split")
    size = mixture.number("test_split_size") or keys.number("test_split_size")
    where, split = keys.text("dataset_name"), keys.text("dataset_train_split")
    config, test_split = keys.text("dataset_config"), keys.text("dataset_test_split")
    evaluates = keys.text("eval_strategy", "evaluation_strategy") not in (None, "no") or keys.flag("do_eval")
    test: tuple[DataSet, ...] = ()
    if where is not None and not listed:
        of_split = split or "train"
        listed = [DataSet(where, "dataset_name", config=config, split=of_split, columns=columns, judged_by_loss=None)]
        in_one_file = Path(where).suffix in _FILES  # which has no splits: the tool would look for another set
        if (evaluates and not in_one_file) or test_split is not None:
            asked = test_split or "test"
            test = (DataSet(where, "dataset_test_split", config=config, split=asked, columns=columns),)
    share = size if size is not None and size < 1 else None
    return tuple(listed), test, share, int(size) if size is not None and size >= 1 else None


def _of_mixture(one: ConfigKeys) -> DataSet:
    named = one.text("path", "id") or ""
    files = one.names("data_files")
    if named in ("json", "csv", "parquet", "text") and files:
        if len(files) > 1:
            one.note(f"{one.name('data_files')}: {len(files)} files: {files[0]} alone is read")
        named = files[0]
    if not named:
        one.wrong("path", "a file, or an id of the hub")
    one.take("columns")  # which columns are kept: the shape of a row says it
    weight = one.number("fraction", "weight")
    if weight is not None and weight != 1:
        one.note(f"{one.name('weight')}: {weight:g}: all rows are trained on (`limit` draws some)")
    one.lost("data_dir", "the data set is read as a whole")
    return DataSet(
        named, one.name("path"), config=one.text("name", "config"), split=one.text("split") or "train",
        judged_by_loss=None,
    )  # fmt: skip


def _tell_loss(keys: ConfigKeys) -> None:
    """Which tokens have loss: a study trains completions and assistant's turns."""
    assistant, completion = keys.take("assistant_only_loss"), keys.take("completion_only_loss")
    if completion is False:
        keys.note("completion_only_loss: false: a study trains completions alone, given their prompts")
    if not assistant:
        keys.note(
            "assistant_only_loss: not set: of conversations TRL trains every token, a study the assistant's turns"
        )


TOOLS = (ConfigTool(name="trl", title="TRL", marks=MARKS, read=read),)
