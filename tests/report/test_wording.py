"""Numbers and sentences as people read them; the terminal's tables; the model card."""

from __future__ import annotations

import math
from typing import Any

import pytest
import yaml
from made_report import HOSTILE, make_report, make_verdict
from rich.console import Console

from rankscope.records import Interval, VerdictFile
from rankscope.report import wording
from rankscope.report.model_card import model_card
from rankscope.report.terminal import print_results
from rankscope.study.study import Arm

LORA = Arm(label="lora-r16", method="lora", rank=16, alpha=32.0, targets="all-linear", learning_rate="auto")


@pytest.mark.parametrize(
    ("share", "said"),
    [
        (0.1234, "+12.3"),
        (-0.05, "-5.0"),
        (0.0, "0.0"),
        (-0.0001, "0.0"),
        (0.1125, "+11.3"),
        (-0.0875, "-8.8"),
        (None, "?"),
        (math.nan, "?"),
    ],
)
def test_points(share: float | None, said: str) -> None:
    assert wording.points(share) == said


@pytest.mark.parametrize(
    ("function", "value", "said"),
    [
        (wording.parameters, 1_234_567, "1.23 M"),
        (wording.parameters, 999, "999"),
        (wording.parameters, None, "not measured"),
        (wording.size, 1_500_000, "1.5 MB"),
        (wording.size, 120, "120 B"),
        (wording.duration, 5.04, "5.0 s"),
        (wording.duration, 90.0, "1.5 min"),
        (wording.duration, 7200.0, "2.0 h"),
        (wording.duration, None, "not measured"),
        (wording.rate, 2e-4, "2e-4"),
        (wording.rate, 3.2e-5, "3.2e-5"),
        (wording.rate, None, "none"),
    ],
)
def test_units(function: Any, value: Any, said: str) -> None:
    assert function(value) == said


def test_each_kind_of_verdict_has_its_sentence() -> None:
    said = {
        kind: wording.sentence(make_verdict(kind=kind))
        for kind in ("recommended", "tradeoff", "no_gain", "cannot_distinguish")
    }
    assert said["recommended"].startswith("Use lora-r16: it gains +30.3 points (+28.2 to +32.4) and forgets 1.4 points")
    assert "the choice is yours" in said["tradeoff"]
    assert "keep the base model" in said["no_gain"]
    assert "lora-r4, lora-r16 and lora-r64 remain possible" in said["cannot_distinguish"]
    assert "2 more seeds or 900 more items in each suite" in said["cannot_distinguish"]


def test_what_was_forgotten_tells_sure_losses_from_noise() -> None:
    arms = {arm.label: arm for arm in make_verdict().arms}
    assert "It surely lost on gsm8k -7.1 points (-10.2 to -3.9)" in wording.forgotten_sentence(arms["full"])
    assert "No single suite's loss is beyond the noise" in wording.forgotten_sentence(arms["lora-r16"])
    assert "unknown" in wording.forgotten_sentence(arms["lora-r256"])
    better = [
        o.model_copy(update={"change": Interval(mean=0.01, low=-0.01, high=0.03)}) for o in arms["lora-r1"].per_suite
    ]
    assert "lost nothing on law, world and gsm8k" in wording.forgotten_sentence(
        arms["lora-r1"].model_copy(update={"per_suite": better})
    )


def test_one_seed_is_called_a_description() -> None:
    verdict = make_verdict()
    once = [arm.model_copy(update={"seeds": arm.seeds[:1]}) for arm in verdict.arms]
    assert "does not decide" in wording.confidence_sentence(verdict.model_copy(update={"arms": once}), 0.95)
    assert "does not decide" not in wording.confidence_sentence(verdict, 0.95)


# ---- terminal -------------------------------------------------------------------------------------------------------


def printed(width: int, verdicts: VerdictFile) -> list[str]:
    console = Console(width=width, highlight=False, force_terminal=False)
    with console.capture() as capture:
        print_results(console, verdicts)
    return capture.get().splitlines()


def test_eighty_columns_hold_a_row_an_arm_with_its_interval() -> None:
    lines = printed(80, make_report().verdicts)
    assert max(len(line.rstrip()) for line in lines) <= 80
    row = next(line for line in lines if line.startswith("lora-r16 "))
    for cell in ("492 k", "1e-3", "+30.3 ±2.1", "+1.4 ±0.9", "recommended", "21 s"):
        assert cell in row
    assert any(line.startswith("lora-r256") and "diverged" in line for line in lines)


def test_long_labels_fold_and_lose_nothing_else() -> None:
    long = "lora-all-linear-and-embeddings-with-a-long-name-r16"
    verdict = make_verdict(candidates=[])
    arms = [arm.model_copy(update={"label": long}) if arm.label == "lora-r4" else arm for arm in verdict.arms]
    lines = printed(80, VerdictFile(verdicts=[verdict.model_copy(update={"arms": arms})]))
    table = "".join(line.split(" ")[0] for line in lines[2:12])
    assert max(len(line.rstrip()) for line in lines) <= 80
    assert long in table
    assert any("+24.0 ±2.1" in line for line in lines)


def test_a_wide_terminal_gets_the_whole_interval() -> None:
    assert any("+30.3 (+28.2 to +32.4)" in line for line in printed(140, make_report().verdicts))


def test_markup_in_names_is_printed_as_it_is() -> None:
    verdict = make_verdict(reasons=["[bold]not markup[/]", "[/oops]"], kind="tradeoff", model="[red]base")
    text = "\n".join(printed(100, VerdictFile(verdicts=[verdict], notes=["[x]"])))
    assert "[bold]not markup[/]" in text
    assert "[red]base" in text
    assert "Note: [x]" in text


def test_no_verdict_says_so() -> None:
    assert "no verdict" in "\n".join(printed(80, VerdictFile(verdicts=[])))


# ---- model card -----------------------------------------------------------------------------------------------------


def card(model: str = "org/base-7b", arm: Arm = LORA, label: str = "lora-r16", **study: Any) -> str:
    verdict = make_verdict(model=model.split("/")[-1])
    report = make_report([verdict])
    row = next(entry for entry in verdict.arms if entry.label == label)
    settings = {**report.study, "model": [{"id": model}], **study}
    return model_card(verdict, row, arm, report.tables["scores"], settings, report.provenance)


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
    assert "| medqa | in-domain | recall | 400 | 31.0 % | 62.8 % | +31.8 (+29.3 to +34.3) |" in text
    assert "## What was forgotten" in text
    assert "- rank: 16" in text
    assert "- epochs: 3" in text
    assert "commit: 0123456789abcdef" in text


def test_a_full_model_is_loaded_without_peft_and_says_that_it_is_not_recommended() -> None:
    text = card(arm=Arm(label="full", method="full", learning_rate=1e-4), label="full")
    assert yaml.safe_load(text.split("---\n")[1])["library_name"] == "transformers"
    assert "PeftModel" not in text
    assert "not the recommended arm; its status is: ineligible" in text


def test_the_bundled_base_is_found_in_the_package() -> None:
    assert "bundled_base_path()" in card(model="bundled")


def test_a_hostile_name_opens_no_html_and_breaks_no_table() -> None:
    text = card(name=HOSTILE + " | x")
    assert "<script" not in text.split("---\n", 2)[2]
    assert yaml.safe_load(text.split("---\n")[1])["model-index"][0]["name"].startswith(HOSTILE[:9])
