"""What a plan may count on is said by the executor whose workers do the work."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from made_facts import machine_facts

from rankscope.edges import executors
from rankscope.edges.executors import host_bytes_of, look_at_workers, slots_of
from rankscope.jobs.run_job import TrainRuns
from rankscope.jobs.score_job import ScoreBase


def test_an_executor_may_look_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine that begins a study may have no GPU where its workers have some."""
    there = machine_facts(device="cuda", device_count=8)
    asked: list[tuple[Path, bool]] = []

    def look(folder: Path, measure: bool) -> object:
        asked.append((folder, measure))
        return there

    modules = {"far": SimpleNamespace(look_at_workers=look), "near": SimpleNamespace()}
    monkeypatch.setattr(executors, "named_in", lambda _, name: modules.get(name))
    monkeypatch.setattr(executors, "look_at_machine", lambda folder, measure: machine_facts())
    assert look_at_workers("far", tmp_path, measure=False) is there
    assert asked == [(tmp_path, False)]
    assert look_at_workers("near", tmp_path) == machine_facts()
    with pytest.raises(KeyError):
        look_at_workers("nowhere", tmp_path)


def test_what_a_job_takes_is_its_own_to_say() -> None:
    gang = TrainRuns("folder", ("run",), slots=4, host_bytes=10)
    assert (slots_of(gang), host_bytes_of(gang)) == (4, 10)
    base = ScoreBase("folder", "base", "model")
    assert (slots_of(base), host_bytes_of(base)) == (1, 0)
