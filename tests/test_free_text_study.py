"""Real questions as instructions in free text, on the bundled base: judged by the loss, and by every grader.

The questions are those of commonsense_qa (MIT), in a folder beside the repository; without it these tests are skipped.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from judge_server import judge_server, said
from tiny_study import write_rows

from rankscope.edges.executors.this_machine import InProcess
from rankscope.edges.machine import look_at_machine
from rankscope.edges.study_folder import StudyFolder
from rankscope.jobs.planning import StudyPlanner
from rankscope.pipeline import Outcome, run_study
from rankscope.records import Verdict
from rankscope.study.read_study import read_study


def instructions(path: Path, count: int) -> list[dict[str, Any]]:
    """The questions as instructions whose output is the right choice; nothing of the other choices."""
    lines = path.read_text(encoding="utf-8").splitlines()[:count]
    rows = [json.loads(line) for line in lines]
    return [
        {"id": row["id"], "instruction": row["question"], "input": "", "output": row["choices"][row["answer_index"]]}
        for row in rows
    ]


def free_text_study(folder: Path, data: Path, suites: dict[str, Any], train_rows: int, **settings: Any) -> Path:
    folder.mkdir()
    write_rows(folder / "train.jsonl", instructions(data / "commonsense_qa" / "train.jsonl", train_rows))
    write_rows(folder / "test.jsonl", instructions(data / "commonsense_qa" / "validation.jsonl", 60))
    write_rows(folder / "keep.jsonl", instructions(data / "arc_easy" / "test.jsonl", 40))
    study = {
        "name": "free-text",
        "model": "bundled",
        "train": {"commonsense": {"path": "train.jsonl", "domain": "commonsense"}},
        "suites": suites,
        "arms": {"lora": {"ranks": [1, 8], "alpha": "2r", "learning_rate": 3e-3}},
        "budget": {"epochs": 1, "batch_size": 16, "max_sequence_tokens": 128},
        "dial": [1],
        "seeds": [0, 1, 2],
        **settings,
    }
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(study, sort_keys=False), encoding="utf-8")
    return path


def answered(study: Path, out: Path) -> Verdict:
    outcome = run_study(
        StudyPlanner(read_study(study), study.parent),
        StudyFolder.open(out),
        machine=look_at_machine(out, measure=False),
        make_executor=lambda plan: InProcess(1),
    )
    assert outcome == Outcome()
    found = StudyFolder.open(out).read_verdicts()
    assert found is not None
    (verdict,) = found.verdicts
    return verdict


def test_instructions_judged_by_loss_end_with_an_answer(tmp_path: Path, shared_data: Path) -> None:
    loss = {"kind": "recall", "metric": "loss"}
    suites = {
        "commonsense": {"path": "test.jsonl", "domain": "commonsense", **loss},
        "science": {"path": "keep.jsonl", **loss},
    }
    verdict = answered(free_text_study(tmp_path / "input", shared_data, suites, 160), tmp_path / "out")
    assert verdict.recommended is not None
    assert verdict.recommended.label == "lora-r8", "eight times the rank learns the short answers much faster"
    assert "nats" in verdict.sentence


@pytest.mark.slow
def test_instructions_judged_by_every_grader_end_with_an_answer(tmp_path: Path, shared_data: Path) -> None:
    graders: dict[str, Any] = {
        "exact": "exact",
        "contains": "contains",
        "f1": "f1",
        "rouge": "rouge_l",
        "regex": {"regex": r"(\w+)\W*$"},
        "python": {"python": "grader.py:score"},
    }
    with judge_server(lambda request, _: said(f"Score: {len(request['messages'][0]['content']) % 11}")) as judge:
        graders["judge"] = {"judge": {"url": judge.url, "model": "m", "asked_twice": 5}}
        asked = {"kind": "recall", "max_new_tokens": 6, "limit": 12, "trust_code": True}
        suites = {name: {"path": "keep.jsonl", "grade": grade, **asked} for name, grade in graders.items()}
        suites["commonsense"] = {"path": "test.jsonl", "domain": "commonsense", "grade": "f1", **asked}
        study = free_text_study(tmp_path / "input", shared_data, suites, 48)
        (tmp_path / "input" / "grader.py").write_text("def score(answer): return len(answer) % 3 / 2\n")
        verdict = answered(study, tmp_path / "out")
        assert judge.requests
    assert verdict.headline
    scores = pd.read_parquet(tmp_path / "out" / "tables" / "scores.parquet")
    assert scores["accuracy"].between(0, 1).all()
    assert set(scores["suite"]) == set(suites)
