"""LLaMA-Factory's arguments in our words, with data sets as dataset_info.json describes them."""

from __future__ import annotations

from pathlib import Path

import pytest
from config_cases import beside, case, read

from rankscope.study.configs.config_file import load_config, read_config
from rankscope.study.problems import InputProblems


def test_alpaca_columns_and_limits_come_from_the_description(tmp_path: Path) -> None:
    config = read("llamafactory/lora-sft.yaml", beside(tmp_path))
    first, second = config.train
    assert first.columns == {"instruction": "instruction", "input": "input", "output": "output"}
    assert second.columns == {"instruction": "ask", "input": "about", "output": "reply"}
    assert (first.where, first.limit) == ("./who_am_i.json", 1000)
    assert (config.adapter.rank, config.adapter.alpha, config.adapter.targets) == (8, 16, None)
    assert any(
        line.startswith("template: qwen3_nothink: a template that only LLaMA-Factory") for line in config.not_carried
    )
    assert any("history" in line for line in config.not_carried)


def test_conversations_of_the_hub_and_four_bits(tmp_path: Path) -> None:
    config = read("llamafactory/qlora.yaml", beside(tmp_path))
    (data,) = config.train
    assert (data.where, data.split, data.columns) == ("acme/chats", "train_sft", {"messages": "messages"})
    assert config.model.quantization == "nf4"
    assert config.batch_size == 8
    assert any(line.startswith("loraplus_lr_ratio: 16") for line in config.not_carried)


def test_text_frozen_blocks_and_pissa(tmp_path: Path) -> None:
    text = read("llamafactory/pretrain.yaml", beside(tmp_path))
    assert text.train[0].columns == {"text": "text"}
    assert (text.validation_share, text.warmup_steps, text.schedule) == (0.1, 10, "linear")
    frozen = read("llamafactory/freeze.json", tmp_path)
    assert (frozen.adapter.method, frozen.adapter.layers, frozen.model.chat) == ("last-k-layers", 4, "never")
    assert [data.name for data in frozen.test] == ["who_am_i"]
    pissa = read("llamafactory/full-and-pissa.yaml", tmp_path)
    assert (pissa.adapter.method, pissa.max_steps, pissa.validation_rows) == ("pissa", 100, 100)
    assert pissa.model.system_prompt == "Be brief."


def test_names_that_nothing_explains_are_a_line(tmp_path: Path) -> None:
    values = load_config(case("llamafactory/lora-sft.yaml"))
    config = read_config(values, "x.yaml", [tmp_path])
    assert config.no_data is not None
    assert "which only ./dataset_info.json explains; it is not there" in config.no_data
    values["dataset"] = "who_am_i,nobody"
    with pytest.raises(InputProblems, match=r'dataset: found "nobody", expected a data set that ./dataset_info.json'):
        read_config(values, "x.yaml", [beside(tmp_path)])


def test_preference_training_is_refused() -> None:
    values = {"stage": "dpo", "finetuning_type": "lora", "model_name_or_path": "a/b"}
    with pytest.raises(InputProblems, match='stage: found "dpo", expected sft or pt'):
        read_config(values, "x.yaml", [])
