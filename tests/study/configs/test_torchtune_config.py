"""torchtune's builders in our words: modules by their names in transformers, slices, what it takes by default."""

from __future__ import annotations

from pathlib import Path

import pytest
from config_cases import case, read

from rankscope.study.configs.config_file import load_config, read_config
from rankscope.study.problems import InputProblems


def test_modules_have_the_names_of_transformers(tmp_path: Path) -> None:
    config = read("torchtune/lora-8b.yaml", tmp_path)
    assert config.adapter.targets == ("q_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    assert (config.model.id, config.batch_size, config.weight_decay) == ("acme/oak-8b-instruct", 16, 0.01)
    assert (config.clip_norm, config.warmup_steps) == (0.0, 100)
    assert any(line.startswith("dataset.train_on_input: true") for line in config.not_carried)
    values = load_config(case("torchtune/lora-8b.yaml"))
    values["model"]["_component_"] = "torchtune.models.phi3.lora_phi3_mini"
    fused = read_config(values, "x.yaml", []).adapter.targets
    assert fused == ("qkv_proj", "o_proj", "gate_up_proj", "down_proj")


def test_a_slice_that_is_validated_on_is_a_share(tmp_path: Path) -> None:
    config = read("torchtune/lora-with-validation.yaml", tmp_path)
    assert config.validation_share == 0.05
    assert ([data.split for data in config.train], config.test) == (["train"], ())
    assert config.train[0].columns == {"prompt": "wrong", "completion": "right"}
    assert any(line.startswith("model.apply_lora_to_output") for line in config.not_carried)


def test_preference_training_is_refused() -> None:
    values = load_config(case("torchtune/lora-8b.yaml"))
    values["loss"]["_component_"] = "torchtune.rlhf.loss.DPOLoss"
    with pytest.raises(InputProblems, match=r"loss\._component_: found .*, expected a cross-entropy"):
        read_config(values, "x.yaml", [])


def test_builders_of_data_and_optimizers(tmp_path: Path) -> None:
    chat = read("torchtune/qlora-chat.yaml", tmp_path)
    assert chat.train[0].columns == {"conversations": "turns"}
    assert (chat.model.quantization, chat.adapter.rank) == ("nf4", 64)
    assert any("torch.optim.SGD" in line for line in chat.not_carried)
    assert any("get_rex_scheduler" in line for line in chat.not_carried)
    mixed = read("torchtune/dora-text-and-chat.yaml", tmp_path)
    assert [data.where for data in mixed.train] == ["acme/novels", "Open-Orca/SlimOrca-Dedup"]
    assert (mixed.adapter.method, mixed.schedule, mixed.sequence_tokens) == ("dora", "constant", 4096)
    whole = read("torchtune/full-1b.yaml", tmp_path)
    assert (whole.adapter.method, whole.max_steps_per_epoch, whole.train[0].where) == ("full", 25, "tatsu-lab/alpaca")
