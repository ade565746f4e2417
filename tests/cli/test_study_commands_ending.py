"""The last line of `rankscope run` where something failed: what else is done, and how to try again."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer
from made_plan import make_plan

from rankscope.cli import study_commands
from rankscope.edges.study_folder import StudyFolder
from rankscope.pipeline import Outcome
from rankscope.records import Plan, RunStatus


def last_line(folder: Path, plan: Plan, done: list[str], only: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What is said when the base and all runs that are not `done` have failed."""
    study = StudyFolder.open(str(folder))
    study.claim(plan.study, "name: made\n")
    study.write_study("name: made\n", plan)
    for run_id in done:
        study.write_status(RunStatus(run_id=run_id, state="done"))
    failed = {"base-tiny": "no luck", **{run.run_id: "no luck" for run in plan.runs if run.run_id not in done}}
    with pytest.raises(typer.Exit) as ended:
        study_commands._tell(Outcome(failed=failed), study, only)
    assert ended.value.exit_code == 1
    return capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("done", "only", "said"),
    [
        ([], [], ""),
        (["r1-s0"], [], "1 other run is done; "),
        (["r1-s0", "r1-s1"], [], "2 other runs are done; "),
        (["r1-s0"], ["r1-s2"], ""),
    ],
)
def test_only_runs_that_are_done_are_said_to_be(
    done: list[str], only: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = make_plan()
    plan = plan.model_copy(update={"runs": plan.runs[:3]})
    line = last_line(tmp_path / "out", plan, done, only, capsys)
    assert line.startswith(f"{said}to try again what failed: rankscope run ")
