"""A local study folder: files are whole, locks go with their process, and only our own drafts are ever cleaned up."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import portalocker
import pytest

from rankscope.edges.storages import Busy, local_disk, open_storage
from rankscope.edges.storages.local_disk import LocalDisk
from rankscope.study.problems import InputProblems


def test_content_comes_back_and_is_listed(tmp_path: Path) -> None:
    disk = LocalDisk(tmp_path / "new")
    assert disk.is_empty()
    assert disk.read("runs/a/status.json") is None
    disk.write("runs/a/status.json", b"{}")
    assert disk.read("runs/a/status.json") == b"{}"
    assert disk.list("runs") == ["a"]
    assert disk.list("nothing") == []
    assert disk.size_bytes("runs/a/status.json") == 2
    assert not disk.is_empty()
    disk.remove("runs/a")
    assert not disk.exists("runs/a")


def test_only_the_first_creates(tmp_path: Path) -> None:
    disk = LocalDisk(tmp_path)
    assert disk.create("marker", b"one")
    assert not disk.create("marker", b"two")
    assert disk.read("marker") == b"one"


def fail_halfway(disk: LocalDisk) -> None:
    with disk.local_draft("a/adapter") as draft:
        draft.mkdir()
        raise RuntimeError("no")


def test_a_draft_takes_its_place_only_at_the_end(tmp_path: Path) -> None:
    disk = LocalDisk(tmp_path)
    with disk.local_draft("a/adapter") as draft:
        draft.mkdir()
        (draft / "x").write_text("1")
        assert not disk.exists("a/adapter")
    assert (tmp_path / "a" / "adapter" / "x").read_text() == "1"
    with pytest.raises(RuntimeError, match="no"):
        fail_halfway(disk)
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["adapter"]
    assert (tmp_path / "a" / "adapter" / "x").read_text() == "1"


def test_only_drafts_of_a_killed_process_are_removed(tmp_path: Path) -> None:
    kept = [".git/config", ".env", ".ssh/id", "runs/.hidden", "runs/kept.json", ".locks/study.lock"]
    for name in [*kept, "runs/.adapter.0a.rankscope-draft/x", "runs/.status.json.1b.rankscope-draft"]:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    assert LocalDisk(tmp_path).remove_drafts() == 2
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()) == sorted(kept)


def test_what_a_library_writes_beside_its_file_goes_with_the_draft(tmp_path: Path) -> None:
    disk = LocalDisk(tmp_path)
    with disk.local_draft("packs/a.safetensors") as draft:  # not ended by anything: a process that was killed
        draft.write_bytes(b"half")
        draft.with_name(".tmpAbCdEf").write_bytes(b"as safetensors does before it renames")
        at_the_kill = tmp_path / "killed"
        shutil.copytree(tmp_path / "packs", at_the_kill)
    assert [path.name for path in (tmp_path / "packs").iterdir()] == ["a.safetensors"]
    assert list(at_the_kill.rglob(".tmp*"))
    assert LocalDisk(at_the_kill).list("") == []
    assert LocalDisk(at_the_kill).remove_drafts() == 1
    assert not list(at_the_kill.iterdir())


def test_files_have_the_mode_that_the_user_asks_for(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        LocalDisk(tmp_path / "private").write("a", b"x")
    finally:
        os.umask(before)
    assert (tmp_path / "private" / "a").stat().st_mode & 0o777 == 0o600


def test_a_second_process_is_refused_and_a_dead_one_holds_nothing(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from rankscope.edges.storages.local_disk import LocalDisk\n"
        f"with LocalDisk(Path({str(tmp_path)!r})).lock('study'):\n    print('held', flush=True); sys.stdin.read()"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "held\n"
    disk = LocalDisk(tmp_path)
    with pytest.raises(Busy, match=f"pid {child.pid}"), disk.lock("study"):
        pass
    with pytest.raises(Busy), disk.lock("study", shared=True):
        pass
    child.kill()
    child.wait()
    with disk.lock("study"):
        pass


def test_who_only_looks_never_makes_a_beginner_busy_and_leaves_no_trace(tmp_path: Path) -> None:
    disk = LocalDisk(tmp_path)
    assert not disk.is_locked("study")
    assert not (tmp_path / ".locks").exists(), "nobody ever locked it, and looking makes no file"
    with disk.lock("study"):
        pass
    over = threading.Event()

    def look() -> None:
        while not over.is_set():
            disk.is_locked("study")

    looking = threading.Thread(target=look)
    looking.start()
    try:
        for _ in range(200):
            with disk.lock("study"):
                assert (tmp_path / ".locks" / "study.lock").read_text() == str(os.getpid())
            with disk.lock("study", shared=True):
                pass
    finally:
        over.set()
        looking.join()


def test_a_beginner_waits_for_one_that_looks_slowly_and_not_for_one_that_works(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(local_disk, "_PATIENCE_SECONDS", 60.0)
    disk = LocalDisk(tmp_path)
    with disk.lock("study"):
        pass
    slow = (tmp_path / ".locks" / "study.lock").open()
    portalocker.lock(slow, portalocker.LOCK_EX)
    threading.Timer(0.2, slow.close).start()
    with disk.lock("study"):
        start = time.monotonic()
        with pytest.raises(Busy, match=f"pid {os.getpid()}"), disk.lock("study"):
            pass
        assert disk.is_locked("study")
        assert time.monotonic() - start < 30, "that process lives, and is not waited for"


def test_array_jobs_share_a_study(tmp_path: Path) -> None:
    disk = LocalDisk(tmp_path)
    shared = (disk.lock("study", shared=True), disk.lock("study", shared=True))
    with shared[0], shared[1], disk.lock("run-1"), pytest.raises(Busy), disk.lock("study"):
        pass


def test_a_scheme_that_none_answers_to_is_refused_with_those_that_are_known(tmp_path: Path) -> None:
    with pytest.raises(InputProblems, match=r"found the scheme nowhere://, expected a folder"):
        open_storage("nowhere://bucket/study")
    assert open_storage(f"file://{tmp_path}").url == str(tmp_path)
