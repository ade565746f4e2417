"""On a real GPU: the command that one starts has no CUDA context, and the worker has the one that it was given."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_study import tiny_study

from rankscope.edges.study_folder import StudyFolder

pytestmark = pytest.mark.usefixtures("on_cuda")

DRIVER = """
import sys
from rankscope.cli import app
try:
    app(sys.argv[1:])
except SystemExit as end:
    code = end.code
import torch
print("driver has a context:", torch.cuda.is_initialized())
sys.exit(code)
"""


def drive(*words: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own, which says at its end whether it has a CUDA context."""
    line = [sys.executable, "-c", DRIVER, *map(str, words)]
    done = subprocess.run(line, capture_output=True, text=True, check=False, env={**os.environ, **environment})
    assert done.returncode == 0, done.stderr
    assert "driver has a context: False" in done.stdout
    return done


def test_a_study_runs_on_a_gpu_that_is_called_by_its_uuid_and_its_driver_does_not(tmp_path: Path) -> None:
    study = tiny_study(tmp_path / "input", seeds=[0], arms={"lora": {"ranks": [2], "learning_rate": 1e-2}})
    last = torch.cuda.get_device_properties(torch.cuda.device_count() - 1)
    drive("run", study, "--out", tmp_path / "out", CUDA_VISIBLE_DEVICES=f"GPU-{last.uuid}")
    folder = StudyFolder.open(tmp_path / "out")
    plan = folder.read_plan()
    assert plan is not None
    assert (plan.resolved.device, plan.resolved.gpus) == ("cuda", [0])
    (run,) = plan.runs
    status, record = folder.read_status(run.run_id), folder.read_run(run.run_id)
    assert status is not None
    assert record is not None
    assert status.state == "done"
    assert last.name in record.provenance.machine
    assert 0 < (status.peak_memory_bytes or 0) < last.total_memory


def test_what_is_looked_at_is_what_torch_sees() -> None:
    found = json.loads(drive("doctor", "--json").stdout.rpartition("driver has")[0])["machine"]
    assert found["device"] == "cuda"
    assert found["device_count"] == torch.cuda.device_count()
    sizes = [torch.cuda.get_device_properties(number).total_memory for number in range(torch.cuda.device_count())]
    assert found["device_memory_bytes"] == min(sizes)
    assert found["flops_per_second"] > 1e12
