"""Of two processes that work on one run the later goes on, and the earlier ends."""

from __future__ import annotations

from pathlib import Path

import pytest

from rankscope.edges.study_folder import StudyFolder
from rankscope.jobs.attempts import Attempts, Superseded
from rankscope.records import RunStatus


def write(folder: StudyFolder, attempts: Attempts, run_id: str) -> int:
    number = attempts.number(folder, run_id)
    folder.write_status(RunStatus(run_id=run_id, state="running", attempt=number))
    return number


def test_a_process_that_was_taken_for_dead_ends(tmp_path: Path) -> None:
    folder = StudyFolder.open(tmp_path)
    first, second = Attempts(), Attempts()
    assert [write(folder, first, "a") for _ in range(3)] == [1, 1, 1]
    assert write(folder, first, "b") == 1
    assert write(folder, second, "a") == 2
    with pytest.raises(Superseded, match="attempt 2 of a has begun; this one, 1, ends"):
        write(folder, first, "a")
    assert write(folder, first, "b") == 1, "another run of the same job is still its own"
    assert write(folder, second, "a") == 2


def test_a_damaged_status_is_written_anew(tmp_path: Path) -> None:
    folder = StudyFolder.open(tmp_path)
    (tmp_path / "runs" / "a").mkdir(parents=True)
    (tmp_path / "runs" / "a" / "status.json").write_text("{")
    assert write(folder, Attempts(), "a") == 1
