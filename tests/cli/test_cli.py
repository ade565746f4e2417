"""What a user types: results on stdout, problems on stderr in one line each, exit codes 0, 1, 2, 3."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from command_line import call, problems
from made_plan import make_plan
from tiny_study import tiny_study
from typer.testing import CliRunner

import rankscope
from rankscope.cli import app
from rankscope.edges.study_folder import StudyFolder
from rankscope.study.problems import InputProblems

COMMANDS = sorted(command.name or command.callback.__name__ for command in app.registered_commands if command.callback)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_study(tmp_path_factory.mktemp("cli") / "input", seeds=[0, 1])


@pytest.fixture(scope="module")
def done(study: Path) -> Path:
    out = study.parent.parent / "out"
    result = call("run", study, "--out", out)
    assert result.exit_code == 0, result.output
    return out


def changed(study: Path, tmp_path: Path, **changes: object) -> Path:
    """The study with sections replaced, in a new file beside the same data."""
    settings = {**yaml.safe_load(study.read_text()), **changes}
    path = study.parent / f"changed-{tmp_path.name}.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def test_run_prints_the_arms_and_the_verdict(study: Path, done: Path) -> None:
    again = call("run", study, "--out", done)
    assert again.exit_code == 0
    assert "lora-r2" in again.stdout
    assert "full" in again.stdout
    assert str(done / "report.html").replace("\n", "") in again.stdout.replace("\n", "")


def test_plan_trains_nothing(study: Path, tmp_path: Path) -> None:
    result = call("plan", study, "--out", tmp_path / "none")
    assert result.exit_code == 0, result.output
    assert not (tmp_path / "none").exists()
    assert "lora-r2" in result.stdout
    planned = json.loads(call("plan", study, "--json", "--out", tmp_path / "none").stdout)
    assert [run["arm"]["label"] for run in planned["runs"]] == ["full", "full", "lora-r2", "lora-r2"]
    assert planned["runs"][2]["trainable_parameters"] == 2 * 2 * (32 + 32 + 2 * (32 + 16) + 32 + 32 + 3 * (32 + 64))


def test_status_counts_what_is_done(done: Path) -> None:
    found = json.loads(call("status", done, "--json").stdout)
    assert found["counts"] == {"done": 4}
    assert call("status", done).exit_code == 0


def test_verdict_has_the_contract_s_fields_and_exits_3_where_undecided(done: Path) -> None:
    result = call("verdict", done, "--json")
    verdicts = json.loads(result.stdout)["verdicts"]
    assert set(verdicts[0]) >= {
        "model", "train_set", "kind", "decided", "recommended", "candidates", "refuted", "rule", "reasons",
        "minimum_detectable_effect", "more_needed", "arms",
    }  # fmt: skip
    assert result.exit_code == (0 if verdicts[0]["decided"] else 3)


def test_report_rebuilds_the_same_tables_without_model_or_data(done: Path) -> None:
    before = {path.name: path.read_bytes() for path in (done / "tables").iterdir()}
    verdict = (done / "verdict.json").read_bytes()
    for path in [*(done / "tables").iterdir(), done / "verdict.json", done / "report.html"]:
        path.unlink()
    assert call("report", done).exit_code == 0
    assert {path.name: path.read_bytes() for path in (done / "tables").iterdir()} == before
    assert (done / "verdict.json").read_bytes() == verdict
    assert (done / "report.html").is_file()


def test_export_writes_an_adapter_that_plain_peft_loads(study: Path, done: Path, tmp_path: Path) -> None:
    result = call("export", done, "--arm", "lora-r2", "--out", tmp_path / "adapter")
    assert result.exit_code == 0, result.output
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    plain = AutoModelForCausalLM.from_pretrained(study.parent / "model")
    model = PeftModel.from_pretrained(plain, tmp_path / "adapter")
    assert sum("lora_A" in name for name, _ in model.named_parameters()) == 14
    card = (tmp_path / "adapter" / "README.md").read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert front["library_name"] == "peft"
    assert {result["dataset"]["name"] for result in front["model-index"][0]["results"]} == {"taught", "other", "sums"}
    measured = "points overall" in card  # a base that only guesses on every other suite can forget nothing
    assert ("](trade-off.png)" in card) == measured
    picture = tmp_path / "adapter" / "trade-off.png"
    assert picture.exists() == measured
    assert not measured or picture.read_bytes().startswith(b"\x89PNG")
    assert problems(call("export", done, "--arm", "lora-r2", "--out", tmp_path / "adapter"))
    assert "lora-r2" in problems(call("export", done, "--arm", "lora-r99", "--out", tmp_path / "x"))[0]
    (line,) = problems(call("export", done, "--out", tmp_path / "x"))
    assert "found no arm that is recommended for sure, expected " in line
    bet = json.loads((done / "verdict.json").read_text())["verdicts"][0]["best_bet"]["label"]
    assert (f"the best bet by --arm {bet}" in line) == (bet != "base")
    assert "keep" in problems(call("export", done, "--arm", "full", "--out", tmp_path / "x"))[0]
    assert not (tmp_path / "x").exists()


def test_a_notebook_gets_tables_and_charts_without_torch(done: Path) -> None:
    """In a process of its own: torch must not be imported, nor the charts' library before it is needed."""
    code = f"""
import sys, rankscope
assert not {{"torch", "altair", "pandas"}} & set(sys.modules)
study = rankscope.load({str(done)!r})
assert list(study.arms()["arm"]) == ["lora-r2", "full"], study.arms()
assert set(study.tables["scores"]["arm"]) == {{"base", "full", "lora-r2"}}
for name in ("gain", "learning", "matrix", "cost"):
    assert study.chart(name)._repr_mimebundle_(None, None), name
assert "lora-r2" in study._repr_html_()
assert "torch" not in sys.modules
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr


def test_a_folder_without_a_verdict_cannot_be_loaded(tmp_path: Path) -> None:
    with pytest.raises(InputProblems, match=r"no rankscope-study\.json, expected a study folder that"):
        rankscope.load(tmp_path)
    StudyFolder.open(tmp_path).claim("made", "")
    StudyFolder.open(tmp_path).write_study("", make_plan())
    with pytest.raises(InputProblems, match=r"no verdict yet, expected a study that has ended"):
        rankscope.load(tmp_path)


def test_a_merged_export_is_a_model_with_its_tokenizer(done: Path, tmp_path: Path) -> None:
    assert call("export", done, "--arm", "lora-r2", "--merged", "--out", tmp_path / "whole").exit_code == 0
    from transformers import AutoModelForCausalLM, AutoTokenizer

    AutoModelForCausalLM.from_pretrained(tmp_path / "whole")
    assert AutoTokenizer.from_pretrained(tmp_path / "whole").eos_token == "</s>"


@pytest.mark.parametrize("command", [name for name in COMMANDS if name != "harness"])
def test_every_command_s_help_has_an_example_that_names_it(command: str) -> None:
    lines = call(command, "--help").stdout.splitlines()
    start = next(i for i, line in enumerate(lines) if line.strip() in ("Example:", "Examples:"))
    examples = [line.strip() for line in lines[start + 1 :] if line.strip().startswith("rankscope ")]
    assert examples
    assert all(example.split()[1] == command for example in examples)


def test_the_shell_completes_commands() -> None:
    typed = {"_RANKSCOPE_COMPLETE": "complete_bash", "COMP_WORDS": "rankscope ver", "COMP_CWORD": "1"}
    assert "verdict" in CliRunner().invoke(app, [], env=typed, prog_name="rankscope").stdout.split()


def test_schema_and_version() -> None:
    assert json.loads(call("schema").stdout)["properties"]["arms"]
    assert re.fullmatch(r"rankscope \d+\.\d+\.\d+\n", call("--version").stdout)


@pytest.mark.parametrize("command", ["status", "verdict", "report"])
def test_a_folder_that_is_no_study(command: str, tmp_path: Path) -> None:
    assert "rankscope-study.json" in problems(call(command, tmp_path))[0]
    assert "no such folder" in problems(call(command, tmp_path / "none"))[0]


BAD_MODELS = {
    "no weights": lambda folder: (folder / "config.json").write_text('{"model_type": "llama"}'),
    "pickled weights": lambda folder: [
        (folder / name).write_text("{}") for name in ("config.json", "pytorch_model.bin")
    ],
    "no config": lambda folder: (folder / "x.txt").write_text(""),
    "broken config": lambda folder: [(folder / n).write_text("{") for n in ("config.json", "model.safetensors")],
    "unknown architecture": lambda folder: [
        (folder / n).write_text('{"model_type": "abacus"}') for n in ("config.json", "model.safetensors")
    ],
}


@pytest.mark.parametrize("name", BAD_MODELS)
def test_a_model_folder_that_cannot_be_used(name: str, study: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    BAD_MODELS[name](folder)
    bad = changed(study, tmp_path, model=str(folder))
    (line,) = problems(call("run", bad, "--out", tmp_path / "out"))
    assert str(folder) in line
    assert not (tmp_path / "out").exists(), "nothing half-written"


BAD_STUDIES = {
    "a target that is not there": ({"arms": {"lora": {"ranks": [2], "targets": ["w_proj"]}}}, "w_proj"),
    "a rank above every target": ({"arms": {"lora": {"ranks": [65]}}}, "65"),
    "a rank that is no positive number": ({"arms": {"lora": {"ranks": [0]}}}, "ranks"),
    "no in-domain suite": ({"train": {"trees": {"path": "train.jsonl", "domain": "clouds"}}}, "clouds"),
    "no seed": ({"seeds": []}, "seeds"),
    "a negative setting": ({"budget": {"epochs": -1}}, "epochs"),
    "not a number": ({"optimizer": {"clip_norm": float("nan")}}, "clip_norm"),
    "an unknown key": ({"budgets": {}}, "budget"),
    "a file that is not there": ({"train": {"trees": {"path": "none.jsonl", "domain": "trees"}}}, "none.jsonl"),
    "a folder for a file": ({"train": {"trees": {"path": "model", "domain": "trees"}}}, "folder"),
    "a gain nobody can measure": (
        {"suites": {"text": {"path": "text.jsonl", "domain": "trees"}}}, "only plain text"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_STUDIES)
def test_a_study_that_cannot_be_run(name: str, study: Path, tmp_path: Path) -> None:
    changes, word = BAD_STUDIES[name]
    bad = changed(study, tmp_path, **changes)  # type: ignore[arg-type]
    lines = problems(call("run", bad, "--out", tmp_path / "out"))
    assert any(word in line for line in lines), lines
    assert not (tmp_path / "out").exists(), "nothing half-written"


BAD_ROWS = {
    "malformed JSON": ('{"question": "a", \n', "line 1"),
    "an index out of range": ('{"question": "a?", "choices": ["x", "y"], "answer_index": 3}\n', "answer_index"),
    "an empty file": ("", "empty"),
    "a binary file": ("\x00\x01\x02", ""),
}


@pytest.mark.parametrize("name", BAD_ROWS)
def test_rows_that_cannot_be_read(name: str, study: Path, tmp_path: Path) -> None:
    text, word = BAD_ROWS[name]
    path = tmp_path / "bad.jsonl"
    path.write_text(text)
    bad = changed(study, tmp_path, train={"trees": {"path": str(path), "domain": "trees"}})
    lines = problems(call("run", bad, "--out", tmp_path / "out"))
    assert any(str(path) in line and word in line for line in lines), lines
    assert not (tmp_path / "out").exists()


def test_every_problem_is_reported_at_once(study: Path, tmp_path: Path) -> None:
    bad = changed(study, tmp_path, seeds=[], budget={"epochs": "many", "batches": 3}, arms={"lora": {"ranks": [-1]}})
    assert len(problems(call("run", bad))) >= 4


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_unwritable_folder(study: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert "cannot be written" in problems(call("run", study, "--out", tmp_path / "out"))[0]


def test_a_file_in_place_of_the_out_folder(study: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    assert "a file" in problems(call("run", study, "--out", tmp_path / "out"))[0]


def test_defaults_of_studies_are_yaml_that_init_starts_from(done: Path, tmp_path: Path) -> None:
    pooled = tmp_path / "defaults.yaml"
    result = call("defaults", done, "--out", pooled)
    assert result.exit_code == 0, result.output
    found = yaml.safe_load(pooled.read_text())
    assert [(arm["method"], arm["rank"], arm["studies"]) for arm in found["arms"]] == [
        ("lora", 2, 1),
        ("full", None, 1),
    ]
    assert yaml.safe_load(call("defaults", done).stdout) == found
    before = pooled.read_bytes()
    assert problems(call("defaults", done, "--out", pooled)) == [
        f"{pooled}: --out: found a file that exists, expected a new file"
    ]
    assert pooled.read_bytes() == before
    assert json.loads(call("defaults", done, "--json").stdout) == found
    file = tmp_path / "study.yaml"
    assert call("init", "--from", pooled, "--out", file).exit_code == 0
    assert set(yaml.safe_load(file.read_text())["arms"]) == {"full", "lora-r2"}
    assert problems(call("defaults", tmp_path / "nowhere", tmp_path)) == [
        f"{tmp_path / 'nowhere'}: DIR: found no such folder, expected a study folder that `rankscope run` made",
        f"{tmp_path}: DIR: found no rankscope-study.json, expected a study folder that `rankscope run` made",
    ]
    assert len(problems(call("init", "--from", done / "study.yaml", "--out", tmp_path / "other.yaml"))) == 1
