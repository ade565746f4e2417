"""The model card: valid front matter, every number with its interval, and safe against hostile names."""

from __future__ import annotations

from typing import Any

import yaml
from made_report import HOSTILE, make_report, make_verdict

from rankscope.report.model_card import model_card
from rankscope.report.serving_lines import Files
from rankscope.study.study import Arm

LORA = Arm(label="lora-r16", method="lora", rank=16, alpha=32.0, targets="all-linear", learning_rate="auto")


def card(
    model: str = "org/base-7b", arm: Arm = LORA, label: str = "lora-r16", files: Files = "adapter", **study: Any
) -> str:
    verdict = make_verdict(model=model.split("/")[-1])
    report = make_report([verdict])
    row = next(entry for entry in verdict.arms if entry.label == label)
    settings = {**report.study, "model": [{"id": model}], **study}
    return model_card(verdict, row, arm, report.tables["scores"], settings, report.provenance, None, files)


def test_the_front_matter_is_yaml_with_every_suite() -> None:
    text = card()
    front = yaml.safe_load(text.split("---\n")[1])
    assert front["base_model"] == "org/base-7b"
    assert front["library_name"] == "peft"
    assert "lora" in front["tags"]
    results = front["model-index"][0]["results"]
    assert {result["dataset"]["name"] for result in results} == {"medqa", "pubmedqa", "law", "world", "gsm8k"}
    assert all(0 <= result["metrics"][0]["value"] <= 1 for result in results)


def test_the_card_says_what_it_is_how_to_load_it_and_what_was_forgotten() -> None:
    text = card()
    assert "base_path = 'org/base-7b'" in text
    assert "PeftModel.from_pretrained(base" in text
    assert "| medqa | in-domain | recall | 400 |  | 31.0 % | 62.8 % | +31.8 points (+29.3 to +34.3) |" in text
    assert "## What was forgotten" in text
    assert "- rank: 16" in text
    assert "- epochs: 3" in text
    assert "commit: 0123456789abcdef" in text


def test_a_full_model_is_loaded_without_peft_and_says_that_it_is_not_recommended() -> None:
    text = card(arm=Arm(label="full", method="full", learning_rate=1e-4), label="full")
    assert yaml.safe_load(text.split("---\n")[1])["library_name"] == "transformers"
    assert "PeftModel" not in text
    assert "not the recommended arm; its status is: ineligible" in text


def test_a_merged_model_is_loaded_without_peft_and_served_as_a_whole() -> None:
    text = card(files="model", name="Med Study")
    front = yaml.safe_load(text.split("---\n")[1])
    assert front["library_name"] == "transformers"
    assert "PeftModel" not in text
    assert "vLLM: `vllm serve PATH_OF_THIS_FOLDER --served-model-name med-study-lora-r16`." in text
    assert "`rankscope export DIR --arm lora-r16 --format gguf --out OTHER_DIR` writes one" in text
    assert "`ollama create med-study-lora-r16 -f Modelfile`" in card(files="gguf", name="Med Study")


def test_vllm_is_told_the_rank_that_it_must_make_room_for_and_no_adapter_that_it_does_not_take() -> None:
    assert "vllm serve org/base-7b --enable-lora --max-lora-rank 16 --lora-modules" in card()
    odd = LORA.model_copy(update={"rank": 20, "dropout": 0.1})
    assert "--max-lora-rank 32 " in card(arm=odd)
    for other in (LORA.model_copy(update={"rank": 1024}), LORA.model_copy(update={"method": "dora"})):
        text = card(arm=other)
        assert "vLLM takes no adapter of this kind" in text
        assert "vllm serve" not in text


def test_the_bundled_base_is_found_in_the_package() -> None:
    assert "bundled_base_path()" in card(model="bundled")


def test_a_hostile_name_opens_no_html_and_breaks_no_table() -> None:
    text = card(name=HOSTILE + " | x")
    assert "<script" not in text.split("---\n", 2)[2]
    assert yaml.safe_load(text.split("---\n")[1])["model-index"][0]["name"].startswith(HOSTILE[:9])
