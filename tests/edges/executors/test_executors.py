"""What a job takes of an executor beyond one place is its own to say."""

from __future__ import annotations

from rankscope.edges.executors import host_bytes_of, slots_of
from rankscope.jobs.run_job import TrainRuns
from rankscope.jobs.score_job import ScoreBase


def test_what_a_job_takes_is_its_own_to_say() -> None:
    gang = TrainRuns("folder", ("run",), slots=4, host_bytes=10)
    assert (slots_of(gang), host_bytes_of(gang)) == (4, 10)
    base = ScoreBase("folder", "base", "model")
    assert (slots_of(base), host_bytes_of(base)) == (1, 0)
