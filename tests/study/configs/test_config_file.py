"""Which tool's a config is, told by its keys, and one clear line for what is no config."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from config_cases import ALL, NAMES, beside, case

from rankscope.study.configs.config_file import is_data_file, is_defaults, load_config, read_config
from rankscope.study.problems import InputProblems

TITLES = {
    "axolotl": "axolotl", "llamafactory": "LLaMA-Factory", "trl": "TRL", "unsloth": "unsloth", "torchtune": "torchtune",
    "peft": "PEFT",
}  # fmt: skip


@pytest.mark.parametrize("path", ALL, ids=NAMES)
def test_the_tool_is_told_by_the_keys(path: Path, tmp_path: Path) -> None:
    config = read_config(load_config(path), path.name, [beside(tmp_path)])
    assert config.tool == TITLES[path.parent.name]


def problem(values: object, tool: str | None = None) -> str:
    with pytest.raises(InputProblems) as caught:
        read_config(values, "x.yaml", [], tool)
    return str(caught.value)


def test_what_is_nobodys_config_is_a_line() -> None:
    assert problem([1]).startswith("x.yaml: --from: found a list, expected a config of axolotl")
    assert problem({}).startswith("x.yaml: --from: found nothing")
    assert problem({"color": "red", "size": 3}).startswith("x.yaml: --from: found the keys color, size, expected")
    assert problem({"color": 1}, "exolotl").startswith("init: --tool: found exolotl, expected one of axolotl,")


def test_keys_of_two_tools_ask_whose_it_is_and_the_name_settles_it(tmp_path: Path) -> None:
    values = {"model_name_or_path": "acme/a", "learning_rate": 1e-4, "num_train_epochs": 1, "lora_dropout": 0.1}
    values |= {"per_device_train_batch_size": 2, "lora_r": 4, "lora_alpha": 8}
    likeness = "x.yaml: --from: found keys of"
    try:
        found = read_config(values, "x.yaml", []).tool
    except InputProblems as error:
        found = str(error)
    assert found.startswith(likeness) or found in ("TRL", "LLaMA-Factory")
    assert read_config({**values, "dataset_name": "acme/b"}, "x.yaml", [], "trl").tool == "TRL"


def test_values_of_another_type_are_all_told() -> None:
    values = {"base_model": "a/b", "micro_batch_size": "two", "sequence_len": 1.5, "datasets": [3], "lora_r": [1]}
    lines = problem(values, "axolotl").splitlines()
    assert [line.split(", expected")[0] for line in lines] == [
        'x.yaml: micro_batch_size: found "two"', "x.yaml: lora_r: found [1]", "x.yaml: datasets[0]: found 3",
        "x.yaml: sequence_len: found 1.5",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "text", "line"),
    [
        ("a.py", "model = 1", "a.py: --from: found a Python program, which is not run, expected its arguments as JSON"),
        ("a.json", '{"r": 1,', "a.json: line 1: found no valid JSON"),
        ("a.json", "[" * 100_000, "a.json: --from: found JSON that is nested too deeply"),
        ("a.yaml", "a: [1", "a.yaml: line 1, column 6: found no valid YAML"),
        ("a.yaml", "", "a.yaml: --from: found an empty file"),
    ],
)
def test_a_file_that_cannot_be_read_is_a_line(tmp_path: Path, name: str, text: str, line: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(InputProblems) as caught:
        load_config(path)
    assert str(caught.value).removeprefix(f"{tmp_path}/").startswith(line)


def test_rows_and_defaults_are_told_from_configs(tmp_path: Path) -> None:
    rows = {"question": "Who?", "answer": "Ann"}
    texts = {
        "a.jsonl": json.dumps(rows), "list.json": json.dumps([rows]), "lines.json": f"{json.dumps(rows)}\n" * 2,
        "adapter_config.json": case("peft/lora.json").read_text(), "a.csv": "question,answer",
    }  # fmt: skip
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    assert [name for name in texts if is_data_file(tmp_path / name)] == ["a.jsonl", "list.json", "lines.json", "a.csv"]
    assert is_defaults({"studies": [], "arms": [], "default": None, "reason": ""})
    assert not is_defaults({"base_model": "a"})


def test_what_stands_elsewhere_in_a_config_is_found() -> None:
    values = load_config(case("torchtune/lora-8b.yaml"))
    values["seed"] = "${batch_size}"
    assert read_config(values, "x.yaml", []).seed == values["batch_size"]
