"""A tiny study whose runs are trained by two processes each, against the same study of one process."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest
from safetensors.torch import load_file
from tiny_study import tiny_study

from rankscope.edges.study_folder import StudyFolder

pytestmark = pytest.mark.slow

ARMS = {
    "full": {"learning_rate": 1e-3},
    "lora": {"ranks": [2, 4], "learning_rate": 1e-2},
}
SHORT: dict[str, Any] = {
    "arms": ARMS, "seeds": [0], "budget": {"epochs": 2, "batch_size": 8, "max_sequence_tokens": 128},
    "checkpoint": {"minutes": 0.001}, "keep": {"full": "all"}, "dial": [1],
    "model": {"id": "model", "dtype": "float32"},
}  # fmt: skip
PACKED = {"arms_together": 2, "micro_batch_tokens": 512}


def start(study: Path, out: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "rankscope", "run", str(study), "--out", str(out)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def finish(process: subprocess.Popen[str]) -> str:
    output, errors = process.communicate(timeout=280)
    assert process.returncode == 0, output + errors
    return output + errors


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("gang")
    study = tiny_study(folder / "input", **SHORT, execution={**PACKED, "shards": 2})
    finish(start(study, folder / "out"))
    return study, folder / "out"


def weights(out: Path) -> dict[str, dict[str, Any]]:
    return {path.parts[-3]: load_file(path) for path in sorted(out.glob("runs/*/*/*.safetensors"))}


def test_two_processes_give_what_one_gives(sharded: tuple[Path, Path], tmp_path: Path) -> None:
    _, out = sharded
    alone = tiny_study(tmp_path / "input", **SHORT, execution=PACKED)
    finish(start(alone, tmp_path / "out"))
    found, expected = weights(out), weights(tmp_path / "out")
    assert found.keys() == expected.keys()
    assert len(found) == 3
    for run_id, tensors in expected.items():
        for name, tensor in tensors.items():
            assert float((found[run_id][name] - tensor).abs().max()) < 1e-3, (run_id, name)
    plan = StudyFolder.open(out).read_plan()
    assert plan is not None
    assert {run.arm.method: run.gang for run in plan.runs} == {"full": 2, "lora": 2}
    statuses = {run.run_id: StudyFolder.open(out).read_status(run.run_id) for run in plan.runs}
    assert all(status is not None and status.state == "done" for status in statuses.values())
    assert [status.gang for status in statuses.values() if status] == [run.gang for run in plan.runs]
    assert not [*out.rglob("*.gang"), *out.rglob("*.gang-before"), *out.rglob("*-draft")]
    scores = [pd.read_parquet(folder / "tables" / "scores.parquet") for folder in (out, tmp_path / "out")]
    difference = (scores[0]["accuracy"] - scores[1]["accuracy"]).abs()
    assert float(difference.max()) <= 1 / 20, "an item may tip over by rounding"


def gang_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    try:
        children = psutil.Process(process.pid).children(recursive=True)
        return [child for child in children if "rankscope.jobs.gang_member" in child.cmdline()]
    except psutil.Error:
        return []


def wait_for_checkpoint(process: subprocess.Popen[str], out: Path) -> list[psutil.Process]:
    """The processes of the gang that has saved a state of the full run."""
    while process.poll() is None:
        members = gang_of(process)
        if members and [*out.glob("runs/full*/checkpoint.gang/state.json")]:
            return members
        time.sleep(0.01)
    raise AssertionError(process.communicate())


def long(folder: Path) -> Path:
    """Steps enough to be stopped between two of them."""
    budget = {"epochs": 15, "batch_size": 8, "max_sequence_tokens": 128}
    only = {**SHORT, "arms": {"full": {"learning_rate": 1e-3}}, "budget": budget}
    return tiny_study(folder / "input", **only, execution={"shards": 2, "micro_batch_tokens": 512})


@pytest.fixture(scope="module")
def never_stopped(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("gang-long")
    study = long(folder)
    finish(start(study, folder / "out"))
    return study, weights(folder / "out")


def same_bits(found: dict[str, dict[str, Any]], expected: dict[str, dict[str, Any]]) -> None:
    assert found.keys() == expected.keys()
    for run_id, tensors in expected.items():
        for name, tensor in tensors.items():
            assert found[run_id][name].equal(tensor), (run_id, name)


def test_stopped_and_resumed_is_bit_for_bit(
    never_stopped: tuple[Path, dict[str, dict[str, Any]]], tmp_path: Path
) -> None:
    study, expected = never_stopped
    process = start(study, tmp_path / "out")
    wait_for_checkpoint(process, tmp_path / "out")
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 1, errors
    (state,) = (tmp_path / "out").glob("runs/full*/checkpoint.gang/state.json")
    assert json.loads(state.read_text())["processes"] == 2
    finish(start(study, tmp_path / "out"))
    same_bits(weights(tmp_path / "out"), expected)


def test_one_process_killed_costs_nothing_but_time(
    never_stopped: tuple[Path, dict[str, dict[str, Any]]], tmp_path: Path
) -> None:
    """The gang starts again from its state."""
    study, expected = never_stopped
    process = start(study, tmp_path / "out")
    members = wait_for_checkpoint(process, tmp_path / "out")
    members[-1].kill()
    finish(process)
    same_bits(weights(tmp_path / "out"), expected)


def test_a_damaged_state_is_not_used(never_stopped: tuple[Path, dict[str, dict[str, Any]]], tmp_path: Path) -> None:
    study, expected = never_stopped
    out = tmp_path / "out"
    process = start(study, out)
    wait_for_checkpoint(process, out)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=200)
    (state,) = out.glob("runs/full*/checkpoint.gang")
    part = next(state.glob("*.safetensors"))
    content = bytearray(part.read_bytes())
    content[-1] ^= 1
    part.write_bytes(content)
    text = finish(start(study, out))
    assert "checkpoint.gang is damaged" in text
    same_bits(weights(out), expected)
    shutil.rmtree(out)
