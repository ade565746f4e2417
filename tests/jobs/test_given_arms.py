"""What is planned of arms that were trained elsewhere: scoring and nothing else, by the content of their folders."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from given_adapters import save_adapter
from made_facts import machine_facts
from tiny_study import tiny_study

from rankscope.edges.study_folder import StudyFolder
from rankscope.jobs.planning import StudyPlanner
from rankscope.jobs.run_job import training_jobs
from rankscope.records import Plan
from rankscope.records.arm_record import TRAINED_ELSEWHERE
from rankscope.study.problems import InputProblems
from rankscope.study.read_study import read_study, study_of


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A study of two adapters and nothing that is trained."""
    file = tiny_study(tmp_path / "in", arms={"theirs": {"adapters": ["a0", "a1"]}})
    for seed in (0, 1):
        save_adapter(tmp_path / "in" / "model", tmp_path / "in" / f"a{seed}", seed)
    return file


def planned(study: Path, out: StudyFolder, *, settle: bool = False) -> Plan:
    settings = read_study(study)
    with StudyPlanner(settings, study.parent) as planner:
        plan = planner.plan(machine_facts(), out)
        if settle:
            out.claim(settings.name, planner.text(plan))
            planner.settle(out, plan)
        return plan


def test_a_study_of_given_arms_alone_trains_nothing(study: Path, tmp_path: Path) -> None:
    out = StudyFolder.open(tmp_path / "out")
    plan = planned(study, out, settle=True)
    assert [run.seed for run in plan.runs] == [0, 1]
    for run in plan.runs:
        assert (run.step_count, run.train_tokens, run.train_flops, run.search_id) == (0, 0, 0.0, None)
        assert run.fits
        assert (run.arm.rank, run.arm.alpha, run.arm.targets) == (4, 8.0, ("q_proj", "v_proj"))
    assert not plan.searches
    assert [warning for warning in plan.warnings if TRAINED_ELSEWHERE in warning]
    assert [job.run_ids for job in training_jobs(out, plan.runs)] == [(run.run_id,) for run in plan.runs], "no pack"
    stored = study_of(out.read_study_text() or "")
    assert stored.arms["theirs"].folders == tuple(str(study.parent / name) for name in ("a0", "a1"))  # type: ignore[attr-defined]
    assert stored.expand_arms() == tuple(dict.fromkeys(run.arm for run in plan.runs))


def test_the_run_ids_are_of_the_content_and_not_of_the_place(study: Path, tmp_path: Path) -> None:
    before = [run.run_id for run in planned(study, StudyFolder.open(tmp_path / "x")).runs]
    (study.parent / "a0").rename(study.parent / "b0")
    study.write_text(study.read_text().replace("a0", "b0"))
    assert [run.run_id for run in planned(study, StudyFolder.open(tmp_path / "x")).runs] == before
    study.write_text(study.read_text() + "\ndial: [0.5, 1]\noptimizer: {weight_decay: 0.1}\n")
    assert [run.run_id for run in planned(study, StudyFolder.open(tmp_path / "x")).runs] == before
    config = study.parent / "b0" / "adapter_config.json"
    for folder in ("b0", "a1"):
        config = study.parent / folder / "adapter_config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | {"lora_alpha": 16}))
    after = planned(study, StudyFolder.open(tmp_path / "x"))
    assert not {run.run_id for run in after.runs} & set(before)
    assert after.runs[0].arm.alpha == 16.0


def test_before_anything_is_judged_a_changed_folder_is_planned_anew_and_a_missing_one_refused(
    study: Path, tmp_path: Path
) -> None:
    out = StudyFolder.open(tmp_path / "out")
    before = planned(study, out, settle=True)
    save_adapter(study.parent / "model", study.parent / "a1", 7)
    after = planned(study, out)
    assert after.runs[0].run_id == before.runs[0].run_id
    assert after.runs[1].run_id != before.runs[1].run_id
    (study.parent / "a1" / "adapter_model.safetensors").unlink()
    with pytest.raises(InputProblems, match=r"a1: adapter: found no weights, expected adapter_model\.safetensors"):
        planned(study, StudyFolder.open(tmp_path / "other"))
