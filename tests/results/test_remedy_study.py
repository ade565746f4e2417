"""`rankscope init --remedies`: the next study is one that can be read and planned, about the best arm of the last."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_pipeline import run
from tiny_study import tiny_study
from typer.testing import CliRunner, Result

from rankscope.cli import app
from rankscope.edges.study_folder import StudyFolder
from rankscope.pipeline import Outcome
from rankscope.results import remedy_study
from rankscope.results.remedy_study import best_arm, write_remedy_study
from rankscope.study.methods.remedy_settings import Retain
from rankscope.study.problems import InputProblems
from rankscope.study.read_study import read_study


def call(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    assert run(tiny_study(folder / "input", seeds=[0]), folder / "out") == Outcome()
    return folder / "out"


def test_the_best_arm_stands_plain_and_with_every_remedy(done: Path, tmp_path: Path) -> None:
    out = tmp_path / "next.yaml"
    found = call("init", "--remedies", done, "--out", out)
    assert found.exit_code == 0, found.stderr
    before, study = read_study(done / "study.yaml"), read_study(out)
    verdicts = StudyFolder.open(done).read_verdicts()
    assert verdicts is not None
    label = best_arm(verdicts.verdicts[0])
    assert label in found.stdout
    arms = {arm.label: arm for arm in study.expand_arms()}
    plain = arms.pop(str(label))
    assert plain.remedy is None
    assert plain.method == {arm.label: arm for arm in before.expand_arms()}[str(label)].method
    assert all(arm.remedy is not None and arm.label.endswith(str(label)) for arm in arms.values())
    assert {arm.learning_rate for arm in arms.values()} == {plain.learning_rate}
    assert ("l2-full" in arms) == plain.traits.whole
    assert len(arms) >= 4
    assert (study.train, study.suites, study.budget) == (before.train, before.suites, before.budget)
    planned = call("plan", out)
    assert planned.exit_code == 0, planned.stderr


def test_what_it_would_not_heed_is_refused(done: Path, tmp_path: Path) -> None:
    out = tmp_path / "next.yaml"
    found = call("init", "--remedies", done, "--out", out, "--name", "mine", "--from", tmp_path / "no.yaml")
    assert found.exit_code == 2
    assert "init: --remedies: found --name, --from beside it, expected --out alone beside it" in found.stderr
    assert not out.exists()


def test_the_plain_arm_of_one_with_a_remedy_is_not_called_by_it(done: Path) -> None:
    """Where the best arm of the last study was `l2-full`, the arm without a remedy is another."""
    study = read_study(done / "study.yaml")
    key = next(key for key, entry in study.arms.items() if entry.method == "full")
    treated = study.arms[key].model_copy(update={"retain": Retain(l2=0.01)})
    study = study.model_copy(update={"arms": {"l2-full": treated}})
    (arm,) = study.arms_of("l2-full")
    assert arm.remedy is not None
    entries = remedy_study._entries(study, "l2-full", arm, 1e-3)
    assert "l2-full" not in entries
    assert not {"retain", "replay"} & set(entries["plain-l2-full"])
    assert entries["l2-plain-l2-full"]["retain"] == {"l2": 0.01}


def test_a_file_that_exists_and_a_study_without_a_verdict_are_refused(done: Path, tmp_path: Path) -> None:
    out = tmp_path / "there.yaml"
    out.write_text("mine", encoding="utf-8")
    with pytest.raises(InputProblems, match="a file that exists"):
        write_remedy_study(StudyFolder.open(done), out)
    assert out.read_text() == "mine"
    study = tiny_study(tmp_path / "input", seeds=[0])
    run(study, tmp_path / "begun", only=[next(iter((done / "runs").iterdir())).name])
    found = call("init", "--remedies", tmp_path / "begun", "--out", tmp_path / "next.yaml")
    assert found.exit_code == 2
    assert "verdict.json: found no verdict yet, expected a study that has ended" in found.stderr
    assert not (tmp_path / "next.yaml").exists()
