"""Locks on a store: one holder, shared ones beside one another, the dead replaced, and zombies that write no more."""

from __future__ import annotations

import itertools
import random
from contextlib import suppress
from pathlib import Path
from unittest.mock import patch

import pytest
from memory_objects import MemoryBucket

from rankscope.edges.storages import Busy, object_storage
from rankscope.edges.storages.objects import leases

MINUTE = leases.LIFE_SECONDS + 5


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every attempt asks the store."""
    monkeypatch.setattr(object_storage, "_LOOK_SECONDS", 0.0)


def test_who_waits_asks_the_store_every_few_seconds_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_storage, "_LOOK_SECONDS", 60.0)
    bucket = MemoryBucket()
    asked: list[str] = []
    other = bucket.machine(tmp_path / "b", on_put=asked.append)
    with bucket.machine(tmp_path / "a").lock("run-1"):
        for _ in range(20):
            with pytest.raises(Busy), other.lock("run-1"):
                pass
    assert sum("clock" in name for name in asked) == 1


def test_one_machine_at_a_time_and_the_line_says_who(tmp_path: Path) -> None:
    bucket = MemoryBucket()
    one, other = bucket.machine(tmp_path / "a"), bucket.machine(tmp_path / "b")
    with one.lock("study"):
        bucket.now += 7
        with pytest.raises(Busy, match=r"s3://bucket/study: another .*\(pid \d+ on .*\) is working .* 7 s ago"):
            other.lock("study").__enter__()
        with pytest.raises(Busy), other.lock("study", shared=True):
            pass
        assert other.is_locked("study")
    assert not bucket.machine(tmp_path / "c").is_locked("study")
    with other.lock("study"):
        pass


def test_shared_holders_stand_beside_each_other_and_keep_out_the_one(tmp_path: Path) -> None:
    bucket = MemoryBucket()
    one, other, third = (bucket.machine(tmp_path / name) for name in "abc")
    with one.lock("study", shared=True), other.lock("study", shared=True), pytest.raises(Busy), third.lock("study"):
        pass
    with third.lock("study"):
        pass
    assert [name for name in bucket.objects if "shared" in name] == []


def test_a_dead_machine_is_replaced_after_a_minute_and_on_the_same_node_at_once(tmp_path: Path) -> None:
    bucket = MemoryBucket()
    with patch.object(leases.Leases, "_give_back"), bucket.machine(tmp_path / "a").lock("study"):
        pass  # killed: nothing was said to the store
    with pytest.raises(Busy), bucket.machine(tmp_path / "b").lock("study"):
        pass
    with bucket.machine(tmp_path / "a").lock("study"):
        pass
    with patch.object(leases.Leases, "_give_back"), bucket.machine(tmp_path / "a").lock("study"):
        pass
    bucket.now += MINUTE
    with bucket.machine(tmp_path / "b").lock("study"):
        pass


def test_a_process_that_slept_is_a_zombie_and_writes_no_more(tmp_path: Path) -> None:
    bucket = MemoryBucket()
    one, other = bucket.machine(tmp_path / "a"), bucket.machine(tmp_path / "b")
    with one.lock("study"):
        one.write("status.json", b"mine")
        bucket.now += MINUTE  # it gave no sign of life: the machine slept
        with other.lock("study"):
            other.write("status.json", b"theirs")
            asleep = leases.time.time() + MINUTE
            with patch.object(leases.time, "time", return_value=asleep), pytest.raises(Busy, match="took over"):
                one.write("status.json", b"mine again")
            other.write("other.json", b"")
        before = dict(bucket.objects)
    assert bucket.objects == before, "a zombie gave back what it no longer had"
    assert bucket.objects["status.json"][0] == b"theirs"


def test_a_shared_holder_that_slept_writes_no_more(tmp_path: Path) -> None:
    bucket = MemoryBucket()
    one, other = bucket.machine(tmp_path / "a"), bucket.machine(tmp_path / "b")
    with one.lock("study", shared=True):
        bucket.now += MINUTE
        with other.lock("study"):
            asleep = leases.time.time() + MINUTE
            with patch.object(leases.time, "time", return_value=asleep), pytest.raises(Busy, match="took over"):
                one.write("status.json", b"mine")


def test_a_sign_of_life_keeps_the_lease(tmp_path: Path) -> None:
    bucket = MemoryBucket()
    one, other = bucket.machine(tmp_path / "a"), bucket.machine(tmp_path / "b")
    with one.lock("study"):
        bucket.now += MINUTE
        with patch.object(leases.time, "time", return_value=leases.time.time() + MINUTE):
            one.write("status.json", b"mine")  # looks, and says that it lives
        with pytest.raises(Busy), other.lock("study"):
            pass


@pytest.mark.parametrize("seed", range(30))
def test_of_two_that_race_request_by_request_one_wins_at_most(tmp_path: Path, seed: int) -> None:
    """Every request of one machine may be preceded by any number of the other's: both never hold the lock."""
    bucket, dice = MemoryBucket(), random.Random(seed)
    holders: list[str] = []
    rival = bucket.machine(tmp_path / "b")
    inside = itertools.count()

    def intrude(_: str) -> None:
        if next(inside) == moment:
            with suppress(Busy):
                rival_lock.__enter__()
                holders.append("b")

    moment, shared = dice.randrange(4), dice.choice([(False, False), (True, False), (False, True)])
    rival_lock = rival.lock("study", shared=shared[1])
    one = bucket.machine(tmp_path / "a", on_put=intrude)
    with suppress(Busy), one.lock("study", shared=shared[0]):
        holders.append("a")
        assert len(holders) == 1


def test_a_store_without_conditions_is_found_out_and_its_claims_are_settled(tmp_path: Path) -> None:
    bucket = MemoryBucket(conditional=False)
    one, other = bucket.machine(tmp_path / "a"), bucket.machine(tmp_path / "b")
    with patch.object(leases, "_SETTLE_SECONDS", 0.0):
        with one.lock("study"), pytest.raises(Busy), other.lock("study"):
            pass
        with other.lock("study"):
            pass


@pytest.mark.parametrize("turn", range(8))
def test_two_claims_of_one_number_on_such_a_store_leave_one_holder(tmp_path: Path, turn: int) -> None:
    bucket = MemoryBucket(conditional=False)
    mine, theirs = bucket.machine(tmp_path / "a").lock("study"), bucket.machine(tmp_path / "b").lock("study")
    tried, holders = [], []

    def meanwhile(_: float) -> None:
        """While the first one settles, the other claims the same number and settles too."""
        if not tried:
            tried.append(turn)
            with suppress(Busy):
                theirs.__enter__()
                holders.append("b")

    with patch.object(leases.time, "sleep", side_effect=meanwhile), suppress(Busy):
        mine.__enter__()
        holders.append("a")
    assert tried
    assert len(holders) == 1
