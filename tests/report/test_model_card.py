"""The model card: valid front matter, every number with its interval, and safe against hostile names."""

from __future__ import annotations

from typing import Any

import yaml
from made_report import HOSTILE, make_report, make_verdict

from rankscope.report.model_card import Exported, model_card
from rankscope.report.serving_lines import Files
from rankscope.study.study import Arm

LORA = Arm(label="lora-r16", method="lora", rank=16, alpha=32.0, targets="all-linear", learning_rate="auto")

SEED = 1


def card(
    model: str = "org/base-7b", arm: Arm = LORA, label: str = "lora-r16", files: Files = "adapter", **study: Any
) -> str:
    verdict = make_verdict(model=model.split("/")[-1])
    report = make_report([verdict])
    row = next(entry for entry in verdict.arms if entry.label == label)
    settings = {**report.study, "model": [{"id": model}], **study}
    provenance = {**report.provenance, "gangs": {"a": 2}, "checkpointed": [], "worker_count": 2, "device": "cpu"}
    return model_card(verdict, row, Exported(arm, SEED, files), report.tables["scores"], settings, provenance)


def own_scores(label: str = "lora-r16") -> dict[str, float]:
    """The accuracy of the exported seed on each suite, as the table has it."""
    verdict = make_verdict()
    scores = make_report([verdict]).tables["scores"]
    own = (scores["arm"] == label) & (scores["seed"] == SEED) & (scores["train_set"] == verdict.train_set)
    return {row["suite"]: row["accuracy"] for row in scores[own].to_dict("records")}


def test_the_front_matter_is_yaml_with_every_suite() -> None:
    text = card()
    front = yaml.safe_load(text.split("---\n")[1])
    assert front["base_model"] == "org/base-7b"
    assert front["library_name"] == "peft"
    assert "lora" in front["tags"]
    results = front["model-index"][0]["results"]
    assert {result["dataset"]["name"] for result in results} == {"medqa", "pubmedqa", "law", "world", "gsm8k"}
    own = own_scores()
    for result in results:
        first, second = result["metrics"]
        assert (first["name"], second["name"]) == (
            "accuracy, seed 1, these weights", "accuracy, mean over seeds 0, 1, 2",
        )  # fmt: skip
        assert first["value"] == round(own[result["dataset"]["name"]], 6)
        assert 0 <= second["value"] <= 1


def test_the_card_says_what_it_is_how_to_load_it_and_what_was_forgotten() -> None:
    text = card()
    assert "base_path = 'org/base-7b'" in text
    assert "PeftModel.from_pretrained(base" in text
    told = f"{own_scores()['medqa']:.1%}".replace("%", " %")
    line = f"| medqa | in-domain | recall | 400 |  | 31.0 % | {told} | 62.8 % | +31.8 points (+29.3 to +34.3) |"
    assert line in text
    assert "| world | no domain | " in text, "`general` is also what suites are called"
    assert "These weights are seed 1, of median validation loss; gain, forgetting" in text
    assert "## What was forgotten" in text
    assert "- rank: 16" in text
    assert "- epochs: 3" in text
    assert "- commit: 0123456789abcdef\n- versions: torch 2.13.0, peft 0.21.2\n" in text
    assert "- device: cpu" in text
    assert not any(word in text for word in ("gangs", "checkpointed", "worker count")), "how the work was shared out"


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
