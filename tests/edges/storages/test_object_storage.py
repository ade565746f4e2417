"""A study folder in a store: whole files and folders, what other machines see, and a kill between any two requests."""

from __future__ import annotations

import random
from pathlib import Path

import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from memory_objects import Killed, MemoryBucket

from rankscope.edges.storages import open_storage
from rankscope.edges.storages.object_storage import ObjectStorage
from rankscope.edges.storages.objects.leases import LIFE_SECONDS
from rankscope.edges.storages.objects.mirror import BEGUN, WHOLE
from rankscope.edges.study_folder import StudyFolder
from rankscope.records import RunStatus
from rankscope.study.problems import InputProblems
from rankscope.study.store_urls import checked_url


def adapter(storage: ObjectStorage, name: str, **files: str) -> None:
    with storage.local_draft(name) as draft:
        draft.mkdir()
        for file, text in files.items():
            (draft / file).write_text(text)


def test_what_one_machine_writes_the_other_reads(tmp_path: Path) -> None:
    bucket = MemoryBucket()
    one = bucket.machine(tmp_path / "a")
    assert one.is_empty()
    one.write("runs/x/status.json", b"{}")
    adapter(one, "runs/x/adapter", config="c", weights="w")
    assert one.create("marker", b"1")
    assert not bucket.machine(tmp_path / "b").create("marker", b"2")
    other = bucket.machine(tmp_path / "c")
    assert other.read("marker") == b"1"
    assert other.list("runs/x") == ["adapter", "status.json"]
    assert other.list("runs/x/adapter") == ["config", "weights"]
    copy = other.local_copy("runs/x/adapter")
    assert copy is not None
    assert (copy / "weights").read_text() == "w"
    assert other.size_bytes("runs/x/adapter/weights") == 1
    assert other.exists("runs")
    assert not other.exists("run")
    assert not other.is_empty()


def test_large_files_and_weights_are_fetched_only_when_they_are_read(tmp_path: Path) -> None:
    bucket = MemoryBucket()
    one = bucket.machine(tmp_path / "a")
    one.write("base/model.safetensors", b"small")
    one.write("large", bytes(5 * 2**20))
    one.write("plan.json", b"{}")
    other = bucket.machine(tmp_path / "b")
    other.refresh()
    here = sorted(path.name for path in (tmp_path / "b" / "files").rglob("*") if path.is_file())
    assert here == ["plan.json"]
    assert other.exists("large")
    path = other.local_copy("large")
    assert path is not None
    assert path.stat().st_size == 5 * 2**20
    one.write("large", b"now short")
    other.refresh()
    assert other.read("large") == b"now short"


def test_reads_ask_the_store_nothing(tmp_path: Path) -> None:
    bucket = MemoryBucket()
    bucket.machine(tmp_path / "a").write("runs/x/status.json", b"{}")
    other = bucket.machine(tmp_path / "b")
    other.refresh()
    before = other._store.requests  # type: ignore[attr-defined]
    for _ in range(100):
        other.read("runs/x/status.json"), other.read("none"), other.exists("runs"), other.list("runs")
    assert other._store.requests == before  # type: ignore[attr-defined]


def test_what_was_deleted_or_replaced_elsewhere_is_seen_when_a_lock_is_taken(tmp_path: Path) -> None:
    bucket = MemoryBucket()
    one, other = bucket.machine(tmp_path / "a"), bucket.machine(tmp_path / "b")
    for name in ("kept", "gone", "changed"):
        one.write(name, b"1")
    assert other.read("gone") == b"1"
    one.remove("gone")
    one.write("changed", b"2")
    with other.lock("run-1"):
        assert other.read("gone") is None
        assert other.read("changed") == b"2"
        assert other.read("kept") == b"1"


def test_running_statuses_are_put_rarely_and_ends_always(tmp_path: Path) -> None:
    bucket = MemoryBucket()
    one = bucket.machine(tmp_path / "a")
    for step in range(50):
        one.write("status.json", str(step).encode(), durable=False)
    assert one.read("status.json") == b"49"
    assert bucket.objects["status.json"][0] == b"0"
    one.write("other.json", b"a fact")
    assert bucket.objects["status.json"][0] == b"49", "a later fact without an earlier one"
    one.write("status.json", b"50", durable=False)
    one.write("status.json", b"done")
    assert bucket.objects["status.json"][0] == b"done"
    one.write("other.json", b"another")
    assert bucket.objects["status.json"][0] == b"done"


def test_news_that_another_thread_puts_at_the_same_moment_hurt_nobody(tmp_path: Path) -> None:
    """A checkpoint may be written in the background while a step is told of."""

    class Taken(set[str]):
        def __len__(self) -> int:
            count = super().__len__()
            self.clear()  # by the other thread, between the look and the taking
            return count

    bucket = MemoryBucket()
    one = bucket.machine(tmp_path / "a")
    one.write("status.json", b"1")
    one.write("status.json", b"2", durable=False)
    one._news = Taken(one._news)
    one.write("checkpoint", b"1")
    assert bucket.objects["checkpoint"][0] == b"1"


def test_a_folder_of_two_writers_that_mixed_is_nobodys(tmp_path: Path) -> None:
    bucket = MemoryBucket()
    adapter(bucket.machine(tmp_path / "a"), "adapter", config="1", weights="1")
    bucket.objects["adapter/weights"] = b"a zombie's", bucket.now
    other = bucket.machine(tmp_path / "b")
    assert not other.exists("adapter")
    with other.lock("study"):
        assert other.remove_drafts() == 4
    assert not [name for name in bucket.objects if name.startswith("adapter")]


def test_a_folder_is_moved_whole_and_replaced_whole(tmp_path: Path) -> None:
    bucket = MemoryBucket()
    one = bucket.machine(tmp_path / "a")
    adapter(one, "adapter", config="1", weights="1", more="1")
    one.rename("adapter", "adapter.stale")
    adapter(one, "adapter", config="2", weights="2")
    adapter(one, "adapter", config="3", other="3")
    for machine in (one, bucket.machine(tmp_path / "b")):
        assert machine.list("adapter") == ["config", "other"]
        assert machine.list("adapter.stale") == ["config", "more", "weights"]
        copy = machine.local_copy("adapter.stale")
        assert copy is not None
        assert sorted(path.name for path in copy.iterdir()) == ["config", "more", "weights"]


def test_what_a_killed_process_left_in_the_copy_is_not_taken_for_the_store_s(tmp_path: Path) -> None:
    one = MemoryBucket().machine(tmp_path / "a")
    one.write("plan.json", b"{}")
    orphan = tmp_path / "a" / "files" / "adapter" / "weights"
    orphan.parent.mkdir(parents=True)
    orphan.write_text("never put")
    assert one.local_copy("adapter") is None
    assert one.read("adapter/weights") is None
    assert one.list("") == ["plan.json"]


def test_a_damaged_index_is_begun_anew(tmp_path: Path) -> None:
    bucket = MemoryBucket()
    bucket.machine(tmp_path / "a").write("plan.json", b"{}")
    (tmp_path / "a" / "index.sqlite").write_bytes(b"no database" * 1000)
    assert bucket.machine(tmp_path / "a").read("plan.json") == b"{}"


@pytest.mark.parametrize("url", ["s3://key:secret@bucket/study", "s3://bucket/study?token=secret", "s3://", "gs://#x"])
def test_a_url_with_a_secret_or_without_a_bucket_is_refused_in_words_without_it(url: str) -> None:
    with pytest.raises(InputProblems) as refused:
        checked_url(url)
    assert "secret" not in str(refused.value)
    assert len(refused.value.problems) == 1


def test_the_schemes_are_known_and_import_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RANKSCOPE_CACHE", str(tmp_path))
    assert open_storage("s3://bucket/study/").url == "s3://bucket/study"
    with pytest.raises(InputProblems, match=r"expected a folder, abfs://\.\.\., az://"):
        open_storage("ftp://bucket/study")


# ---- a kill between any two requests --------------------------------------------------------------------------------


def work(folder: StudyFolder) -> None:
    """What a study does with its folder, with training that only counts: it goes on from whatever is there."""
    folder.claim("study", "text")
    with folder.lock():
        folder.remove_drafts()
        for run_id in ("one", "two"):
            with folder.wait_lock(run_id):
                train(folder, run_id)
        frames = [folder.read_predictions(run_id) for run_id in ("one", "two")]
        folder.write_table("scores", pd.concat(frames))  # type: ignore[arg-type]
        folder.write_report("page")


def train(folder: StudyFolder, run_id: str) -> None:
    status = folder.read_status(run_id)
    if status is not None and status.state == "done":
        return
    checkpoints = folder.checkpoints(run_id)
    if not folder.is_trained(run_id):
        folder.write_status(RunStatus(run_id=run_id, state="running"))
        found = checkpoints.load()
        total = int(found[0]["total"]) if found is not None else 0
        for step in range(total, 3):
            checkpoints.save({"total": torch.tensor(step + 1)}, {"run": run_id})
            total = step + 1
        folder.save_weights(run_id, lambda draft: write_weights(draft, run_id, total), whole=False)
    checkpoints.remove()
    weights = folder.weights(run_id, whole=False)
    assert weights is not None
    text = (weights / "weights.safetensors").read_text()
    assert text == f"{run_id} 3"
    folder.write_predictions(run_id, pd.DataFrame({"run": [run_id], "score": [text]}), {})
    folder.write_status(RunStatus(run_id=run_id, state="done"))


def write_weights(draft: Path, run_id: str, total: int) -> None:
    (draft / "weights.safetensors").write_text(f"{run_id} {total}")
    (draft / "config.json").write_text("{}")


def result(bucket: MemoryBucket) -> dict[str, bytes]:
    return {name: content for name, (content, _) in bucket.objects.items() if not name.startswith(".locks/")}


@pytest.fixture(scope="module")
def never_killed(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, bytes], int]:
    bucket, changes = MemoryBucket(), []
    storage = bucket.machine(tmp_path_factory.mktemp("whole"), on_put=changes.append)
    work(StudyFolder(storage))
    return result(bucket), len(changes)


def killed(bucket: MemoryBucket, machine: Path, at: int) -> None:
    with pytest.raises(Killed):
        work(bucket.study(machine, kill_at=at))


@pytest.mark.slow
@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_killed_between_any_two_requests_the_study_ends_the_same(
    never_killed: tuple[dict[str, bytes], int], tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Up to three kills, each at any request, and each time gone on with on the same machine or on another."""
    expected, count = never_killed
    bucket, folder = MemoryBucket(), tmp_path_factory.mktemp("killed")
    for _ in range(data.draw(st.integers(1, 3), "kills")):
        machine = folder / data.draw(st.sampled_from("ab"), "machine")
        bucket.now += LIFE_SECONDS + 1  # else the other machine waits for the dead one
        try:
            work(bucket.study(machine, kill_at=data.draw(st.integers(0, count), "request")))
        except Killed:
            continue
        break
    bucket.now += LIFE_SECONDS + 1
    last = folder / data.draw(st.sampled_from("abc"), "last machine")
    work(bucket.study(last))
    assert result(bucket) == expected
    seen = bucket.study(folder / "reader")
    table = seen.read_table("scores")
    assert table is not None
    assert list(table["score"]) == ["one 3", "two 3"]


def test_a_machine_that_was_killed_goes_on_at_once(never_killed: tuple[dict[str, bytes], int], tmp_path: Path) -> None:
    expected, count = never_killed
    dice = random.Random(0)
    for at in dice.sample(range(count), 2):
        bucket = MemoryBucket()
        killed(bucket, tmp_path / str(at), at)
        work(bucket.study(tmp_path / str(at)))
        assert result(bucket) == expected


def test_marks_are_last_to_come_and_first_to_go(tmp_path: Path) -> None:
    changes: list[str] = []
    bucket = MemoryBucket()
    one = bucket.machine(tmp_path / "a", on_put=changes.append)
    adapter(one, "adapter", config="1", weights="1")
    assert changes == [f"adapter/{WHOLE}", f"adapter/{BEGUN}", "adapter/config", "adapter/weights", f"adapter/{WHOLE}"]
    changes.clear()
    one.remove("adapter")
    assert changes == [f"adapter/{WHOLE}", "adapter/config", "adapter/weights", f"adapter/{BEGUN}"]
