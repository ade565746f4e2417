"""PEFT's settings in our words: every file that PEFT itself writes is read, and nothing of it is dropped."""

from __future__ import annotations

from pathlib import Path

from config_cases import read
from peft import LoraConfig

from rankscope.study.configs.config_file import load_config, read_config


def test_what_peft_writes_is_read_with_nothing_unknown(tmp_path: Path) -> None:
    LoraConfig(
        r=12,
        lora_alpha=6,
        lora_dropout=0.1,
        target_modules=["v_proj", "q_proj"],
        task_type="CAUSAL_LM",
        use_rslora=True,
    ).save_pretrained(str(tmp_path))
    config = read_config(load_config(tmp_path), "mine", [])
    assert (config.adapter.method, config.adapter.rank, config.adapter.alpha) == ("rslora", 12, 6)
    assert (config.adapter.dropout, config.adapter.targets) == (0.1, ("q_proj", "v_proj"))
    assert not [line for line in config.not_carried if "not known" in line]


def test_patterns_and_further_modules_are_told(tmp_path: Path) -> None:
    config = read("peft/rslora-pattern.json", tmp_path)
    assert (config.adapter.targets, config.model.revision) == (None, "v2")
    starts = [line.split(":")[0] for line in config.not_carried]
    assert {"target_modules", "bias", "modules_to_save", "rank_pattern", "alpha_pattern", "some_new_setting"} <= set(
        starts
    )


def test_other_kinds(tmp_path: Path) -> None:
    assert read("peft/dora.json", tmp_path).adapter.method == "dora"
    assert read("peft/ia3.json", tmp_path).adapter.method == "ia3"
    prompt = read("peft/prompt.json", tmp_path).adapter
    assert (prompt.method, prompt.rank) == ("prompt-tuning", 8)
    values = {"peft_type": "LOHA", "r": 4}
    assert any(line.startswith("peft_type: LOHA") for line in read_config(values, "x", [], "peft").not_carried)
