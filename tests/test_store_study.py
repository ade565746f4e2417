"""A study on S3 (moto's server): killed, gone on with, read from a laptop; its tables are those of a local folder."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pandas as pd
import pytest
from command_line import call, problems
from http_stubs import gate_before
from memory_objects import Killed, MemoryBucket, MemoryObjects
from moto_server import KEY, SECRET, Moto, moto_server
from store_machine import become_machine
from test_array_jobs import machine_of, planned
from test_resume import tables
from tiny_models import save_tiny_model
from tiny_study import tiny_study

from rankscope.edges.executors.this_machine import InProcess
from rankscope.edges.storages import object_storage
from rankscope.edges.storages.objects.leases import LIFE_SECONDS
from rankscope.edges.study_folder import StudyFolder
from rankscope.jobs.planning import StudyPlanner
from rankscope.pipeline import Outcome, run_study
from rankscope.study.read_study import read_study

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

SMALL = {
    "arms": {"full": {"learning_rate": 1e-3}, "lora": {"ranks": [2, 4], "learning_rate": 1e-2}},
    "seeds": [0],
    "checkpoint": {"minutes": 0.0005},
    "execution": {"arms_together": 2, "micro_batch_tokens": 4096},
}


@pytest.fixture(scope="module")
def moto() -> Iterator[Moto]:
    with moto_server() as server:
        yield server


def run_here(study: Path, out: Path | str) -> None:
    """The study in this process."""
    ended = run_study(
        StudyPlanner(read_study(study), study.parent), StudyFolder.open(out),
        machine=machine_of(Path.cwd()), make_executor=lambda plan: InProcess(1),
    )  # fmt: skip
    assert ended == Outcome()


def ended_well(process: subprocess.Popen[str]) -> str:
    """All that a command said."""
    output, errors = process.communicate(timeout=500)
    assert process.returncode == 0, output + errors
    return output + errors


def assert_same_tables(found: Path, expected: Path) -> None:
    ours, theirs = tables(found), tables(expected)
    assert ours.keys() == theirs.keys()
    for name in ours:
        pd.testing.assert_frame_equal(ours[name], theirs[name], check_exact=True, obj=name)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The study, and the folder of a plain run of it on a disk."""
    folder = tmp_path_factory.mktemp("plain")
    study = tiny_study(folder / "input", **SMALL)
    run_here(study, folder / "out")
    return study, folder / "out"


def test_killed_resumed_and_read_from_a_laptop(moto: Moto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One study from its first command to an exported adapter; the model lies in the store too."""
    bucket = moto.bucket("lab")
    bucket.put(str(save_tiny_model(tmp_path / "model")), "lab/models/tiny", recursive=True)
    study, url = tiny_study(tmp_path / "input", model="s3://lab/models/tiny", **SMALL), "s3://lab/study"
    worker, laptop, local = tmp_path / "worker", tmp_path / "laptop", tmp_path / "local"

    running = moto.command(worker, "run", study, "--out", url)
    while running.poll() is None and not bucket.glob("lab/study/runs/*/status.json"):
        time.sleep(0.2)
    become_machine(monkeypatch, tmp_path / "other", moto.environment)
    busy = call("run", study, "--out", url)
    if running.poll() is None:
        assert busy.exit_code == 2
        assert len(busy.stderr.strip().splitlines()) == 1, busy.stderr
        assert "another rankscope process (pid" in busy.stderr
        with suppress(ProcessLookupError):
            os.killpg(running.pid, signal.SIGKILL)
    said = [*running.communicate(), busy.output]

    (tmp_path / "input" / "train.jsonl").rename(tmp_path / "gone.jsonl")  # its tokens are in the store
    said.append(ended_well(moto.command(worker, "run", url)))
    (tmp_path / "gone.jsonl").rename(tmp_path / "input" / "train.jsonl")

    with gate_before(moto.port) as gate:  # status, verdict and export to a folder only need to read
        gate.lets = "read"
        become_machine(monkeypatch, laptop, {**moto.environment, "AWS_ENDPOINT_URL": gate.endpoint})
        assert "3 done" in call("status", url).stdout
        decided = call("verdict", url)
        assert decided.exit_code in (0, 3), decided.output
        assert "gain" in decided.stdout
        exported = call("export", url, "--arm", "lora-r2", "--out", "adapter")
        assert exported.exit_code == 0, exported.output
        refused = problems(call("report", url))
        assert len(refused) == 1
        assert "s3://lab/study: lab: found access denied" in refused[0]
    page = bucket.cat_file("lab/study/report.html")
    bucket.rm_file("lab/study/report.html")

    become_machine(monkeypatch, tmp_path / "desk", moto.environment)
    reported = call("report", url)
    assert reported.exit_code == 0, reported.output
    assert reported.stdout == decided.stdout
    assert bucket.cat_file("lab/study/report.html") == page
    assert call("export", url, "--arm", "lora-r2", "--out", "s3://lab/exported").exit_code == 0
    assert (
        bucket.cat_file("lab/exported/adapter_model.safetensors")
        == (laptop / "work" / "adapter" / "adapter_model.safetensors").read_bytes()
    )
    adapter = bucket.glob("lab/study/runs/lora-r4-*/adapter/adapter_config.json")[0].rpartition("/")[0]
    assert '"modules"' in call("audit", f"s3://{adapter}", "--json").stdout
    assert [*(tmp_path / "desk" / "work").iterdir()] == []
    assert [path.name for path in (laptop / "work").iterdir()] == ["adapter"]

    run_here(study, local)
    bucket.get("lab/study", str(tmp_path / "fetched"), recursive=True)
    assert_same_tables(tmp_path / "fetched", local)
    assert not [name for name in bucket.find("lab/study") if "checkpoint" in name or "/packs/" in name]

    said += [decided.output, exported.output, refused[0], reported.output]
    for folder in (tmp_path / "fetched", local, worker, laptop, tmp_path / "desk"):
        said += [path.read_text(encoding="latin-1") for path in folder.rglob("*") if path.is_file()]
    for text in said:
        assert KEY not in text
        assert SECRET not in text


def test_array_jobs_on_two_machines_share_a_study(
    plain: tuple[Path, Path], moto: Moto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (study, expected), bucket, url = plain, moto.bucket("array"), "s3://array/study"
    become_machine(monkeypatch, tmp_path / "third", moto.environment)
    ids = [run.run_id for run in planned(study, tmp_path / "local").runs]
    begun = [moto.command(tmp_path / f"machine{i}", "run", study, "--out", url, "--only", ids[i]) for i in range(2)]
    for process in begun:
        ended_well(process)
    run_here(study, url)
    bucket.get("array/study", str(tmp_path / "fetched"), recursive=True)
    assert_same_tables(tmp_path / "fetched", expected)


def test_a_server_that_goes_away_ends_the_run_with_a_line_and_loses_nothing(
    plain: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When it is back another machine goes on."""
    study, expected = plain
    with moto_server() as server, gate_before(server.port) as gate:
        bucket = server.bucket("lab")
        through = {"AWS_ENDPOINT_URL": gate.endpoint, "RANKSCOPE_STORE_TIMEOUT_SECONDS": "0.5"}
        running = server.command(tmp_path / "a", "run", study, "--out", "s3://lab/study", **through)
        while running.poll() is None and not bucket.glob("lab/study/runs/*/status.json"):
            time.sleep(0.2)
        gate.lets = "nobody"
        _, errors = running.communicate(timeout=500)
        assert running.returncode in (1, 2), errors
        assert "Traceback" not in errors
        assert any("s3://lab/study: lab: found no answer" in line for line in errors.splitlines()), errors
        become_machine(monkeypatch, tmp_path / "b", server.environment)
        for lease in bucket.find("lab/study/.locks"):  # a minute later
            bucket.rm_file(lease)
        run_here(study, "s3://lab/study")
        bucket.get("lab/study", str(tmp_path / "fetched"), recursive=True)
    assert_same_tables(tmp_path / "fetched", expected)


# ---- the same study, killed between any two requests ----------------------------------------------------------------

FEWER = {
    **SMALL,
    "budget": {"epochs": 1, "batch_size": 8, "max_sequence_tokens": 128},
    "checkpoint": {"minutes": 1e-6},  # after every step: every run makes the same requests
}


class Machines:
    """Runs the study in this process, on machines whose store is in memory and which die at a request."""

    def __init__(self, study: Path, patch: pytest.MonkeyPatch) -> None:
        self.bucket, self._study, self._patch = MemoryBucket(), study, patch

    def run(self, folder: Path, kill_at: tuple[str, int] | None = None) -> list[str]:
        """`kill_at`: the object that is changed for the so-manieth time when the machine dies. The changes in order."""
        changes: list[str] = []

        def changed(name: str) -> None:
            changes.append(name)
            if kill_at is not None and name == kill_at[0] and changes.count(name) == kill_at[1]:
                objects.kill_at = objects.changes - 1
                raise Killed

        objects = MemoryObjects(self.bucket, None, changed)
        become_machine(self._patch, folder)
        self._patch.setattr(object_storage, "FsspecObjects", lambda url: objects)
        run_here(self._study, "s3://bucket/study")
        return changes

    def tables(self) -> dict[str, bytes]:
        return {n: c for n, (c, _) in self.bucket.objects.items() if n.startswith("runs/") and n.endswith(".parquet")}


def test_killed_between_two_requests_a_real_study_ends_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before a write that is drawn among those of each kind of file."""
    study = tiny_study(tmp_path / "input", **FEWER)
    whole = Machines(study, monkeypatch)
    changes = [name for name in whole.run(tmp_path / "whole") if "probe" not in name and "clock" not in name]
    expected = whole.tables()
    assert expected
    dice = random.Random(0)
    for turn, kind in enumerate((".safetensors", ".rankscope-whole", ".json", ".parquet")):
        name = dice.choice([one for one in changes if one.endswith(kind)])
        kill_at = name, dice.randint(1, min(changes.count(name), 3))
        machines = Machines(study, monkeypatch)
        with pytest.raises(Killed):
            machines.run(tmp_path / f"{turn}a", kill_at)
        machines.bucket.now += LIFE_SECONDS + 1
        machines.run(tmp_path / (f"{turn}a" if turn % 2 else f"{turn}b"))
        assert machines.tables() == expected, kill_at
