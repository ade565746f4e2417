"""Adaptive seeds at tiny scale: rounds of runs, arms that leave, and the same ids as with a list of seeds."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_pipeline import plan_of, run
from tiny_study import tiny_study

from rankscope.edges.study_folder import StudyFolder
from rankscope.results.write_results import write_results

SEEDS = {"start": 3, "max": 5}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A gain is asked for that no arm can have, so that the first look decides."""
    folder = tmp_path_factory.mktemp("adaptive")
    decision = {"min_gain": 0.9, "confidence": 0.5}
    suites = {
        "taught": {"path": "taught.jsonl", "domain": "trees", "kind": "recall"},
        "other": {"path": "other.jsonl", "domain": "stones", "kind": "recall"},
    }
    budget = {"epochs": 1, "batch_size": 8, "max_sequence_tokens": 128}
    return tiny_study(folder / "input", seeds=SEEDS, decision=decision, suites=suites, budget=budget)


def states(out: Path) -> dict[tuple[str, int], str]:
    store = StudyFolder.open(out)
    found = {(run.arm.label, run.seed): store.read_status(run.run_id) for run in plan_of(out).runs}
    return {key: "none" if status is None else status.state for key, status in found.items()}


def test_no_run_is_made_after_the_verdict_stands(study: Path, tmp_path: Path) -> None:
    run(study, tmp_path)
    assert plan_of(tmp_path).looks == [3, 5]
    expected = {(arm, seed): "done" if seed < 3 else "not needed" for arm in ("full", "lora-r2") for seed in range(5)}
    assert states(tmp_path) == expected
    verdicts = StudyFolder.open(tmp_path).read_verdicts()
    assert verdicts is not None
    (verdict,) = verdicts.verdicts
    assert verdict.kind == "no_gain"
    assert any("asked after 3 of at most 5 seeds" in reason for reason in verdict.reasons)
    assert write_results(StudyFolder.open(tmp_path)) == verdicts

    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("predictions.parquet")}
    run(study, tmp_path)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("predictions.parquet")} == stamps

    run(study, tmp_path, ["seeds=[0, 1, 2, 3]"])  # the same runs under the same ids, and the one that was not needed
    assert states(tmp_path) == {(arm, seed): "done" for arm in ("full", "lora-r2") for seed in range(4)}
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items())


@pytest.mark.slow
def test_seeds_are_added_until_no_more_would_help(study: Path, tmp_path: Path) -> None:
    run(study, tmp_path, ["decision={min_gain: 0.0, retention_margin: 0.3, task_margin: 0.6}"])
    found = states(tmp_path)
    assert set(found.values()) <= {"done", "not needed"}
    for arm in ("full", "lora-r2"):
        seeds = [seed for seed in range(5) if found[arm, seed] == "done"]
        assert seeds == list(range(len(seeds)))
        assert len(seeds) >= 3
    verdicts = StudyFolder.open(tmp_path).read_verdicts()
    assert verdicts is not None
    for arm in verdicts.verdicts[0].arms:
        done = [seed for seed in range(5) if found[arm.label, seed] == "done"]
        assert arm.seeds == done[: len(arm.seeds)]  # as in its last look; the best bet has all of them
    assert verdicts.verdicts[0].best_bet is not None
