"""Whole studies on a GPU, as a user starts them: one process, a gang of all GPUs, weights in host memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from tiny_study import tiny_study

from rankscope.edges.study_folder import StudyFolder

ARMS = {"full": {"learning_rate": 1e-3}, "lora": {"ranks": [2, 8], "learning_rate": 1e-2}}
SHORT: dict[str, Any] = {
    "arms": ARMS, "seeds": [0], "budget": {"epochs": 6, "batch_size": 8, "max_sequence_tokens": 128},
    "dial": [0.5, 1], "model": {"id": "model", "dtype": "float32"}, "analysis": {"enabled": True, "probe_items": 16},
}  # fmt: skip


def run(study: Path, out: Path, **environment: str) -> str:
    command = [sys.executable, "-m", "rankscope", "run", str(study), "--out", str(out)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, check=False, env={**os.environ, **environment}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def scores(out: Path) -> pd.DataFrame:
    return pd.read_parquet(out / "tables" / "scores.parquet").set_index(["arm", "seed", "suite"])["accuracy"]


@pytest.fixture(scope="module")
def alone(device: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("study")
    study = tiny_study(folder / "input", **SHORT)
    run(study, folder / "out")
    return study, folder / "out"


def test_a_study_ends_with_an_answer(alone: tuple[Path, Path], device: str) -> None:
    _, out = alone
    plan = StudyFolder.open(str(out)).read_plan()
    assert plan is not None
    assert plan.resolved.device == device
    statuses = [StudyFolder.open(str(out)).read_status(run.run_id) for run in plan.runs]
    assert all(status is not None and status.state == "done" for status in statuses)
    assert all(status is not None and status.peak_memory_bytes > 0 for status in statuses)
    verdicts = json.loads((out / "verdict.json").read_text())["verdicts"]
    assert all(verdict["best_bet"] for verdict in verdicts)
    assert (out / "report.html").stat().st_size > 100_000


@pytest.mark.usefixtures("on_cuda")
def test_it_is_the_cpus_study(alone: tuple[Path, Path], tmp_path: Path) -> None:
    """The same study where no GPU is to be seen: what an item's answer is may tip over by rounding."""
    study, out = alone
    run(study, tmp_path / "out", CUDA_VISIBLE_DEVICES="")
    found, expected = scores(out), scores(tmp_path / "out")
    both = pd.concat([found, expected], axis=1, keys=["cuda", "cpu"]).dropna()
    assert len(both) == len(expected.dropna())
    assert float((both["cuda"] - both["cpu"]).abs().max()) <= 0.1


@pytest.mark.usefixtures("on_cuda")
@pytest.mark.parametrize("execution", [{"offload": "always"}, {"shards": torch.cuda.device_count() or 1}], ids=str)
def test_a_gang_of_gpus_gives_what_one_process_gives(
    alone: tuple[Path, Path], tmp_path: Path, execution: dict[str, Any]
) -> None:
    """NCCL: with one GPU the gang is one process whose masters and moments lie in host memory."""
    if execution.get("shards") == 1:
        pytest.skip("there is one GPU")
    study = tiny_study(tmp_path / "input", **SHORT, execution={**execution, "arms_together": 1})
    run(study, tmp_path / "out")
    both = pd.concat([scores(alone[1]), scores(tmp_path / "out")], axis=1).dropna()
    assert len(both)
    assert float((both.iloc[:, 0] - both.iloc[:, 1]).abs().max()) <= 0.1
