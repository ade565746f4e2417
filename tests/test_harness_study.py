"""A study whose suites are tasks of lm-eval, from the plan to the report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from harness_tasks import GENERATED, ITEMS, ROLLING, questions, save_task
from tiny_study import tiny_study, write_rows
from typer.testing import CliRunner

from rankscope.cli import app
from rankscope.study.read_study import read_study

pytest.importorskip("lm_eval")
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("own_datasets_cache")]


def test_a_study_on_tasks_of_lm_eval(tmp_path: Path) -> None:
    save_task(tmp_path / "tasks", "towns")
    save_task(tmp_path / "tasks", "replies", **GENERATED)
    save_task(tmp_path / "tasks", "prose", **ROLLING)
    study = tiny_study(tmp_path / "in", seeds=[0], arms={"lora": {"ranks": [2], "learning_rate": 1e-2}})
    rows = [json.loads(line) for line in (tmp_path / "in" / "train.jsonl").read_text().splitlines()]
    asked = questions()[0]  # this one is in the suite: it must not be trained on
    rows.append({"id": "asked", "question": asked["question"], "answer": asked["choices"][asked["answer"]]})
    write_rows(tmp_path / "in" / "train.jsonl", rows)
    settings: dict[str, Any] = yaml.safe_load(study.read_text())
    settings["suites"] = {
        "towns": {"harness": "../tasks/towns.yaml", "num_fewshot": 2, "kind": "recall", "domain": "trees"},
        "replies": {"harness": "../tasks/replies.yaml", "kind": "reasoning", "limit": 5},
        "prose": {"harness": "../tasks/prose.yaml"},
    }
    study.write_text(yaml.safe_dump(settings))
    out = tmp_path / "out"
    done = CliRunner().invoke(app, ["run", str(study), "--out", str(out)])
    assert done.exit_code == 0, done.output

    plan = json.loads((out / "plan.json").read_text())
    facts = {suite["name"]: suite for suite in plan["suites"]}
    assert facts["towns"]["harness"]["num_fewshot"] == 2
    assert facts["towns"]["harness"]["version"] == 2.0
    assert len(facts["towns"]["harness"]["task_sha256"]) == 64
    assert [facts[name]["form"] for name in ("towns", "replies", "prose")] == ["choices", "open", "text"]
    assert plan["train_sets"][0]["dropped"] == {"also in suite towns": 1}
    held = yaml.safe_load((out / "study.yaml").read_text())
    assert held["suites"]["towns"]["harness"] == str(tmp_path / "tasks" / "towns.yaml")
    assert read_study(out / "study.yaml").suites["replies"].limit == 5  # it can be run again

    base = pd.read_parquet(out / "base" / "predictions.parquet")
    assert base.groupby("suite").size().to_dict() == {"towns": ITEMS, "replies": 5, "prose": ITEMS}
    assert base[base["suite"] == "towns"]["score_normalized"].notna().all()
    scores = pd.read_parquet(out / "tables" / "scores.parquet")
    assert set(scores["suite"]) == {"towns", "replies", "prose"}

    again = CliRunner().invoke(app, ["run", str(study), "--out", str(out)])
    assert again.exit_code == 0, again.output  # nothing is scored anew: the content is the same
    pd.testing.assert_frame_equal(base, pd.read_parquet(out / "base" / "predictions.parquet"))
