"""A study that is killed at any moment, driver or worker, and run again: no loss, no half file, exit codes as promised.

A full disk too, on a small file system in memory where this process may mount one.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import psutil
import pytest
from test_resume import tables, wait_for_work
from tiny_study import tiny_study

from rankscope.edges.study_folder import StudyFolder

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

KILLS = 7
"""In each test: the first while it imports, plans and encodes, the others while it works."""

ARMS = {
    "full": {"learning_rate": 1e-3},
    "lora": {"ranks": [2, 4], "learning_rate": 1e-2},
    "searched": {"method": "lora", "ranks": [3], "learning_rate": "auto"},
}
BUDGET = {"epochs": 8, "batch_size": 8, "max_sequence_tokens": 128}
WORKERS = {"workers": 2}
"""Processes beside the driver, on a machine of one core too."""

FIXED = {"arms_together": 2, "micro_batch_tokens": 4096, **WORKERS}
OFTEN = {"minutes": 0.001}


def start(study: Path, out: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "rankscope", "run", str(study), "--out", str(out)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def whole(out: Path) -> None:
    """Every record can be read, and nothing but whole files is there to be taken for one."""
    if not (out / "rankscope-study.json").exists():
        assert not [path for path in out.rglob("*") if path.is_file() and ".rankscope-draft" not in str(path)]
        return
    folder = StudyFolder.open(out)
    folder.read_marker()
    plan = folder.read_plan()
    for run in plan.runs if plan is not None else []:
        status = folder.read_status(run.run_id)
        folder.read_run(run.run_id), folder.read_steps(run.run_id)
        frame = folder.read_predictions(run.run_id)
        if status is not None and status.state == "done":
            assert frame is not None
        if folder.has_weights(run.run_id, whole=run.arm.traits.whole):
            assert folder.weights(run.run_id, whole=run.arm.traits.whole) is not None
    for search in plan.searches if plan is not None else []:
        folder.read_search(search.search_id), folder.read_rungs(search.search_id)
    folder.read_verdicts()
    for name in folder.table_names():
        folder.read_table(name)


def done_runs(out: Path) -> set[str]:
    files = out.glob("runs/*/status.json")
    return {path.parent.name for path in files if json.loads(path.read_text())["state"] == "done"}


def workers_of(driver: psutil.Process) -> list[psutil.Process]:
    """The fork server's children, busy or idle."""
    return [child for child in driver.children(recursive=True) if not child.children()]


def kill(process: subprocess.Popen[str], dice: random.Random, worker: bool) -> str:
    """SIGKILL to one of its workers, where one is asked for and there are any, or to the driver; what was killed."""
    try:
        workers = workers_of(psutil.Process(process.pid))
        if workers and worker:
            dice.choice(workers).kill()
            return "worker"
    except psutil.NoSuchProcess:
        return "nothing"
    if process.poll() is None:
        os.kill(process.pid, signal.SIGKILL)
        return "driver"
    return "nothing"


def planned_runs(out: Path) -> set[str]:
    path = out / "plan.json"
    return {run["run_id"] for run in json.loads(path.read_text())["runs"]} if path.is_file() else set()


def left_to_do(out: Path) -> float:
    """The share of the runs that are not done; never less than the report's."""
    planned = planned_runs(out)
    return max(0.3, 1 - len(done_runs(out)) / len(planned)) if planned else 1.0


@dataclass(frozen=True)
class Seconds:
    """Of a process until it holds the study, and from then until it ended."""

    starting: float
    working: float


def killed_until_done(study: Path, out: Path, seconds: Seconds, dice: random.Random) -> list[str]:
    """Run again and again; each time one process is killed, until KILLS were. Every session goes as far as it can.

    `seconds`: those of a process that is not killed.
    """
    found: list[str] = []
    while len(found) < KILLS:
        before = done_runs(out)
        process = start(study, out)
        moment = dice.random() * (seconds.working * left_to_do(out) if found else seconds.starting)
        if found:
            wait_for_work(process, out)
        try:
            process.wait(timeout=moment)
            what = "nothing"
        except subprocess.TimeoutExpired:
            what = kill(process, dice, worker=len(found) % 2 == 1)
        _, errors = process.communicate(timeout=300)
        assert "Traceback" not in errors, errors
        if what == "worker":
            assert process.returncode in (0, 1), errors
            # By its signal, or with the fork server, where that was what was killed.
            assert process.returncode == 0 or "its worker process ended" in errors, errors
        elif what == "nothing":
            assert process.returncode == 0, errors
            whole(out)
            shutil.rmtree(out)  # it was faster than the kill: from the start, for the moments that are left
            before = set()
        whole(out)
        assert before <= done_runs(out), "what was done is done no more"
        found += [what] if what != "nothing" else []
    ended_well(start(study, out))
    whole(out)
    assert not [path for path in out.rglob("*") if path.name.endswith(".rankscope-draft")]
    return found


def ended_well(process: subprocess.Popen[str]) -> None:
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors


def killed_study(folder: Path, **more: object) -> Path:
    return tiny_study(folder / "input", arms=ARMS, budget=BUDGET, seeds=[0], **more)


@pytest.fixture(scope="module")
def never_killed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Seconds]:
    """A study of a fixed packing, and its folder."""
    folder = tmp_path_factory.mktemp("kills")
    study = killed_study(folder, execution=FIXED, checkpoint=OFTEN)
    started = time.monotonic()
    process = start(study, folder / "out")
    began = wait_for_work(process, folder / "out")
    ended_well(process)
    return study, folder / "out", Seconds(began - started, time.monotonic() - began)


def test_any_moment_with_a_fixed_packing_gives_the_same_tables(
    never_killed: tuple[Path, Path, Seconds], tmp_path: Path
) -> None:
    study, expected, seconds = never_killed
    killed_until_done(study, tmp_path / "out", seconds, random.Random(1))
    ours, theirs = tables(tmp_path / "out"), tables(expected)
    assert ours.keys() == theirs.keys()
    for name in ours:
        pd.testing.assert_frame_equal(ours[name], theirs[name], check_exact=True, obj=name)


def test_any_moment_with_packing_left_on_auto_loses_nothing(
    never_killed: tuple[Path, Path, Seconds], tmp_path: Path
) -> None:
    study, out = killed_study(tmp_path, checkpoint=OFTEN, execution=WORKERS), tmp_path / "out"
    what = killed_until_done(study, out, never_killed[2], random.Random(2))
    assert {"driver", "worker"} <= set(what)
    assert done_runs(out) == planned_runs(out) != set()


# ---- a full disk ----------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MB in memory; skips where this process may not mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = shutil.which("mount")
    made = mount and subprocess.run([mount, "-t", "tmpfs", "-o", "size=8m", "tmpfs", disk], capture_output=True)
    if not made or made.returncode != 0:
        pytest.skip("this process may not mount a file system")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", disk], check=False, capture_output=True)


def test_a_full_disk_is_told_in_a_line_loses_nothing_and_goes_on_when_there_is_room(
    small_disk: Path, tmp_path: Path
) -> None:
    study = killed_study(tmp_path)
    out, told = small_disk / "out", 0
    for left in (20_000, 120_000, 200_000, 400_000):
        filler = small_disk / "filler"
        free = shutil.disk_usage(small_disk).free
        filler.write_bytes(bytes(max(0, free - left)))
        before = done_runs(out)
        process = start(study, out)
        _, errors = process.communicate(timeout=300)
        assert "Traceback" not in errors
        assert "rankscope-crash" not in errors, errors
        assert process.returncode in (0, 1, 2), errors
        assert process.returncode == 0 or "no space left on device" in errors.lower(), errors
        told += process.returncode != 0
        assert before <= done_runs(out)
        whole(out)
        filler.unlink()
    assert told >= 2
    ended_well(start(study, out))
    whole(out)
    assert (out / "report.html").is_file()
