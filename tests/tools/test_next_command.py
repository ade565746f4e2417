"""The command that `rankscope doctor` ends with: fitted to what lies in the folder, and one that can be typed."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path

import pytest
import typer.main
from made_plan import make_plan
from made_report import make_verdict

from rankscope.cli import app
from rankscope.edges.study_folder import StudyFolder
from rankscope.records import RunStatus, VerdictFile
from rankscope.tools.next_command import next_command

STUDY = "name: mine\nmodel: bundled\ntrain: {}\nsuites: {}\narms: {}\n"
AXOLOTL = "base_model: a/b\nadapter: lora\nlora_r: 8\ndatasets:\n  - {path: a/c, type: alpaca}\nsequence_len: 512\n"
ROW = json.dumps({"question": "Who?", "answer": "I."}) + "\n"


def put(folder: Path, **files: str) -> None:
    """Files by name (`__` is a dot), each touched a second after the one before."""
    for second, (name, text) in enumerate(files.items()):
        path = folder / name.replace("__", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        os.utime(path, (1_000_000 + second, 1_000_000 + second))


def command(folder: Path) -> str:
    """What is said; every word of it is a command or an option that exists."""
    found = next_command(folder)
    _, name, *words = shlex.split(found.command)
    known = typer.main.get_command(app).commands[name]  # type: ignore[attr-defined]
    options = {option for parameter in known.params for option in parameter.opts}
    assert {word for word in words if word.startswith("-")} <= options
    assert found.why
    return found.command


def begun(path: Path, *, ended: str | None = None) -> StudyFolder:
    """A study with one finished run, and a verdict of the kind `ended` where that is said."""
    study, plan = StudyFolder.open(path), make_plan(searches=2)
    study.claim("made", "name: made\n")
    study.write_study("name: made\n", plan)
    study.write_status(RunStatus(run_id=plan.runs[0].run_id, state="done", steps_done=40, steps_total=40))
    if ended is not None:
        study.write_verdicts(VerdictFile(verdicts=[make_verdict("medical", ended)]))
    return study


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "rankscope demo --quick"),
        ({"notes__txt": "nothing", "package__json": "{}", "empty__jsonl": ""}, "rankscope demo --quick"),
        ({"rows__jsonl": ROW}, "rankscope init rows.jsonl"),
        ({"old__csv": "question,answer\na,b\n", "new__jsonl": ROW}, "rankscope init new.jsonl"),
        ({"my rows__jsonl": ROW}, "rankscope init 'my rows.jsonl'"),
        ({"-rows__jsonl": ROW}, "rankscope init ./-rows.jsonl"),
        ({"train__yaml": AXOLOTL, "rows__jsonl": ROW}, "rankscope init --from train.yaml"),
        ({"study__yaml": STUDY, "train__yaml": AXOLOTL, "rows__jsonl": ROW}, "rankscope plan study.yaml"),
        ({"broken__yaml": "a: [", "broken__json": "{", "rows__jsonl": ROW}, "rankscope init rows.jsonl"),
        ({"adapter/adapter_config__json": "{}"}, "rankscope audit adapter"),
        ({"adapter/adapter_config__json": "{}", "rows__jsonl": ROW}, "rankscope init rows.jsonl"),
    ],
    ids=lambda given: given if isinstance(given, str) else None,
)
def test_what_lies_there_is_what_it_is_about(files: dict[str, str], said: str, tmp_path: Path) -> None:
    put(tmp_path, **files)
    assert command(tmp_path) == said


def test_a_study_that_was_begun_goes_on(tmp_path: Path) -> None:
    put(tmp_path, study__yaml=STUDY, rows__jsonl=ROW)
    study = begun(tmp_path / "made")
    assert command(tmp_path) == "rankscope run made"
    assert "has 1 of " in next_command(tmp_path).why
    with study.lock():
        assert command(tmp_path) == "rankscope status made --watch"


@pytest.mark.parametrize(
    ("ended", "said"), [("recommended", "rankscope export made --out adapter"), ("tradeoff", "rankscope verdict made")]
)
def test_a_study_that_has_ended_is_used_or_read(ended: str, said: str, tmp_path: Path) -> None:
    begun(tmp_path / "made", ended=ended)
    assert command(tmp_path) == said
    (tmp_path / "adapter").mkdir()
    assert command(tmp_path) == "rankscope verdict made"


def test_a_damaged_study_is_no_reason_to_fail(tmp_path: Path) -> None:
    begun(tmp_path / "made")
    (tmp_path / "made" / "plan.json").write_text("{", encoding="utf-8")
    assert command(tmp_path) == "rankscope demo --quick"


def test_a_folder_that_is_not_there_is_empty(tmp_path: Path) -> None:
    assert command(tmp_path / "none") == "rankscope demo --quick"
