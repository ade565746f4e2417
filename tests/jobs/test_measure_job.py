"""`rankscope plan --measure`: real steps and real items, timed and used in the plan; nothing is left behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from scoring_models import random_items
from tiny_study import tiny_study

from rankscope.edges.executors import Executor
from rankscope.edges.executors.this_machine import InProcess
from rankscope.edges.machine import look_at_machine
from rankscope.edges.study_folder import StudyFolder
from rankscope.evaluate.prompt_choice_tree import ChoicePlan
from rankscope.jobs.measure_job import sample
from rankscope.jobs.planning import StudyPlanner
from rankscope.model.methods.attach import Pack
from rankscope.pipeline import measure_study
from rankscope.records import Item, Plan
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


@pytest.mark.parametrize("batch_tokens", [2048, 16384])
def test_scoring_is_timed_in_batches_as_full_as_a_runs(batch_tokens: int) -> None:
    items = random_items(4000, seed=1, longest_prompt=60)
    chosen = sample("taught", items, batch_tokens, 32)
    sizes = [len(batch.input_ids) for batch in ChoicePlan(chosen, batch_tokens).trees]
    whole = [len(batch.input_ids) for batch in ChoicePlan(items, batch_tokens).trees]
    assert 4 <= len(sizes) <= 5
    assert min(sizes[:3]) > 0.8 * batch_tokens, "64 items of a suite filled a fraction of one batch"
    assert sum(sizes[:3]) / 3 == pytest.approx(sum(whole[:-1]) / len(whole[:-1]), rel=0.1)
    assert sample("taught", items, batch_tokens, 32) == chosen
    assert sample("other", items, batch_tokens, 32) != chosen
    assert len(sample("few", items[:5], batch_tokens, 32)) == 5


def test_answers_are_timed_with_as_many_rows_as_a_run_decodes() -> None:
    asked = [Item(str(i), "open", (5, 6, 7)) for i in range(1000)]
    assert len(sample("sums", asked, 2048, 128)) == 256
