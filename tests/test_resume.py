"""A study killed at any moment and run again gives the tables of one that was never killed, bit for bit."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pandas as pd
import pytest
from tiny_study import tiny_study

from rankscope.edges.study_folder import StudyFolder

TIMED = ["train_seconds", "evaluate_seconds", "search_seconds", "peak_memory_bytes"]
"""What a clock or the memory of a process says differs between any two runs."""

ARMS = {
    "full": {"learning_rate": 1e-3},
    "lora": {"ranks": [2, 4], "learning_rate": 1e-2},
    "lora-auto": {"method": "lora", "ranks": [3, 5], "learning_rate": "auto"},
}

TOGETHER = {"arms_together": 2, "micro_batch_tokens": 4096}
"""Not measured: another packing would round otherwise."""

CHOOSING = {"dial": [0.5, 1], "selection": {"min_items": 8}}
"""So that suites are split, rates searched for retention, and runs scored at a dial."""


def start(study: Path, out: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "rankscope", "run", str(study), "--out", str(out)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def wait_for_work(process: subprocess.Popen[str], out: Path) -> float:
    """Until the process holds the study (before that it imports) or has ended; the monotonic clock then."""
    lock = out / ".locks" / "study.lock"
    while process.poll() is None and not (lock.is_file() and lock.read_text() == str(process.pid)):
        time.sleep(0.02)
    return time.monotonic()


def finish(process: subprocess.Popen[str]) -> None:
    output, errors = process.communicate(timeout=600)
    assert process.returncode == 0, output + errors


def tables(out: Path) -> dict[str, pd.DataFrame]:
    frames = {path.stem: pd.read_parquet(path) for path in sorted((out / "tables").glob("*.parquet"))}
    return {name: frame.drop(columns=TIMED, errors="ignore") for name, frame in frames.items()}


@pytest.fixture(scope="module")
def never_killed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, float]:
    """The study, its folder, and how many seconds the process worked."""
    folder = tmp_path_factory.mktemp("resume")
    budget = {"epochs": 12, "batch_size": 8, "max_sequence_tokens": 128}
    # A checkpoint every 0.06 s: kills then land between, before and inside them.
    study = tiny_study(
        folder / "input", arms=ARMS, seeds=[0], budget=budget, checkpoint={"minutes": 0.001}, execution=TOGETHER,
        **CHOOSING,
    )  # fmt: skip
    process = start(study, folder / "out")
    began = wait_for_work(process, folder / "out")
    finish(process)
    return study, folder / "out", time.monotonic() - began


def assert_same(found: Path, expected: Path) -> None:
    ours, theirs = tables(found), tables(expected)
    assert ours.keys() == theirs.keys()
    for name in ours:
        pd.testing.assert_frame_equal(ours[name], theirs[name], check_exact=True, obj=name)
    chosen = [StudyFolder.open(out).read_settings() for out in (found, expected)]
    assert chosen[0] == chosen[1]
    assert chosen[0] is not None
    for path in [*expected.glob("runs/*/dials/*.parquet"), *expected.glob("*/*/first_tokens.parquet")]:
        frames = [pd.read_parquet(out / path.relative_to(expected)) for out in (found, expected)]
        pd.testing.assert_frame_equal(frames[0], frames[1], check_exact=True)
    for path in expected.glob("runs/*/adapter/adapter_model.safetensors"):
        assert (found / path.relative_to(expected)).read_bytes() == path.read_bytes()
    leftovers = [p for p in found.rglob(".*") if p.name != ".locks" and ".locks" not in p.parts]
    assert not leftovers
    assert not [*found.rglob("checkpoint.safetensors"), *found.glob("packs/*")]


@pytest.mark.slow
@pytest.mark.parametrize("moment", range(3))
def test_killed_and_run_again(never_killed: tuple[Path, Path, float], tmp_path: Path, moment: int) -> None:
    study, expected, seconds = never_killed
    out, dice, kills = tmp_path / "out", random.Random(moment), 0
    while kills < 3:
        process = start(study, out)
        wait_for_work(process, out)
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=seconds * (0.1 + 0.4 * dice.random()))
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            kills += 1
        elif kills == 0:  # the machine was slower when the time was taken: from the start, and sooner
            shutil.rmtree(out)
            seconds /= 2
        else:
            break
        process.communicate()
    finish(start(study, out))
    assert_same(out, expected)


@pytest.mark.slow
@pytest.mark.parametrize("to_all", [False, True], ids=["to-the-command", "to-every-process"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1], ids=["SIGTERM", "SIGUSR1"])
def test_a_polite_signal_stops_with_exit_1_and_resumes(
    never_killed: tuple[Path, Path, float], tmp_path: Path, number: signal.Signals, to_all: bool
) -> None:
    """`timeout` and schedulers send it to every process of a study."""
    study, expected, _ = never_killed
    out = tmp_path / "out"
    process = start(study, out)
    while process.poll() is None and not any(out.glob("runs/*/status.json")):
        time.sleep(0.02)
    assert process.poll() is None, "it ended before it could be stopped"
    (os.killpg if to_all else os.kill)(process.pid, number)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 1, errors
    assert "To go on: rankscope run" in errors
    assert "failed" not in errors
    statuses = [json.loads(path.read_text()) for path in out.glob("runs/*/status.json")]
    assert "failed" not in {status["state"] for status in statuses}
    finish(start(study, out))
    assert_same(out, expected)


@pytest.mark.slow
def test_a_worker_killed_alone_costs_one_run(never_killed: tuple[Path, Path, float], tmp_path: Path) -> None:
    """As the kernel does when memory is out: the study goes on, says which run failed, and a second call mends it."""
    study, expected, _ = never_killed
    import psutil

    out = tmp_path / "out"
    process = start(study, out)
    while process.poll() is None and not any(out.glob("runs/*/status.json")):
        time.sleep(0.02)
    deadline = time.monotonic() + 60
    victim = None
    while victim is None and time.monotonic() < deadline and process.poll() is None:
        children = psutil.Process(process.pid).children(recursive=True)
        workers = [c for c in children if c.cpu_times().user > 0.2 and not c.children()]
        victim = workers[0] if workers else None
    assert victim is not None
    victim.kill()
    _, errors = process.communicate(timeout=300)
    if process.returncode == 1:
        assert "failed: its worker process ended by signal 9" in errors
    finish(start(study, out))
    assert_same(out, expected)


@pytest.mark.slow
def test_two_processes_on_one_study_do_no_harm(never_killed: tuple[Path, Path, float], tmp_path: Path) -> None:
    study, expected, _ = never_killed
    out = tmp_path / "out"
    first = start(study, out)
    while not (out / "plan.json").exists():
        time.sleep(0.05)
    second = start(study, out)
    _, errors = second.communicate(timeout=120)
    assert second.returncode == 2
    assert errors.strip().splitlines() == [f"{out}: another rankscope process (pid {first.pid}) is working on it"]
    finish(first)
    assert_same(out, expected)
    shutil.rmtree(out)
