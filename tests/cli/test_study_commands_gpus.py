"""`rankscope plan --gpus`: a study planned for GPUs that are described, on a machine that has none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import call, problems
from tiny_study import tiny_study


def test_a_study_is_planned_for_gpus_that_are_not_here(tmp_path: Path) -> None:
    study, out = tiny_study(tmp_path / "input"), tmp_path / "none"
    planned = json.loads(call("plan", study, "--gpus", "8x80GB", "--json", "--out", out).stdout)
    assert planned["resolved"]["device"] == "cuda"
    assert planned["resolved"]["dtype"] == "bfloat16"
    assert {run["gang"] for run in planned["runs"]} == {1}
    shared = call("plan", study, "--gpus", "8x80GB", "--out", out, "--set", "execution.shards=4")
    assert shared.exit_code == 0, shared.output
    assert "in a gang of 4" in " ".join(shared.stdout.split())
    assert "GPU hours in all" in " ".join(shared.stdout.split())
    assert not out.exists()


def test_the_schedule_on_described_gpus_is_shown(tmp_path: Path) -> None:
    study = tiny_study(tmp_path / "input")
    words = ("plan", study, "--gpus", "4x80GB", "--out", tmp_path / "none", "--set", "execution.gpus=[1, 3]")
    found = json.loads(call(*words, "--json").stdout)["schedule"]
    assert found["devices"] == [1, 3]
    ids = [i for job in found["jobs"] for i in job["ids"]]
    assert len(ids) == len(set(ids)) == 1 + 4, "the base and every run"
    assert found["makespan_seconds"] == max(job["end_seconds"] for job in found["jobs"]) > 0
    assert 0 <= found["idle_share"] < 1
    assert found["gpu_hours"] > 0
    lines = call(*words).stdout.splitlines()
    heading = next(i for i, line in enumerate(lines) if line.split()[:2] == ["GPU", "jobs"])
    assert [line.split()[0] for line in lines[heading + 1 : heading + 3]] == ["1", "3"]
    (idle,) = [line for line in lines if "is idle" in line]
    assert idle.endswith("of the time of 2 GPUs is idle, until the last job has ended")
    assert any("with 2 GPUs" in line for line in lines)


def test_what_is_no_machine_is_refused_in_one_line(tmp_path: Path) -> None:
    study = tiny_study(tmp_path / "input")
    (line,) = problems(call("plan", study, "--gpus", "eight"))
    told = "a number of GPUs and the memory of each, such as 8x80GB; 4x8x80GB are four such nodes"
    assert line == f"--gpus: found eight, expected {told}"
    (line,) = problems(call("plan", study, "--gpus", "8x80GB", "--measure"))
    assert "a described machine cannot be timed" in line
    (line,) = problems(call("plan", study, "--gpus", "2x80GB", "--set", "execution.shards=4"))
    assert line.endswith("found shards: 4 on a machine with 2 GPUs, expected auto, or a power of two up to 2")


def test_several_nodes_are_planned_for_an_executor_that_reaches_them(tmp_path: Path) -> None:
    study = tiny_study(tmp_path / "input")
    words = ("plan", study, "--gpus", "2x4x80GB", "--out", tmp_path / "none")
    (line,) = problems(call(*words))
    assert line.startswith(
        "--gpus: found 2 nodes with on: local, whose jobs run on one machine, expected GPUs of one node"
    )
    there = (*words, "--set", "execution.on=ray")
    planned = json.loads(call(*there, "--json").stdout)
    assert (planned["resolved"]["worker_count"], planned["resolved"]["gpus"]) == (8, [0, 1, 2, 3])
    assert planned["schedule"]["devices"] == [*range(8)]
    lines = call(*there).stdout.splitlines()
    heading = next(i for i, line in enumerate(lines) if line.split()[:2] == ["node.GPU", "jobs"])
    assert [line.split()[0] for line in lines[heading + 3 : heading + 6]] == ["0.2", "0.3", "1.0"]
    assert any("of the time of 8 GPUs on 2 nodes is idle" in line for line in lines)
    (line,) = problems(call(*there, "--set", "execution.shards=8"))
    assert line.endswith("found shards: 8 on a machine with 4 GPUs, expected auto, or a power of two up to 4")


def test_a_plan_shows_money(tmp_path: Path) -> None:
    """On described GPUs by the GPU hour; on this machine, which is a CPU for these tests, by the hour of it all."""
    study, out = tiny_study(tmp_path / "input"), tmp_path / "none"
    words = ("plan", study, "--out", out)
    found = json.loads(call(*words, "--gpus", "2x80GB", "--price", "2.5/gpu-hour", "--json").stdout)
    hours = found["schedule"]["makespan_seconds"] / 3600
    assert found["cost"]["units"] == pytest.approx(2 * hours)
    assert found["cost"]["amount"] == pytest.approx(5 * hours)
    assert found["cost"]["busy_amount"] == pytest.approx(2.5 * found["schedule"]["gpu_hours"])
    told = " ".join(call(*words, "--gpus", "2x80GB", "--price", "2.5/gpu-hour").stdout.split())
    assert "At 2.5 per GPU hour: less than 0.01 for " in told
    assert "cost" not in json.loads(call(*words, "--json").stdout)
    assert problems(call(*words, "--price", "cheap")) == [
        '--price: found "cheap", expected a number and a unit: 2.5/gpu-hour (one GPU for an hour), or 3/hour '
        "(the whole machine)"
    ]
