"""TRL's command line in our words: old and new names, mixtures, its own defaults."""

from __future__ import annotations

from pathlib import Path

import pytest
from config_cases import read

from rankscope.study.configs.config_file import read_config
from rankscope.study.problems import InputProblems


@pytest.mark.slow
def test_what_is_not_said_is_what_trl_would_take(tmp_path: Path) -> None:
    """Compared with the defaults of the installed TRL itself."""
    from trl import ModelConfig, SFTConfig

    config = read("trl/short.yaml", tmp_path)
    theirs, model = SFTConfig(output_dir=str(tmp_path / "out"), bf16=False, use_cpu=True), ModelConfig()
    assert config.learning_rate == 1e-4
    assert (config.sequence_tokens, config.epochs) == (theirs.max_length, theirs.num_train_epochs)
    assert config.batch_size == theirs.per_device_train_batch_size * theirs.gradient_accumulation_steps
    assert (config.weight_decay, config.clip_norm) == (theirs.weight_decay, theirs.max_grad_norm)
    assert config.warmup_fraction == theirs.warmup_steps == 0
    lora = read_config({"model_name_or_path": "a/b", "dataset_name": "a/c", "use_peft": True}, "x.yaml", [])
    assert (lora.adapter.rank, lora.adapter.alpha) == (model.lora_r, model.lora_alpha)
    assert lora.adapter.dropout == model.lora_dropout
    assert lora.learning_rate == theirs.learning_rate
    assert lora.schedule == str(getattr(theirs.lr_scheduler_type, "value", theirs.lr_scheduler_type))


def test_a_mixture_is_several_training_sets(tmp_path: Path) -> None:
    config = read("trl/qlora-mixture.yaml", tmp_path)
    assert [(data.where, data.split) for data in config.train] == [
        ("acme/chats-200k", "train_sft"), ("acme/chats-200k", "test_sft"),
    ]  # fmt: skip
    assert (config.validation_rows, config.model.dtype, config.model.revision) == (1000, "bfloat16", None)
    assert config.model.chat_template is not None
    assert "message['role']" in config.model.chat_template
    assert any("weight: 0.5: all rows are trained on" in line for line in config.not_carried)


def test_new_names_and_what_differs(tmp_path: Path) -> None:
    config = read("trl/lora-new-names.yaml", tmp_path)
    assert [data.where for data in config.train] == ["rows.jsonl", "acme/capitals"]
    assert (config.adapter.method, config.warmup_fraction, config.clip_norm) == ("dora", 0.03, 0.3)
    lines = " ".join(config.not_carried)
    for word in ("packing: true", "eos_token", "completion_only_loss: false", "group_by_length", "chat_template_path"):
        assert word in lines
    assert "assistant_only_loss" not in lines


def test_test_splits_and_text_fields(tmp_path: Path) -> None:
    config = read("trl/full-with-test.yaml", tmp_path)
    assert config.adapter.method == "full"
    assert [(data.config, data.split) for data in config.test] == [("all", "test")]
    text = read("trl/text-field.yaml", tmp_path)
    assert text.train[0].columns == {"text": "body"}
    assert (text.adapter.targets, text.max_steps, text.warmup_steps) == (None, 500, 15)
    assert text.model.quantization == "nf4"


def test_preference_training_is_refused() -> None:
    values = {"model_name_or_path": "a/b", "dataset_name": "a/c", "beta": 0.1}
    with pytest.raises(InputProblems, match=r"beta: found 0\.1, expected none: a study is about supervised"):
        read_config(values, "x.yaml", [], "trl")


@pytest.mark.parametrize("kind", ["fp4", "nf4"])
def test_kinds_of_four_bits(kind: str) -> None:
    values = {"model_name_or_path": "a/b", "dataset_name": "a/c", "load_in_4bit": True, "bnb_4bit_quant_type": kind}
    config = read_config(values, "x.yaml", [])
    assert config.model.quantization == "nf4"
    assert any("fp4" in line for line in config.not_carried) == (kind == "fp4")


def test_a_file_has_no_test_split_of_its_own() -> None:
    values = {"model_name_or_path": "a/b", "dataset_name": "chat.jsonl", "eval_strategy": "steps"}
    config = read_config(values, "x.yaml", [], "trl")
    assert [one.where for one in config.train] == ["chat.jsonl"]
    assert config.test == ()
    of_the_hub = read_config({**values, "dataset_name": "acme/chat"}, "x.yaml", [], "trl")
    assert [one.split for one in of_the_hub.test] == ["test"]
