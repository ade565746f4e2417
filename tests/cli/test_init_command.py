"""`rankscope init` and `rankscope schema`: what is written, what is asked, and what is said of wrong answers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from command_line import call, problems
from config_cases import adapter_config, case
from tiny_study import tiny_study
from typer.testing import CliRunner

from rankscope.cli import app
from rankscope.study.read_study import read_study


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_study(tmp_path_factory.mktemp("init") / "input", seeds=[0, 1])


def test_init_writes_a_study_that_is_valid_but_for_its_paths(tmp_path: Path) -> None:
    out = tmp_path / "study.yaml"
    assert call("init", "--out", out).exit_code == 0
    assert "arms:" in out.read_text()
    assert "exists" in problems(call("init", "--out", out))[0]


def test_init_takes_flags(study: Path, tmp_path: Path) -> None:
    """The study that it writes is planned as it is: the paths in it are found from where it lies."""
    data, out = study.parent, tmp_path / "made" / "study.yaml"
    out.parent.mkdir()
    words = ["--model", data / "model", "--train", data / "train.jsonl", "--test", data / "taught.jsonl"]
    done = call("init", "--out", out, *words, "--keep", data / "other.jsonl", "--domain", "trees", "--name", "oaks")
    assert done.exit_code == 0, done.output
    result = call("plan", out, "--json", "--out", tmp_path / "none", "--set", "arms.lora.ranks=[2]")
    planned = json.loads(result.stdout)
    assert planned["study"] == "oaks"
    assert {suite["name"] for suite in planned["suites"]} == {"trees", "other"}


def test_init_asks_and_asks_again_where_an_answer_is_wrong(study: Path, tmp_path: Path) -> None:
    data, out = study.parent, tmp_path / "study.yaml"
    answers = [
        "a b", "oaks", "./no-such-model", str(data / "model"), "none.jsonl", str(data), str(data / "train.jsonl"),
        "what is it", "trees", "", str(data / "taught.jsonl"), str(data / "other.jsonl"), str(data / "other.jsonl"), "",
    ]  # fmt: skip
    result = CliRunner().invoke(app, ["init", "--ask", "--out", str(out)], input="\n".join(answers) + "\n")
    assert result.exit_code == 0, result.output
    settings = yaml.safe_load(out.read_text())
    assert (settings["name"], set(settings["suites"])) == ("oaks", {"trees", "other"})
    told = [line for line in result.stderr.splitlines() if ": found " in line]
    assert [line.split(": found")[0] for line in told] == [
        "init: --name", "./no-such-model: --model", "none.jsonl: --train", f"{data}: --train", "init: --domain",
        "init: --test", "init: --keep",
    ]  # fmt: skip


def test_an_empty_answer_takes_what_a_flag_said(study: Path, tmp_path: Path) -> None:
    data, out = study.parent, tmp_path / "study.yaml"
    flags = [
        "--name",
        "oaks",
        "--train",
        str(data / "train.jsonl"),
        "--test",
        str(data / "taught.jsonl"),
        "--domain",
        "trees",
    ]
    result = CliRunner().invoke(app, ["init", "--ask", "--out", str(out), *flags], input="\n" * 6)
    assert result.exit_code == 0, result.output
    assert read_study(out).train["trees"].path == str(data / "train.jsonl")


def test_nothing_is_asked_where_the_file_exists(tmp_path: Path) -> None:
    out = tmp_path / "study.yaml"
    out.touch()
    assert "--out" in problems(CliRunner().invoke(app, ["init", "--ask", "--out", str(out)], input=""))[0]


def test_init_says_what_is_missing(study: Path, tmp_path: Path) -> None:
    rows, out = study.parent / "train.jsonl", tmp_path / "study.yaml"
    assert "--test" in problems(call("init", "--out", out, "--train", rows))[0]
    assert "--train" in problems(call("init", "--out", out, "--test", rows))[0]
    assert "no such file" in problems(call("init", "--out", out, "--train", "none.jsonl", "--test", rows))[0]
    assert (
        "two files"
        in problems(call("init", "--out", out, "--train", rows, "--test", rows, "--keep", rows, "--keep", rows))[0]
    )
    assert "a b" in problems(call("init", "--out", out, "--name", "a b"))[0]
    assert not out.exists(), "nothing half-written"


# ---- another tool's config -------------------------------------------------------------------------------------------


def test_a_config_becomes_a_study_and_what_is_lost_is_told(tmp_path: Path) -> None:
    out = tmp_path / "study.yaml"
    result = call("init", "--from", case("axolotl/qlora-small.yml"), "--out", out)
    assert result.exit_code == 0, result.output
    assert "from axolotl's config" in result.stdout
    told = [line for line in result.stderr.splitlines() if line.startswith("not carried over: ")]
    assert len(told) == 3
    assert read_study(out).name == "qlora-small"


def test_flags_stand_in_place_of_what_a_config_says(tmp_path: Path, study: Path) -> None:
    """An adapter's settings name no data: it is given, and so may be a model that is here."""
    data, out = study.parent, tmp_path / "study.yaml"
    folder = adapter_config(tmp_path / "mine", peft_type="LORA", r=4, lora_alpha=8, base_model_name_or_path="acme/a")
    assert "data: found no training data" in problems(call("init", "--from", folder, "--out", out))[0]
    assert not out.exists()
    words = ["--model", data / "model", "--train", data / "train.jsonl", "--keep", data / "other.jsonl"]
    result = call("init", "--from", folder, "--out", out, "--domain", "trees", *words)
    assert result.exit_code == 0, result.output
    made = read_study(out)
    assert (list(made.train), set(made.suites)) == (["trees"], {"trees-held-out", "other-kept", "general"})
    assert [arm.rank for arm in made.expand_arms()] == [None, 1, 4, 16]


def test_wrong_files_to_start_from_are_a_line(tmp_path: Path) -> None:
    out = tmp_path / "study.yaml"
    (tmp_path / "colors.yaml").write_text("color: red\n")
    assert "no such file" in problems(call("init", "--from", tmp_path / "none.yaml", "--out", out))[0]
    assert "found the keys color" in problems(call("init", tmp_path / "colors.yaml", "--out", out))[0]
    two = call("init", tmp_path / "colors.yaml", "--from", tmp_path / "colors.yaml", "--out", out)
    assert "one file to start from" in problems(two)[0]
    wrong = call("init", "--from", case("trl/short.yaml"), "--tool", "axolot", "--out", out)
    assert "--tool: found axolot" in problems(wrong)[0]


# ---- rows ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_rows_become_a_study_of_the_size_that_fits(study: Path, tmp_path: Path) -> None:
    """The plan of what is written takes no longer than was allowed."""
    data, out = study.parent, tmp_path / "made" / "study.yaml"
    out.parent.mkdir()
    result = call("init", data / "train.jsonl", "--model", data / "model", "--keep", data / "other.jsonl",
                  "--out", out, "--time", "2h")  # fmt: skip
    assert result.exit_code == 0, result.output
    text = out.read_text()
    assert "TODO kind" in text
    assert "guessing is right in 33%" in text
    made = read_study(out)
    assert made.suites["train-held-out"].held_out == "train"
    assert {"general", "other"} < set(made.suites)
    assert list(made.seeds) == [0, 1, 2]  # type: ignore[arg-type]


def test_a_kind_is_asked_for_and_then_no_todo(study: Path, tmp_path: Path) -> None:
    data, out = study.parent, tmp_path / "study.yaml"
    words = ["init", str(data / "sums.jsonl"), "--model", "acme/none", "--ask", "--out", str(out)]
    result = CliRunner().invoke(app, words, input="numbers\nreasoning\n")
    assert result.exit_code == 0, result.output
    assert 'kind: found "numbers", expected recall or reasoning' in result.stderr
    assert "acme/none is not on this machine yet" in out.read_text()
    made = read_study(out)
    assert (made.suites["sums-held-out"].kind, "TODO kind" in out.read_text()) == ("reasoning", False)


def test_wrong_times_and_rows_are_a_line(study: Path, tmp_path: Path) -> None:
    data, out = study.parent, tmp_path / "study.yaml"
    for time in ("soon", "0m", "2d"):
        assert (
            "expected 20m, 2h or night" in problems(call("init", data / "train.jsonl", "--time", time, "--out", out))[0]
        )
    (tmp_path / "odd.jsonl").write_text('{"colour": "red"}\n')
    assert "found only the columns colour" in problems(call("init", tmp_path / "odd.jsonl", "--out", out))[0]
    assert "--train beside" in problems(call("init", data / "train.jsonl", "--train", "x", "--out", out))[0]
    assert not out.exists()
