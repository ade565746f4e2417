"""What a job takes of an executor beyond one place is its own to say."""

from __future__ import annotations

from pathlib import Path

import pytest

from rankscope.edges.executors import WorkPlace, host_bytes_of, perform, slots_of
from rankscope.edges.study_folder import StudyFolder
from rankscope.jobs.run_job import TrainRuns
from rankscope.jobs.score_job import ScoreBase


def test_what_a_job_takes_is_its_own_to_say() -> None:
    gang = TrainRuns("folder", ("run",), slots=4, host_bytes=10)
    assert (slots_of(gang), host_bytes_of(gang)) == (4, 10)
    base = ScoreBase("folder", "base", "model")
    assert (slots_of(base), host_bytes_of(base)) == (1, 0)


class Telltale:
    """A job whose error repeats a credential, as a store's library may."""

    seconds = 1.0

    def run(self, place: WorkPlace) -> None:
        raise OSError("PUT https://x.blob.core.windows.net/lab?sig=abc%3D with the key wJalrXUtnFEMI failed")

    def mark_failed(self, folder: StudyFolder, error: str, details: str) -> dict[str, str]:
        folder.write_error("runs/x", f"{error}\n{details}")
        return {"x": error}


def test_no_credential_is_told_or_kept_of_a_failed_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI")
    outcome = perform(Telltale(), WorkPlace(lambda: False))
    assert outcome.error == "OSError: PUT https://x.blob.core.windows.net/lab?sig=*** with the key *** failed"
    assert "Traceback" in outcome.details
    assert "wJalr" not in outcome.details
    outcome.job.mark_failed(StudyFolder.open(tmp_path), "by an executor's own words: wJalrXUtnFEMI", outcome.details)
    assert "wJalr" not in (tmp_path / "runs" / "x" / "error.txt").read_text()
