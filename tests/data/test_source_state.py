"""The files behind a study: what of them changed, by size and time first and by hash where these differ."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest
from harness_tasks import save_task

from rankscope.data import source_state
from rankscope.data.source_state import changed_sources, source_states
from rankscope.study.read_study import absolute, read_study
from rankscope.study.study import Study

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def study(tmp_path: Path) -> Study:
    folder = tmp_path / "in"
    (folder / "set" / "data").mkdir(parents=True)
    (folder / "set" / "data" / "test.csv").write_text("question,answer\nWho?,Ann\n")
    (folder / "train.jsonl").write_text('{"question": "Who?", "answer": "Ann"}\n')
    save_task(folder / "tasks", "towns", include="base")
    (folder / "tasks" / "base").write_text("description: !function utils.words\n")
    (folder / "tasks" / "utils.py").write_text("def words(doc):\n    return ''\n")
    settings = {
        "name": "s",
        "model": "bundled",
        "train": {"own": {"path": "train.jsonl", "domain": "d"}},
        "suites": {
            "folder": {"hub": "set", "kind": "recall", "domain": "d"},
            "task": {"harness": "tasks/towns.yaml", "kind": "recall"},
            "named": {"harness": "arc_easy", "kind": "recall"},
            "hub": {"hub": "org/set", "revision": COMMIT, "kind": "recall"},
            "world": {"world": "medical/known/test", "kind": "recall"},
        },
        "arms": {"full": {"learning_rate": 1e-3}},
        "seeds": [0],
    }
    (folder / "study.yaml").write_text(json.dumps(settings))
    return read_study(folder / "study.yaml")


def test_every_source_has_a_state(study: Study, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    states = source_states(study, folder)
    by_name: dict[str, list[str]] = {}
    for state in states:
        by_name.setdefault(state.name, []).append(state.file)
    assert list(by_name) == ["train.own", *(f"suites.{name}" for name in study.suites)]
    assert by_name["train.own"] == ["train.jsonl", "aliases.json"]
    assert by_name["suites.folder"] == ["set/data/test.csv"]
    task = by_name["suites.task"]
    assert task[0] == "tasks/towns.yaml"
    assert {Path(file).name for file in task[1:]} == {"base", "utils.py", "towns.jsonl", "towns-train.jsonl"}
    train, aliases = states[:2]
    content = (folder / "train.jsonl").read_bytes()
    assert (train.size_bytes, train.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    assert (aliases.size_bytes, aliases.sha256) == (None, None)
    revisions = {state.name: state.revision for state in states if state.revision is not None}
    assert revisions["suites.hub"] == COMMIT
    assert revisions["suites.named"].startswith("lm-eval 0.")
    assert changed_sources(states, study, folder) == []
    assert changed_sources(states, absolute(study, folder), Path("/")) == []


def test_what_changed_is_said(study: Study, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    states = source_states(study, folder)
    (folder / "train.jsonl").write_text('{"question": "Who?", "answer": "Bob"}\n')
    (folder / "aliases.json").write_text("{}")
    (folder / "set" / "data" / "test.csv").unlink()
    (folder / "set" / "data" / "more.csv").write_text("question,answer\nWho?,Ann\n")
    (folder / "tasks" / "utils.py").write_text("def words(doc):\n    return 'x'\n")
    assert list(map(str, changed_sources(states, study, folder))) == [
        "train.own: train.jsonl has changed",
        "train.own: aliases.json is new",
        "suites.folder: set/data/test.csv is gone",
        "suites.folder: set/data/more.csv is new",
        f"suites.task: {folder / 'tasks' / 'utils.py'} has changed",
    ]
    fewer = study.model_copy(update={"suites": {"world": study.suites["world"]}})
    assert [change.name for change in changed_sources(states, fewer, folder)] == ["train.own", "train.own"]


def test_a_file_is_hashed_only_where_size_or_time_differ(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "in"
    states = source_states(study, folder)
    hashed: list[str] = []
    real = source_state._sha256
    monkeypatch.setattr(source_state, "_sha256", lambda path: hashed.append(path.name) or real(path))
    assert changed_sources(states, study, folder) == []
    assert hashed == []
    os.utime(folder / "train.jsonl", ns=(1, 1))
    assert changed_sources(states, study, folder) == []  # touched, and the same
    assert hashed == ["train.jsonl"]


@pytest.mark.timeout(30)
def test_tasks_that_include_one_another_are_looked_at_once(study: Study, tmp_path: Path) -> None:
    (tmp_path / "in" / "tasks" / "base").write_text("include: [towns.yaml, base]\n")
    files = [Path(state.file).name for state in source_states(study, tmp_path / "in") if state.name == "suites.task"]
    assert sorted(files) == ["base", "towns-train.jsonl", "towns.jsonl", "towns.yaml", "utils.py"]
