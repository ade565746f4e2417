"""The arguments of unsloth's calls in our words, apart or in one mapping."""

from __future__ import annotations

from pathlib import Path

from config_cases import read

from rankscope.study.configs.config_file import read_config


def test_the_calls_of_a_script(tmp_path: Path) -> None:
    config = read("unsloth/alpaca-4bit.json", tmp_path)
    assert (config.model.id, config.model.quantization) == ("acme/oak-8b", "nf4")
    assert (config.adapter.rank, config.adapter.alpha, config.seed) == (16, 16, 3407)
    assert (config.batch_size, config.max_steps, config.warmup_steps) == (8, 60, 5)
    assert config.schedule == "linear"
    assert any(line.startswith("model_name: acme/oak-8b-bnb-4bit") for line in config.not_carried)
    assert any(
        line.startswith("dataset_text_field: text: the text that your script makes") for line in config.not_carried
    )


def test_a_chat_template_by_name_is_asked_for(tmp_path: Path) -> None:
    config = read("unsloth/chat-responses.json", tmp_path)
    assert config.model.quantization is None
    assert config.adapter.targets is not None
    assert len(config.adapter.targets) == 7
    assert any(line.startswith("chat_template: gemma-3: a template that unsloth has") for line in config.not_carried)
    assert not any("train_on_responses_only" in line for line in config.not_carried)


def test_full_fine_tuning_and_one_flat_mapping(tmp_path: Path) -> None:
    whole = read("unsloth/full.json", tmp_path)
    assert (whole.adapter.method, whole.model.quantization, whole.train[0].split) == ("full", None, "cot")
    flat = read("unsloth/flat.json", tmp_path)
    assert (flat.adapter.method, flat.adapter.targets, flat.adapter.dropout) == ("rslora", None, 0.05)
    assert (flat.seed, flat.train[0].columns) == (5, {"text": "body"})
    continued = read("unsloth/continued.yaml", tmp_path)
    assert (continued.train[0].config, continued.batch_size) == ("20231101", 16)


def test_four_bits_are_unsloths_default() -> None:
    values = {"from_pretrained": {"model_name": "a/b"}, "get_peft_model": {}, "dataset": "a/c"}
    assert read_config(values, "x.json", []).model.quantization == "nf4"
    values["from_pretrained"]["full_finetuning"] = True  # type: ignore[index]
    assert read_config(values, "x.json", []).model.quantization is None
