"""What a study was planned with is what its runs see: rows and models that change, or go, are noticed and named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tiny_study import choice_rows, tiny_study, write_rows
from typer.testing import CliRunner

from rankscope.cli import app
from rankscope.edges.executors.this_machine import InProcess
from rankscope.edges.machine import look_at_machine
from rankscope.edges.study_folder import StudyFolder
from rankscope.jobs import planning
from rankscope.pipeline import Outcome, StudyPlanner, run_study
from rankscope.records import RunStatus
from rankscope.study.problems import InputProblems
from rankscope.study.read_study import read_study


def run(study: Path, out: Path, overrides: list[str] | None = None, **named: object) -> Outcome:
    planner = StudyPlanner(read_study(study, overrides or [], files=False), study.parent)
    return run_study(
        planner,
        StudyFolder.open(out),
        machine=look_at_machine(out, measure=False),
        make_executor=lambda _: InProcess(1),
        **named,  # type: ignore[arg-type]
    )


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return tiny_study(tmp_path / "input", seeds=[0])


def unfinish(out: Path, count: int = 1) -> list[str]:
    """Make the last runs of a finished study runs that are still to do; the ids of the others."""
    folder = StudyFolder.open(out)
    ids = [one.run_id for one in folder.planned().runs]
    for run_id in ids[-count:]:
        shutil.rmtree(out / "runs" / run_id)
    return ids[:-count]


def test_a_resume_opens_no_source_and_loads_no_tokenizer(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    assert run(study, out) == Outcome()
    report = (out / "report.html").read_bytes()
    for name in ("encode_study", "load_tokenizer", "inspect_model", "source_states", "changed_sources"):
        monkeypatch.setattr(planning, name, lambda *_, **__: pytest.fail("the plan holds"))
    assert run(study, out) == Outcome()
    assert len((out / "report.html").read_bytes()) == len(report)


def test_a_finished_study_goes_on_where_its_sources_are_gone(study: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(study, out)
    text = study.read_text()
    shutil.rmtree(study.parent)
    study.parent.mkdir()
    study.write_text(text)
    (out / "report.html").unlink()
    done = CliRunner().invoke(app, ["run", str(study), "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert (out / "report.html").is_file()
    assert CliRunner().invoke(app, ["run", str(out)]).exit_code == 0


def test_rows_that_are_gone_are_no_reason_to_stop_what_is_left_to_do(study: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(study, out)
    unfinish(out)
    for name in ("train.jsonl", "taught.jsonl", "other.jsonl"):
        (study.parent / name).unlink()
    assert run(study, out) == Outcome()


def test_rows_that_changed_under_finished_runs_stop_with_one_line_that_names_both(study: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(study, out)
    kept = unfinish(out)
    write_rows(study.parent / "train.jsonl", choice_rows(40, "q", 3))
    with pytest.raises(InputProblems) as caught:
        run(study, out)
    (line,) = map(str, caught.value.problems)
    assert "train.jsonl: train.trees: found another content" in line
    assert kept[0] in line
    assert "--out" in line
    assert StudyFolder.open(out).read_status(kept[0]).state == "done"  # type: ignore[union-attr]


def test_rows_that_were_touched_and_say_the_same_are_the_same(study: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(study, out)
    unfinish(out)
    content = (study.parent / "train.jsonl").read_text()
    (study.parent / "train.jsonl").write_text(content)
    assert run(study, out) == Outcome()


def test_rows_that_changed_before_any_run_was_finished_are_planned_anew(study: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(study, out)
    before = StudyFolder.open(out).planned()
    unfinish(out, len(before.runs))
    write_rows(study.parent / "train.jsonl", choice_rows(40, "q", 3))
    assert run(study, out) == Outcome()
    after = StudyFolder.open(out).planned()
    assert after.train_sets[0].content_sha256 != before.train_sets[0].content_sha256


def test_a_model_that_changed_under_finished_runs_stops_too(study: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(study, out)
    unfinish(out)
    path = study.parent / "model" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "rms_norm_eps": 0.5}))
    with pytest.raises(InputProblems, match=r"config\.json: model model: found another content"):
        run(study, out)


def test_a_job_that_finds_another_model_than_was_planned_fails_and_says_so(study: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    path = study.parent / "model" / "config.json"
    given = path.read_text()

    def change(_: object) -> None:
        path.write_text(json.dumps({**json.loads(given), "rms_norm_eps": 0.5}))

    outcome = run(study, out, progress=change)  # called before the first job
    assert set(outcome.failed) == {"base", *(one.run_id for one in StudyFolder.open(out).planned().runs)}
    assert all("config.json" in why and "another content" in why for why in outcome.failed.values())
    status = StudyFolder.open(out).read_status("base")
    assert status is not None
    assert status.state == "failed"


# ---- what came later, and what no longer belongs ---------------------------------------------------------------------


def test_a_full_run_without_weights_is_not_scored_in_silence_on_a_new_suite(study: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(study, out)
    write_rows(study.parent / "new.jsonl", choice_rows(12, "n", 5))
    more = ["suites.new={path: new.jsonl, domain: news, kind: recall}"]
    full = next(one.run_id for one in StudyFolder.open(out).planned().runs if one.arm.label == "full")
    planner = StudyPlanner(read_study(study, more), study.parent)
    planned = planner.plan(look_at_machine(out, measure=False), StudyFolder.open(out))
    assert any(full in warning and "new" in warning and "--retrain" in warning for warning in planned.warnings)
    outcome = run(study, out, more)
    assert set(outcome.left_out) == {full}
    assert "not scored on new: its weights were not kept" in outcome.left_out[full]
    assert run(study, out, more, retrain=True) == Outcome()
    scored = StudyFolder.open(out).scored_suites(full)
    assert "new" in scored


def test_a_finished_run_that_dies_while_a_new_suite_is_scored_is_labelled(study: Path, tmp_path: Path) -> None:
    from rankscope.jobs.run_job import TrainRuns

    out = tmp_path / "out"
    run(study, out)
    folder = StudyFolder.open(out)
    plan = folder.planned()
    run_id = plan.runs[0].run_id
    job = TrainRuns(str(out), (run_id,))
    assert job.mark_failed(folder, "killed", "") == {}, "it has all its scores"
    changed = plan.suites[0].model_copy(update={"content_sha256": "0" * 64})
    folder.write_study(folder.read_study_text() or "", plan.model_copy(update={"suites": [changed, *plan.suites[1:]]}))
    assert job.mark_failed(folder, "killed", "") == {run_id: "killed"}
    assert folder.read_status(run_id) == RunStatus.model_validate(
        {**folder.read_status(run_id).model_dump(), "state": "failed", "reason": "killed"}  # type: ignore[union-attr]
    )


def test_a_changed_study_says_which_finished_runs_no_longer_belong(study: Path, tmp_path: Path) -> None:
    out, told = tmp_path / "out", []
    run(study, out)
    before = {one.run_id for one in StudyFolder.open(out).planned().runs}
    run(study, out, ["budget.epochs=1"], notice=told.append)
    assert len(told) == len(before)
    assert all(any(run_id in line for line in told) for run_id in before)
    assert all((out / "runs" / run_id).is_dir() for run_id in before)
