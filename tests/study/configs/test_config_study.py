"""Every case becomes a study that reads, says what it could not carry over, and has the config's rank in its middle."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from config_cases import ALL, KNOWN, NAMES, adapter_config, beside, case, read, study

from rankscope.study.configs import config_tools
from rankscope.study.configs.config_file import load_config, read_config
from rankscope.study.configs.config_study import check_study_name, config_study
from rankscope.study.configs.config_suites import RowsTold
from rankscope.study.problems import InputProblems
from rankscope.study.read_study import read_study
from rankscope.study.yaml_text import load_yaml


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return beside(tmp_path)


def test_there_are_five_configs_of_every_tool() -> None:
    counts = {tool: sum(path.parent.name == tool for path in ALL) for tool in config_tools()}
    assert min(counts.values()) >= 5, counts


@pytest.mark.parametrize("name", NAMES)
def test_a_case_becomes_a_study_that_reads(folder: Path, name: str) -> None:
    made = study(name, folder)
    path = folder / "study.yaml"
    path.write_text(made.text)
    found, config = read_study(path), read(name, folder)
    assert len(found.seeds) == 3  # type: ignore[arg-type]
    assert len(found.train) == len(config.train)
    assert {suite.held_out for suite in found.suites.values()} >= set(found.train)
    assert "general" in found.suites
    ranks = [arm.rank for arm in found.expand_arms() if arm.rank is not None]
    if config.adapter.method in ("lora", "dora", "rslora", "pissa"):
        theirs = next(arm for arm in found.expand_arms() if arm.rank == config.adapter.rank)
        assert (theirs.method, theirs.alpha) == (config.adapter.method, pytest.approx(config.adapter.alpha))
        assert min(ranks) < theirs.rank < max(ranks)  # type: ignore[operator]
    assert ("full" in found.arms) == (config.model.quantization is None)
    assert "TODO kind" in made.text
    comments = " ".join(" ".join(line.strip("# ") for line in made.text.splitlines() if line.startswith("#")).split())
    for line in made.not_carried:
        assert " ".join(line.split()) in comments


@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith("peft/")])
def test_no_key_is_dropped_in_silence(folder: Path, name: str) -> None:
    """A key that no reader knows is listed, wherever it stands; of what has no effect the whole section is."""
    values = load_config(case(name))
    values["a_key_of_next_year"] = 7
    sections = [key for key, value in values.items() if isinstance(value, dict) and value]
    for section in sections:
        values[section]["a_key_inside"] = 7
    lines = read_config(values, name, [folder]).not_carried
    assert "a_key_of_next_year: not known here" in lines
    no_effect = next((line for line in lines if line.startswith("of no effect")), "").replace(",", "").split()
    told = {line.split(".a_key_inside: not known here")[0] for line in lines if ".a_key_inside: not known here" in line}
    assert set(sections) - {"train_on_responses_only"} <= told | set(no_effect)


def test_what_it_costs_to_train_is_carried(folder: Path) -> None:
    text = study("axolotl/qlora-small.yml", folder).text
    values = load_yaml(text, "study.yaml", "a study")
    assert values["budget"] == {
        "epochs": 1, "batch_size": 8, "max_sequence_tokens": 2048, "gradient_checkpointing": True,
    }  # fmt: skip
    assert values["optimizer"] == {"weight_decay": 0, "warmup_fraction": 0.1, "schedule": "cosine", "clip_norm": 1}
    assert values["validation"] == {"fraction": 0.1}
    assert values["model"] == {"id": "acme/oak-1b", "quantization": "nf4", "chat": "never"}
    assert values["arms"] == {
        "lora": {
            "ranks": [8, 32, 128], "alpha": "0.5r", "targets": "all-linear", "dropout": 0.05, "learning_rate": "auto",
        }
    }  # fmt: skip


def test_steps_become_passes_where_rows_were_counted_and_drawn_rows_where_not(folder: Path) -> None:
    counted = study("llamafactory/full-and-pissa.yaml", folder)  # 20 rows, 100 steps of 2; 100 rows would be held out
    assert any(line.startswith("max_steps: 100: a study counts passes") for line in counted.not_carried)
    drawn = load_yaml(study("unsloth/alpaca-4bit.json", folder).text, "study.yaml", "a study")
    assert drawn["budget"]["epochs"] == 1
    assert drawn["train"]["instructions"]["limit"] * 0.9 * 0.9 == pytest.approx(60 * 8, abs=1)
    assert drawn["optimizer"]["warmup_fraction"] == pytest.approx(5 / 60, rel=0.05)


@pytest.mark.parametrize(("by_loss", "metric"), [(True, "loss"), (False, None), (None, None)])
def test_rows_that_no_exact_match_grades_are_judged_by_loss(
    folder: Path, by_loss: bool | None, metric: str | None
) -> None:
    """As the rows of a file show, where the config does not say it; where nobody can tell, planning does."""
    values = {"model_name_or_path": "acme/oak", "dataset_name": "rows.jsonl", "use_peft": True, "max_length": 512}
    known = replace(KNOWN, look=lambda path: RowsTold(20, by_loss), kind="reasoning")
    made = config_study(read_config(values, "x", [], "trl"), "x", folder / "study.yaml", "mine", [folder], known)
    found = load_yaml(made.text, "study.yaml", "a study")
    assert found["suites"]["rows-held-out"].get("metric") == metric
    assert found["suites"]["rows-held-out"]["kind"] == found["train"]["rows"]["kind"] == "reasoning"
    assert "TODO kind" not in made.text


@pytest.mark.parametrize("field", ["", "\n      field_input: about"])
def test_a_column_that_no_row_has_is_left_out_where_rows_are_whole_without_it(folder: Path, field: str) -> None:
    """axolotl takes `input` of a format of the user's own where a row has it."""
    text = f"base_model: acme/oak\ndatasets:\n  - path: rows.jsonl\n    type:\n      field_output: reply{field}\n"
    config = read_config(load_yaml(text, "c", "a config"), "c", [], "axolotl")
    look = replace(KNOWN, look=lambda path: RowsTold(20, True, frozenset({"instruction", "reply"})))
    made = config_study(config, "c", folder / "study.yaml", "mine", [folder], look)
    columns = load_yaml(made.text, "study.yaml", "a study")["train"]["rows"]["columns"]
    assert columns == {"question": "instruction", "answer": "reply"}
    name = "about" if field else "input"
    assert f"datasets[0].path: no row has {name}: every prompt is the one without" in made.not_carried
    unread = config_study(config, "c", folder / "study.yaml", "mine", [folder], KNOWN)
    assert load_yaml(unread.text, "study.yaml", "a study")["train"]["rows"]["columns"]["context"] == name


def test_data_sets_have_a_verdict_each_and_that_is_said(folder: Path) -> None:
    made = study("llamafactory/lora-sft.yaml", folder)
    assert any("2 data sets are mixed" in line for line in made.not_carried)
    values = load_yaml(made.text, "study.yaml", "a study")
    assert {name: source["domain"] for name, source in values["train"].items()} == {
        "who_am_i": "who_am_i", "orders_demo": "orders_demo",
    }  # fmt: skip


def test_no_data_and_no_model_is_a_line_each(tmp_path: Path) -> None:
    folder = adapter_config(tmp_path / "mine", peft_type="LORA", r=4, base_model_name_or_path="/nowhere/model")
    config = read_config(load_config(folder), "mine", [tmp_path])
    with pytest.raises(InputProblems) as caught:
        config_study(config, "mine", tmp_path / "study.yaml", "mine", [tmp_path], KNOWN)
    assert [str(problem).split(", expected")[0] for problem in caught.value.problems] == [
        "mine: model: found /nowhere/model, no such folder",
        "mine: data: found no training data (an adapter's settings name no data)",
    ]
    assert check_study_name("a b") is not None
    assert check_study_name("a-b") is None
