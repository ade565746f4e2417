"""`rankscope init` and `rankscope schema`: what is written, what is asked, and what is said of wrong answers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from command_line import call, problems
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
