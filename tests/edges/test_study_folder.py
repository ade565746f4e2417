"""A file exists only when it is whole, and a lock goes with its process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

from rankscope.edges.study_folder import Busy, FolderStore, RunCheckpoints, remove_leftovers
from rankscope.records import RunStatus


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    store.write_frame(tmp_path / "a.parquet", pd.DataFrame({"x": [1]}))
    with pytest.raises(Exception, match="Could not convert"):
        store.write_frame(tmp_path / "a.parquet", pd.DataFrame({"x": [object()]}))
    assert store.read_frame(tmp_path / "a.parquet")["x"].tolist() == [1]  # type: ignore[index]
    assert [path.name for path in tmp_path.iterdir()] == ["a.parquet"]


def test_a_folder_that_could_not_be_filled_does_not_appear(tmp_path: Path) -> None:
    def fill(folder: Path) -> None:
        (folder / "half").write_text("x")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        FolderStore(tmp_path).write_folder(tmp_path / "adapter", fill)
    assert not list(tmp_path.iterdir())


def test_frames_keep_missing_values_and_metadata(tmp_path: Path) -> None:
    store, path = FolderStore(tmp_path), tmp_path / "predictions.parquet"
    frame = pd.DataFrame({"score": pd.array([1.0, None], dtype="Float64"), "choice_logprobs": [[-1.0, -2.0], None]})
    store.write_frame(path, frame, {"suite": "abc"})
    read = store.read_frame(path)
    assert read is not None
    assert read["score"].isna().tolist() == [False, True]
    assert read["choice_logprobs"][1] is None
    assert store.frame_metadata(path) == {"suite": "abc"}
    assert store.frame_metadata(tmp_path / "none.parquet") == {}


def test_status_comes_back_as_it_was(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    status = RunStatus(run_id="lora-r4-s0-abc", state="diverged", reason="too hot", steps_done=3)
    store.write_status(status)
    assert store.read_status(status.run_id) == status
    assert store.read_status("other") is None
    store.write_status(RunStatus(run_id="base", state="done"))
    assert (tmp_path / "base" / "status.json").is_file()


def test_a_second_process_is_refused_and_a_dead_one_holds_nothing(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from rankscope.edges.study_folder import FolderStore\n"
        f"with FolderStore(Path({str(tmp_path)!r})).lock():\n    print('held', flush=True); sys.stdin.read()"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "held\n"
    store = FolderStore(tmp_path)
    with pytest.raises(Busy, match=f"pid {child.pid}"), store.lock():
        pass
    with pytest.raises(Busy), store.lock(shared=True):
        pass
    child.kill()
    child.wait()
    with store.lock():
        pass


def test_array_jobs_share_a_study(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    with store.lock(shared=True), store.lock(shared=True), store.lock("run-1"), pytest.raises(Busy), store.lock():
        pass


def test_leftovers_of_a_killed_process_are_removed(tmp_path: Path) -> None:
    (tmp_path / "runs" / ".adapter.x1").mkdir(parents=True)
    (tmp_path / "runs" / ".status.json.y2").write_text("{")
    (tmp_path / "runs" / "kept.json").write_text("{}")
    with FolderStore(tmp_path).lock():
        assert remove_leftovers(tmp_path) == 2
        assert (tmp_path / ".locks").is_dir()
    assert (tmp_path / "runs" / "kept.json").is_file()


def test_checkpoints_come_back_bit_for_bit(tmp_path: Path) -> None:
    checkpoints = RunCheckpoints(tmp_path / "run" / "checkpoint.safetensors")
    assert checkpoints.load() is None
    tensors = {"a": torch.randn(3, 4).T, "step": torch.tensor(7.0)}
    checkpoints.save(tensors, {"steps": "[]"})
    loaded = checkpoints.load()
    assert loaded is not None
    assert all(torch.equal(loaded[0][key], tensors[key]) for key in tensors)
    assert loaded[1] == {"steps": "[]"}
    checkpoints.remove()
    assert checkpoints.load() is None
