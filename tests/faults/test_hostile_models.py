"""Model folders that want to run code of their own, and folders, links and names that file systems make hard."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import portalocker
import pytest
import yaml
from command_line import call, problems
from peft import LoraConfig, get_peft_model
from tiny_models import save_tiny_model
from tiny_study import choice_rows, tiny_study, write_rows
from transformers import LlamaForCausalLM

from rankscope.edges.executors import this_machine

CODE = (
    "from pathlib import Path\nPath({!r}).write_text('run')\nclass Model: pass\nclass Config: pass\nclass Words: pass\n"
)


def run(*words: object) -> subprocess.CompletedProcess[str]:
    """As a process of its own, whose stdin says yes to everything."""
    return subprocess.run(
        [sys.executable, "-m", "rankscope", *map(str, words)],
        input="y\n" * 20, capture_output=True, text=True, timeout=300, env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip


def hostile(folder: Path, written: Path, *, kind: str) -> Path:
    """A model folder with Python files that write `written` when they are imported."""
    save_tiny_model(folder)
    for name in ("modeling_x.py", "configuration_x.py", "tokenization_x.py"):
        (folder / name).write_text(CODE.format(str(written)))
    (folder / "custom_generate").mkdir()
    (folder / "custom_generate" / "generate.py").write_text(CODE.format(str(written)))
    config = json.loads((folder / "config.json").read_text())
    classes = {"AutoConfig": "configuration_x.Config", "AutoModelForCausalLM": "modeling_x.Model"}
    changes = {"unknown": {"model_type": "x", "auto_map": classes}, "known": {"auto_map": classes}, "generate": {}}
    (folder / "config.json").write_text(json.dumps({**config, **changes[kind]}))
    if kind != "generate":
        words = json.loads((folder / "tokenizer_config.json").read_text())
        words |= {"auto_map": {"AutoTokenizer": ["tokenization_x.Words", None]}, "tokenizer_class": "Words"}
        (folder / "tokenizer_config.json").write_text(json.dumps(words))
    return folder


def adapter_of(model: Path, folder: Path) -> Path:
    """A LoRA adapter of a model, as PEFT saves it."""
    config = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    get_peft_model(LlamaForCausalLM.from_pretrained(model), config).save_pretrained(folder)
    return folder


def commands(tmp_path: Path, model: Path) -> list[list[object]]:
    """Every command that opens a model."""
    study = tiny_study(tmp_path / "input", seeds=[0])
    rows = write_rows(tmp_path / "rows.jsonl", choice_rows(4, "q", 9))
    return [
        ["plan", study, "--out", tmp_path / "out", "--set", f"model={model}"],
        ["run", study, "--out", tmp_path / "out", "--set", f"model={model}"],
        ["score", model, "--suite", rows],
        ["audit", adapter_of(study.parent / "model", tmp_path / "adapter"), "--base", model],
    ]


def test_no_code_of_a_model_folder_runs_and_nobody_is_asked(tmp_path: Path) -> None:
    """A yes to every question changes nothing."""
    written = tmp_path / "written"
    for words in commands(tmp_path, hostile(tmp_path / "hostile", written, kind="unknown")):
        found = run(*words)
        assert not written.exists(), "foreign code was run"
        assert "[y/N]" not in found.stdout + found.stderr
        assert found.returncode == 2, found.stderr
        (line,) = found.stderr.strip().splitlines()
        assert "code of its own" in line
        assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("one_process")
@pytest.mark.parametrize("kind", ["known", "generate"])
def test_code_beside_a_model_that_needs_none_is_not_run(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = tmp_path / "written"
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("somebody was asked"))
    for words in commands(tmp_path, hostile(tmp_path / "hostile", written, kind=kind)):
        result = call(*words, *(["--set", "budget.epochs=1"] if words[0] == "run" else []))
        assert not written.exists(), "foreign code was run"
        assert result.exit_code in (0, 2), result.output
        assert "rankscope-crash" not in result.stderr


# ---- links and names ------------------------------------------------------------------------------------------------


@pytest.fixture
def one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(this_machine, "Workers", lambda _count, threads, _places: this_machine.InProcess(threads))


def small(folder: Path, **changes: object) -> Path:
    budget = {"epochs": 1, "batch_size": 8, "max_sequence_tokens": 128}
    arms = {"lora": {"ranks": [2], "learning_rate": 1e-2}}
    return tiny_study(folder, arms=arms, seeds=[0], budget=budget, **changes)


@pytest.mark.usefixtures("one_process")
@pytest.mark.parametrize("given", ["link", "."])
def test_a_model_may_be_a_link_or_the_study_s_own_folder(tmp_path: Path, given: str) -> None:
    study = small(tmp_path / "input", model=given)
    (study.parent / "link").symlink_to(study.parent / "model")
    if given == ".":
        for file in (study.parent / "model").iterdir():
            file.rename(study.parent / file.name)
    out = tmp_path / "out"
    result = call("run", study, "--out", out)
    assert result.exit_code == 0, result.output
    assert json.loads(call("status", out, "--json").stdout)["counts"] == {"done": 1}
    assert call("run", out).exit_code == 0
    assert call("score", study.parent / given, "--suite", study.parent / "taught.jsonl").exit_code == 0


@pytest.mark.usefixtures("one_process")
def test_a_link_that_points_at_another_model_is_noticed(tmp_path: Path) -> None:
    study = small(tmp_path / "input", model="link")
    link = study.parent / "link"
    link.symlink_to(study.parent / "model")
    out = tmp_path / "out"
    assert call("run", study, "--out", out).exit_code == 0
    link.unlink()
    link.symlink_to(save_tiny_model(tmp_path / "other", seed=5))
    write_rows(study.parent / "new.jsonl", choice_rows(6, "n", 3))
    result = call("run", study, "--out", out, "--set", "seeds=[0, 1]")
    assert result.exit_code in (0, 2), result.output
    plan = json.loads((out / "plan.json").read_text())
    ids = {one["seed"]: one["run_id"] for one in plan["runs"]}
    if result.exit_code == 0:  # another model: other runs
        assert len([*out.glob("runs/*-s0-*")]) == 2
        assert ids[0] in {path.name for path in out.glob("runs/*")}


def test_layers_that_no_model_has_are_refused_at_once(tmp_path: Path) -> None:
    study = small(tmp_path / "input")
    path = study.parent / "model" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "num_hidden_layers": 200_000}))
    for words in (["plan", study], ["score", study.parent / "model", "--suite", study.parent / "taught.jsonl"]):
        (line,) = problems(call(*words))
        assert "config.json, num_hidden_layers: found 200000, expected a whole number from 1 to 1,000" in line


LONG = "x" * 300


def test_names_that_are_too_long_are_one_line_each(tmp_path: Path) -> None:
    study = small(tmp_path / "input")
    rows = study.parent / "taught.jsonl"
    commands: list[list[object]] = [
        ["plan", tmp_path / LONG], ["run", tmp_path / LONG], ["status", tmp_path / LONG], ["report", tmp_path / LONG],
        ["run", study, "--out", tmp_path / LONG], ["plan", study, "--out", tmp_path / LONG],
        ["plan", study, "--set", f"model=./{LONG}"], ["plan", study, "--set", f"train.trees.path={LONG}"],
        ["score", f"./{LONG}", "--suite", rows], ["score", study.parent / "model", "--suite", tmp_path / LONG],
        ["score", study.parent / "model", "--suite", rows, "--adapter", tmp_path / LONG],
        ["score", study.parent / "model", "--suite", rows, "--items", tmp_path / LONG / "items.jsonl"],
        ["audit", tmp_path / LONG], ["compress", tmp_path / LONG, "--rank", 1, "--out", tmp_path / "o"],
        ["defaults", tmp_path / LONG], ["export", tmp_path / LONG, "--out", tmp_path / "o"],
    ]  # fmt: skip
    for words in commands:
        result = call(*words)
        assert result.exit_code == 2, (words, result.output)
        assert len(result.stderr.strip().splitlines()) == 1, result.stderr
        assert "rankscope-crash" not in result.stderr


def test_links_that_lead_nowhere_are_one_line_each(tmp_path: Path) -> None:
    study = small(tmp_path / "input")
    nowhere = tmp_path / "nowhere"
    nowhere.symlink_to(tmp_path / "gone")
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    for link in (nowhere, loop):
        for words in (
            ["run", link], ["plan", link], ["status", link], ["plan", study, "--set", f"model={link}"],
            ["run", study, "--out", link / "out"], ["audit", link],
            ["plan", study, "--set", f"train.trees.path={link}"],
            ["score", link, "--suite", study.parent / "taught.jsonl"],
        ):  # fmt: skip
            result = call(*words)
            if words[0] == "run" and link is nowhere and "--out" in words:
                continue  # the folder that a link names is made
            assert result.exit_code == 2, (words, result.output)
            assert len(result.stderr.strip().splitlines()) == 1, result.stderr
            assert "rankscope-crash" not in result.stderr


@pytest.mark.usefixtures("one_process")
def test_a_file_system_without_locks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise portalocker.LockException(OSError(errno.ENOLCK, "No locks available"))

    study = small(tmp_path / "input")
    monkeypatch.setattr("portalocker.lock", refuse)
    result = call("run", study, "--out", tmp_path / "out")
    assert result.exit_code == 2, result.output
    (line,) = [line for line in result.stderr.strip().splitlines() if "found" in line]
    assert "no locks" in line.lower()


def test_a_folder_that_may_not_be_written_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = small(tmp_path / "input")
    (tmp_path / "locked").mkdir()
    access = os.access  # root may write everywhere
    monkeypatch.setattr("os.access", lambda path, mode: not mode & os.W_OK and access(path, mode))
    (line,) = problems(call("run", study, "--out", tmp_path / "locked" / "out"))
    assert "a folder that cannot be written to" in line
    assert yaml.safe_load(study.read_text())["name"] == "tiny"
