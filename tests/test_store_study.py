"""A study on S3 (moto's server): killed, gone on with, read from a laptop; its tables are those of a local folder."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from memory_objects import Killed, MemoryBucket, MemoryObjects
from moto_server import KEY, SECRET, Moto, moto_server
from test_array_jobs import machine_of
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


def done(ended: tuple[int, str, str], code: int = 0) -> str:
    assert ended[0] == code, ended[1] + ended[2]
    return ended[1]


def assert_same_tables(found: Path, expected: Path) -> None:
    ours, theirs = tables(found), tables(expected)
    assert ours.keys() == theirs.keys()
    for name in ours:
        pd.testing.assert_frame_equal(ours[name], theirs[name], check_exact=True, obj=name)


def test_killed_resumed_and_read_from_a_laptop(moto: Moto, tmp_path: Path) -> None:
    """One study from its first command to an exported adapter; the model lies in the store too."""
    bucket = moto.bucket("lab")
    bucket.put(str(save_tiny_model(tmp_path / "model")), "lab/models/tiny", recursive=True)
    study, url = tiny_study(tmp_path / "input", model="s3://lab/models/tiny", **SMALL), "s3://lab/study"
    worker, laptop = tmp_path / "worker", tmp_path / "laptop"

    running = moto.command(worker, "run", study, "--out", url)
    while running.poll() is None and not bucket.glob("lab/study/runs/*/status.json"):
        time.sleep(0.2)
    busy = moto.run(laptop, "run", study, "--out", url)
    if running.poll() is None:
        assert busy[0] == 2
        assert len(busy[2].strip().splitlines()) == 1, busy[2]
        assert "another rankscope process (pid" in busy[2]
        with suppress(ProcessLookupError):
            os.killpg(running.pid, signal.SIGKILL)
    killed = running.communicate()

    (tmp_path / "input" / "train.jsonl").rename(tmp_path / "gone.jsonl")  # its tokens are in the store
    resumed = moto.run(worker, "run", url)
    done(resumed)
    (tmp_path / "gone.jsonl").rename(tmp_path / "input" / "train.jsonl")
    assert "3 done" in done(moto.run(laptop, "status", url))
    reported = moto.run(laptop, "report", url)
    assert "gain" in done(reported)
    done(moto.run(laptop, "export", url, "--arm", "lora-r2", "--out", "s3://lab/exported"))
    assert "lab/exported/adapter_model.safetensors" in bucket.find("lab/exported")
    adapter = next(path for path in bucket.find("lab/study") if path.endswith("lora-r4-s0/adapter_config.json") or (
        "/lora-r4" in path and path.endswith("adapter_config.json")))  # fmt: skip
    audited = moto.run(laptop, "audit", f"s3://{adapter.rpartition('/')[0]}", "--json")
    assert '"modules"' in done(audited)

    done(moto.run(worker, "run", study, "--out", tmp_path / "local"))
    bucket.get("lab/study", str(tmp_path / "fetched"), recursive=True)
    assert_same_tables(tmp_path / "fetched", tmp_path / "local")
    assert not [name for name in bucket.find("lab/study") if "checkpoint" in name or "/packs/" in name]

    for folder in (tmp_path / "fetched", tmp_path / "local", worker, laptop):
        for path in (one for one in folder.rglob("*") if one.is_file()):
            assert KEY.encode() not in path.read_bytes(), path
            assert SECRET.encode() not in path.read_bytes(), path
    said = "".join((*killed, *busy[1:], *resumed[1:], *reported[1:]))
    assert KEY not in said
    assert SECRET not in said


def test_array_jobs_on_two_machines_share_a_study(moto: Moto, tmp_path: Path) -> None:
    moto.bucket("array")
    study, url = tiny_study(tmp_path / "input", **SMALL), "s3://array/study"
    planned = moto.run(tmp_path / "a", "plan", study, "--json")
    ids = [run["run_id"] for run in json.loads(done(planned))["runs"]]
    begun = [moto.command(tmp_path / f"machine{i}", "run", study, "--out", url, "--only", ids[i]) for i in range(2)]
    for process in begun:
        output, errors = process.communicate(timeout=500)
        assert process.returncode == 0, output + errors
    done(moto.run(tmp_path / "a", "run", study, "--out", url))
    done(moto.run(tmp_path / "a", "run", study, "--out", tmp_path / "local"))
    moto.bucket("other").get("array/study", str(tmp_path / "fetched"), recursive=True)
    assert_same_tables(tmp_path / "fetched", tmp_path / "local")


def test_a_server_that_goes_away_ends_the_run_with_a_line_and_loses_nothing(tmp_path: Path) -> None:
    with moto_server() as server:
        bucket = server.bucket("lab")
        study, url = tiny_study(tmp_path / "input", **SMALL), "s3://lab/study"
        running = server.command(tmp_path / "a", "run", study, "--out", url, RANKSCOPE_STORE_TIMEOUT_SECONDS="1")
        while running.poll() is None and not bucket.glob("lab/study/runs/*/status.json"):
            time.sleep(0.2)
        server.process.kill()
        _, errors = running.communicate(timeout=500)
    assert running.returncode in (1, 2), errors
    assert "Traceback" not in errors
    assert any("s3://lab/study: lab: found no answer" in line for line in errors.splitlines()), errors


# ---- the same study, killed between any two requests ----------------------------------------------------------------


class Machines:
    """Runs the study in this process, on a machine whose store is in memory and which dies at a request."""

    def __init__(self, study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.bucket, self._study, self._patch = MemoryBucket(), study, monkeypatch

    def run(self, cache: Path, kill_at: int | None = None) -> MemoryObjects:
        objects = MemoryObjects(self.bucket, kill_at, None)
        self._patch.setenv("RANKSCOPE_CACHE", str(cache))
        self._patch.setattr(object_storage, "_OPENED", {})
        self._patch.setattr(object_storage, "FsspecObjects", lambda url: objects)
        folder = StudyFolder.open("s3://bucket/study")
        ended = run_study(
            StudyPlanner(read_study(self._study), self._study.parent), folder,
            machine=machine_of(cache.parent), make_executor=lambda plan: InProcess(1),
        )  # fmt: skip
        assert ended == Outcome()
        return objects

    def tables(self) -> dict[str, Any]:
        return {n: c for n, (c, _) in self.bucket.objects.items() if n.startswith("runs/") and n.endswith(".parquet")}


def test_killed_between_two_requests_a_real_study_ends_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = tiny_study(tmp_path / "input", **SMALL)
    whole = Machines(study, monkeypatch)
    count = whole.run(tmp_path / "whole").changes
    expected = whole.tables()
    assert expected
    for turn, share in enumerate((0.4, 0.6, 0.85)):
        machines = Machines(study, monkeypatch)
        with pytest.raises(Killed):
            machines.run(tmp_path / f"{turn}a", round(share * count))
        machines.bucket.now += LIFE_SECONDS + 1
        machines.run(tmp_path / (f"{turn}a" if turn % 2 else f"{turn}b"))
        assert machines.tables() == expected
