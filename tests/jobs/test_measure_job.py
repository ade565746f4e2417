"""`rankscope plan --measure`: real steps and real items, timed and used in the plan; nothing is left behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny_study import tiny_study

from rankscope.edges.executors import Executor
from rankscope.edges.executors.this_machine import InProcess
from rankscope.edges.machine import look_at_machine
from rankscope.edges.study_folder import StudyFolder
from rankscope.jobs.planning import StudyPlanner
from rankscope.model.methods.attach import Pack
from rankscope.pipeline import measure_study
from rankscope.records import Plan
from rankscope.study.read_study import read_study

SUITES = {
    "taught": {"path": "taught.jsonl", "domain": "trees", "kind": "recall"},
    "other": {"path": "other.jsonl", "domain": "stones", "kind": "recall"},
}


def here(_: Plan) -> Executor:
    return InProcess(1)


def test_what_was_measured_is_what_the_plan_says(tmp_path: Path) -> None:
    path = tiny_study(
        tmp_path,
        arms={"full": {"learning_rate": 1e-3}, "lora": {"ranks": [1, 2, 4], "learning_rate": 1e-2}},
        suites=SUITES,
    )
    study = read_study(path, [])
    machine, out = look_at_machine(tmp_path, measure=False), tmp_path / "out"
    planner = StudyPlanner(study, tmp_path)
    plain = planner.plan(machine, StudyFolder.open(out))
    before = sorted(tmp_path.iterdir())

    measured, failed = measure_study(planner, plain, here)

    assert failed == {}
    assert {m.arm for m in measured} == {"full", "lora-r1", "lora-r4"}  # the ends of each method
    assert all(min(m.train_seconds_per_token, m.validation_seconds_per_token, m.evaluate_seconds) > 0 for m in measured)
    assert sorted(tmp_path.iterdir()) == before

    plan = planner.plan(machine, StudyFolder.open(out), measured)
    assert plan.measured == measured
    assert [run.run_id for run in plan.runs] == [run.run_id for run in plain.runs]
    full = next(m for m in measured if m.arm == "full")
    run = next(r for r in plan.runs if r.arm.label == "full")
    (train,) = plan.train_sets
    validation = train.validation_count * train.token_count / train.row_count
    expected = run.train_tokens * full.train_seconds_per_token + validation * full.validation_seconds_per_token
    assert run.seconds == pytest.approx(expected + full.evaluate_seconds, rel=1e-3)
    assert plan.base_seconds == next(m.evaluate_seconds for m in measured if m.arm == "lora-r1")


def test_an_arm_that_cannot_be_measured_says_why_and_the_others_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rankscope.jobs import measure_job

    study = read_study(tiny_study(tmp_path, suites=SUITES), [])
    planner = StudyPlanner(study, tmp_path)
    plan = planner.plan(look_at_machine(tmp_path, measure=False), StudyFolder.open(tmp_path / "out"))
    real = measure_job.fit

    def fit(pack: Pack, *given: Any, **named: Any) -> Any:
        if pack.members[0].has_adapter:
            raise RuntimeError("no room")
        return real(pack, *given, **named)

    monkeypatch.setattr(measure_job, "fit", fit)
    measured, failed = measure_study(planner, plan, here)
    assert [m.arm for m in measured] == ["full"]
    assert failed == {"lora-r2": "RuntimeError: no room"}
