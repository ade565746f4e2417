"""Runs of one study in several processes, and arms that do not fit: the rest goes on, and the verdict says so."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from test_resume import ARMS, assert_same, start
from tiny_study import tiny_study

from rankscope.edges.executors.this_machine import InProcess
from rankscope.edges.machine import look_at_machine
from rankscope.edges.storages import Busy
from rankscope.edges.study_folder import StudyFolder
from rankscope.jobs.planning import StudyPlanner
from rankscope.pipeline import Outcome, run_study
from rankscope.records import MachineFacts, Plan
from rankscope.study.problems import InputProblems
from rankscope.study.read_study import absolute, dump_study, read_study

ONE_THREAD = {"core_count": 1}


def machine_of(out: Path, **update: object) -> MachineFacts:
    return look_at_machine(out, measure=False).model_copy(update={**ONE_THREAD, **update})


def planned(study: Path, out: Path, overrides: list[str] | None = None, **machine: object) -> Plan:
    return StudyPlanner(read_study(study, overrides or []), study.parent).plan(
        machine_of(out, **machine), StudyFolder.open(out)
    )


def run(study: Path, out: Path, *only: str, overrides: list[str] | None = None, **machine: object) -> Outcome:
    return run_study(
        StudyPlanner(read_study(study, overrides or []), study.parent),
        StudyFolder.open(out),
        machine=machine_of(out, **machine),
        make_executor=lambda plan: InProcess(1),
        only=only,
    )


def command(study: Path, out: Path, *arguments: str) -> subprocess.Popen[str]:
    line = [sys.executable, "-m", "rankscope", "run", str(study), "--out", str(out), *arguments]
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


# ---- what does not fit ----------------------------------------------------------------------------------------------


def test_an_arm_that_does_not_fit_is_named_in_the_verdict_and_the_rest_runs(tmp_path: Path) -> None:
    one_row = {"epochs": 1, "batch_size": 1, "max_sequence_tokens": 128}  # no smaller micro-batch makes room
    study, out = tiny_study(tmp_path / "input", budget=one_row), tmp_path / "out"
    needs = {run.arm.method: run.memory_bytes for run in planned(study, out).runs}
    assert needs["full"] > needs["lora"]
    between = int((needs["full"] + needs["lora"]) / 2 / 0.9) + 1
    assert run(study, out, memory_bytes=between, device_memory_bytes=between) == Outcome()
    store = StudyFolder.open(out)
    verdicts = store.read_verdicts()
    assert verdicts is not None
    status = {arm.label: arm.status for arm in verdicts.verdicts[0].arms}
    assert status["full"] == "does not fit"
    assert status["lora-r2"] != "does not fit"
    assert any("full" in reason and "needs" in reason for reason in verdicts.verdicts[0].reasons)
    assert any("does not fit: needs" in note for note in verdicts.notes)
    assert "does not fit" in (out / "report.html").read_text(encoding="utf-8")
    full = next(run.run_id for run in planned(study, out).runs if run.arm.method == "full")
    assert store.read_status(full) is None


def test_a_run_that_is_asked_for_and_does_not_fit_says_so(tmp_path: Path) -> None:
    study, out = tiny_study(tmp_path / "input", seeds=[0]), tmp_path / "out"
    full = planned(study, out).runs[0]
    outcome = run(study, out, full.run_id, memory_bytes=10**8, device_memory_bytes=10**8)
    assert re.match(r"does not fit: needs 0\.[56]\d* GB", outcome.left_out[full.run_id])
    assert outcome.failed == {}


# ---- one plan for all -----------------------------------------------------------------------------------------------


def test_the_first_plan_is_kept_by_processes_that_agree_with_it(tmp_path: Path) -> None:
    study, out = tiny_study(tmp_path / "input", seeds=[0]), tmp_path / "out"
    first, second = (run.run_id for run in planned(study, out).runs)
    run(study, out, first, flops_per_second=1e9)
    plan, text = (out / "plan.json").read_bytes(), (out / "study.yaml").read_bytes()
    # Another node, faster, with more memory, and bf16 faster than fp32: nothing may change under the first process.
    run(study, out, second, flops_per_second=1e12, bfloat16_is_fast=True, memory_bytes=10**12)
    assert (out / "plan.json").read_bytes() == plan
    assert (out / "study.yaml").read_bytes() == text
    store = StudyFolder.open(out)
    assert {store.read_status(run_id).state for run_id in (first, second)} == {"done"}  # type: ignore[union-attr]


def test_another_study_waits_for_nobody_while_others_work_by_the_old_plan(tmp_path: Path) -> None:
    study, out = tiny_study(tmp_path / "input", seeds=[0]), tmp_path / "out"
    first, _ = (run.run_id for run in planned(study, out).runs)
    run(study, out, first)
    changed = planned(study, out, ["seeds=[0, 1]"]).runs[1].run_id
    with StudyFolder.open(out).lock(shared=True):
        before = (out / "plan.json").read_bytes()
        with pytest.raises(Busy, match="other rankscope processes are working on it"):
            run(study, out, changed, overrides=["seeds=[0, 1]"])
        assert (out / "plan.json").read_bytes() == before
        run(study, out, first)  # the same study may
        with pytest.raises(Busy):
            run(study, out)
    assert run(study, out, changed, overrides=["seeds=[0, 1]"]) == Outcome()


def test_an_unknown_run_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    study, out = tiny_study(tmp_path / "input", seeds=[0]), tmp_path / "out"
    with pytest.raises(InputProblems, match=r"--only: lora-r9: found no such run"):
        run(study, out, "lora-r9")
    assert not out.exists()


def test_waiting_for_a_lock_ends_when_it_is_free_or_a_stop_is_asked_for(tmp_path: Path) -> None:
    store = StudyFolder.open(tmp_path)
    asked = iter([False, True])
    with store.lock("base"), store.wait_lock("base", lambda: next(asked)) as mine:
        assert not mine
    with store.wait_lock("base") as mine:
        assert mine
        with pytest.raises(Busy, match=f"pid {os.getpid()}"), store.lock("base"):
            pass
    with store.lock("base"):
        pass


# ---- several processes ----------------------------------------------------------------------------------------------

BUDGET = {"epochs": 8, "batch_size": 8, "max_sequence_tokens": 128}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The study, and the folder of a plain run of it."""
    folder = tmp_path_factory.mktemp("array")
    study = tiny_study(folder / "input", arms=ARMS, budget=BUDGET, checkpoint={"minutes": 0.001})
    process = start(study, folder / "out")
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    return study, folder / "out"


def ids_of(study: Path, out: Path) -> list[str]:
    line = [sys.executable, "-m", "rankscope", "plan", str(study), "--out", str(out), "--json"]
    done = subprocess.run(line, capture_output=True, text=True, check=True)
    return [run["run_id"] for run in json.loads(done.stdout)["runs"]]


def report(out: Path) -> None:
    line = [sys.executable, "-m", "rankscope", "report", str(out)]
    done = subprocess.run(line, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_four_processes_give_the_tables_of_one(alone: tuple[Path, Path], tmp_path: Path) -> None:
    """All begin at once: they race for the plan, the base, and a search that two of them need."""
    study, expected = alone
    out = tmp_path / "out"
    ids = ids_of(study, out)
    assert len(ids) == 10
    shares = [ids[i::4] for i in range(4)]
    searched = [i for i in ids if i.startswith("lora-r3")]
    assert sum(any(i in share for i in searched) for share in shares) == 2
    processes = [command(study, out, *(word for i in share for word in ("--only", i))) for share in shares]
    for process in processes:
        _, errors = process.communicate(timeout=600)
        assert process.returncode == 0, errors
    report(out)
    assert_same(out, expected)
    assert run(study, out) == Outcome()
    assert_same(out, expected)


@pytest.mark.slow
def test_a_schedulers_signals_stop_one_of_them_cleanly(alone: tuple[Path, Path], tmp_path: Path) -> None:
    """SIGTERM one, SIGUSR1 another."""
    study, expected = alone
    out = tmp_path / "out"
    ids = ids_of(study, out)
    for run_id, number in zip(ids, (signal.SIGTERM, signal.SIGUSR1), strict=False):
        stopped_cleanly(study, out, run_id, number)
    assert run(study, out, *ids) == Outcome()
    report(out)
    assert_same(out, expected)


def stopped_cleanly(study: Path, out: Path, run_id: str, number: signal.Signals) -> None:
    """A process with this run alone gets a signal while it trains."""
    first = command(study, out, "--only", run_id)
    status = out / "runs" / run_id / "status.json"
    deadline = time.monotonic() + 120
    while first.poll() is None and time.monotonic() < deadline:
        if status.is_file() and json.loads(status.read_text())["steps_done"] > 0:
            break
        time.sleep(0.02)
    first.send_signal(number)
    _, errors = first.communicate(timeout=120)
    if first.returncode == 1:  # it may have been done already
        assert f"To go on: rankscope run {out} --only {run_id}" in errors
        assert json.loads(status.read_text())["state"] == "planned"
        assert (out / "runs" / run_id / "checkpoint.safetensors").is_file()
    else:
        assert first.returncode == 0, errors


@pytest.mark.slow
def test_two_processes_with_the_same_run_do_it_once(alone: tuple[Path, Path], tmp_path: Path) -> None:
    """As when a job is requeued while its predecessor still writes a checkpoint."""
    study, _ = alone
    out = tmp_path / "out"
    wanted = ids_of(study, out)[2]
    pair = [command(study, out, "--only", wanted) for _ in range(2)]
    said = [process.communicate(timeout=600)[1] for process in pair]
    assert [process.returncode for process in pair] == [0, 0], said
    status = StudyFolder.open(out).read_status(wanted)
    assert status is not None
    assert status.state == "done"
    assert not list(out.rglob("error.txt"))


@pytest.mark.slow
@pytest.mark.timeout(1800)  # one process after another imports torch: on busy cores 600 s were not enough
def test_the_commands_of_the_guide(alone: tuple[Path, Path], tmp_path: Path) -> None:
    """docs/guide-cluster.md, block by block, with the scheduler's part played by this test.

    The first and the last of the array's tasks are the commands themselves; those between run in this process: each
    command imports torch twice (itself, and the fork server of its workers).
    """
    study, expected = alone
    (tmp_path / "bin").mkdir()
    for name, words in (("rankscope", f"{sys.executable} -m rankscope"), ("python", sys.executable)):
        (tmp_path / "bin" / name).write_text(f'#!/bin/sh\nexec {words} "$@"\n')
        (tmp_path / "bin" / name).chmod(0o755)
    (tmp_path / "study.yaml").write_text(absolute_paths(study))
    text = (Path(__file__).resolve().parents[1] / "docs" / "guide-cluster.md").read_text(encoding="utf-8")
    listing, array, ending = re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL)
    environment = os.environ | {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}

    def bash(block: str, **more: str) -> None:
        options: dict[str, Any] = {"cwd": tmp_path, "capture_output": True, "text": True}
        done = subprocess.run(["bash", "-e", "-c", block], env=environment | more, **options)
        assert done.returncode == 0, done.stderr

    bash(listing)
    ids = (tmp_path / "runs.txt").read_text().split()
    assert len(ids) == 10
    bash(array, SLURM_ARRAY_TASK_ID="0")
    run(tmp_path / "study.yaml", tmp_path / "results", *ids[1:-1])
    bash(array, SLURM_ARRAY_TASK_ID="9")
    bash(ending)
    assert_same(tmp_path / "results", expected)


def absolute_paths(study: Path) -> str:
    return dump_study(absolute(read_study(study), study.parent))
