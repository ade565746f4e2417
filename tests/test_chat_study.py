"""A study of an instruction-tuned model on conversations and a hub data set: from the file to the predictions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import pyarrow
import pyarrow.parquet
import pytest
import yaml
from tiny_models import save_tiny_model
from tiny_study import tiny_study, write_rows

from rankscope.edges.executors.this_machine import InProcess
from rankscope.edges.machine import look_at_machine
from rankscope.edges.study_folder import StudyFolder
from rankscope.jobs.earlier_plan import pinned
from rankscope.jobs.planning import StudyPlanner
from rankscope.pipeline import Outcome, run_study
from rankscope.records import Plan
from rankscope.study.problems import InputProblems
from rankscope.study.read_study import read_study
from rankscope.study.study import Study


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


def talk(i: int) -> dict[str, object]:
    turns = [("user", f"Name tree {i}."), ("assistant", "An oak."), ("user", "And bush?"), ("assistant", f"Bush {i}.")]
    return {"id": f"c{i}", "messages": [{"role": role, "content": content} for role, content in turns]}


def chat_study(folder: Path, **changes: Any) -> Path:
    """Conversations to train on, and of the suites one a folder that is read as the hub is."""
    study = tiny_study(folder)
    save_tiny_model(folder / "model", chat=True)
    write_rows(folder / "talks.jsonl", [talk(i) for i in range(12)])
    write_rows(folder / "asked.jsonl", [talk(i) | {"id": f"q{i}"} for i in range(20, 24)])
    (folder / "exam").mkdir()
    rows = [{"q": f"Which {i}?", "opa": "oak", "opb": "elm", "opc": "ash", "cop": i % 3} for i in range(6)]
    pyarrow.parquet.write_table(
        pyarrow.Table.from_pylist([*rows, {**rows[0], "opb": "oak"}]), folder / "exam" / "test.parquet"
    )
    columns = {"question": "q", "choices": ["opa", "opb", "opc"], "answer_index": "cop"}
    exam = {"hub": "exam", "split": "test", "kind": "recall", "columns": columns, "bad_rows": "drop"}
    settings = yaml.safe_load(study.read_text()) | {
        "train": {"talks": {"path": "talks.jsonl", "domain": "talk"}},
        "suites": {
            "asked": {"path": "asked.jsonl", "domain": "talk", "kind": "recall", "max_new_tokens": 4},
            "exam": exam,
            "text": {"path": "text.jsonl"},
        },
        "arms": {"lora": {"ranks": [2], "learning_rate": 1e-2}},
        "budget": {"epochs": 1, "batch_size": 4, "max_sequence_tokens": 256},
        "seeds": [0],
        **changes,
    }
    study.write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
    return study


def planned(path: Path, *overrides: str) -> Plan:
    out = path.parent / "nothing"
    return StudyPlanner(read_study(path, overrides), path.parent).plan(
        look_at_machine(out, measure=False), StudyFolder.open(out)
    )


def test_conversations_are_trained_and_their_last_turn_is_scored(tmp_path: Path) -> None:
    study, out = chat_study(tmp_path / "in"), tmp_path / "out"
    settings = read_study(study, ["model.system_prompt=Be brief."])
    machine = look_at_machine(out, measure=False)
    assert (
        run_study(
            StudyPlanner(settings, study.parent),
            StudyFolder.open(out),
            machine=machine,
            make_executor=lambda _: InProcess(1),
        )
        == Outcome()
    )
    plan = StudyFolder.open(out).read_plan()
    assert plan is not None
    (train,) = plan.train_sets
    assert train.completion_token_count < train.token_count / 2
    by_name = {suite.name: suite for suite in plan.suites}
    assert by_name["exam"].item_count == 6
    assert by_name["exam"].left_out == {"cannot be read": 1}
    assert by_name["exam"].revision
    frame = pd.read_parquet(out / "runs" / plan.runs[0].run_id / "predictions.parquet")
    assert frame.groupby("suite").size().to_dict() == {"asked": 4, "exam": 6, "text": 2}
    items = pd.read_parquet(out / "base" / "items.parquet").set_index("item_id")
    prompt = items.loc["q20", "prompt"]
    assert prompt == "<|system|>Be brief.<|user|>Name tree 20.<|assistant|>An oak.</s><|user|>And bush?<|assistant|>"
    assert frame.set_index("item_id").loc["q20", "answer"] == "Bush 20."


def test_what_changes_the_text_changes_the_run_and_what_does_not_does_not(tmp_path: Path) -> None:
    """Settings of the rendering are not hashed themselves: the tokens that they make are."""
    path = chat_study(tmp_path / "in")
    plans = [
        planned(path),
        planned(path, "model.chat=never"),
        planned(path, "model.system_prompt=Be brief."),
        planned(path, "model.system_prompt=Be long."),
    ]
    assert len({plan.runs[0].run_id for plan in plans}) == 4
    hashes = [{suite.name: suite.content_sha256 for suite in plan.suites} for plan in plans]
    for name in ("asked", "exam"):
        assert len({of[name] for of in hashes}) == 4
    assert len({of["text"] for of in hashes}) == 1  # plain text has no chat around it
    assert planned(path, "model.chat=auto").runs[0].run_id == plans[0].runs[0].run_id
    template = path.parent / "model" / "chat_template.jinja"
    template.write_text(template.read_text().replace("m.content", "m.content | upper"))
    with pytest.raises(InputProblems, match="drops the assistant's message"):
        planned(path)


def test_a_plain_study_ignores_the_template_and_needs_no_system_prompt(tmp_path: Path) -> None:
    path = chat_study(tmp_path / "in")
    with pytest.raises(InputProblems, match="system_prompt: found no chat template that is used"):
        planned(path, "model.chat=never", "model.system_prompt=Be brief.")
    (path.parent / "model" / "chat_template.jinja").write_text("{{ raise_exception('broken') }}")
    with pytest.raises(InputProblems, match=r"broken|chat: never"):
        planned(path)
    assert planned(path, "model.chat=never").runs


def test_a_resolved_study_is_pinned_to_the_commits_of_its_plan(tmp_path: Path) -> None:
    path = chat_study(tmp_path / "in")
    study, plan = read_study(path), planned(path)
    assert pinned(study, plan) == study  # a folder's fingerprint is no commit
    commit, other = "0" * 39 + "a", "0" * 39 + "b"
    suites = [facts.model_copy(update={"revision": commit if facts.name == "exam" else None}) for facts in plan.suites]
    models = [facts.model_copy(update={"revision": other}) for facts in plan.models]
    fixed: Study = pinned(study, plan.model_copy(update={"suites": suites, "models": models}))
    assert fixed.suites["exam"].revision == commit
    assert fixed.models[0].revision == other
    assert fixed.suites["asked"] == study.suites["asked"]
    assert fixed.train == study.train
