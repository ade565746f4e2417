"""Who begins next: longest first, and a gang that waits keeps its turn."""

from __future__ import annotations

from rankscope.plan.placement import Capacity, Claim, Running, next_to_begin

FOUR = Capacity(slots=4, host_bytes=100)


def working(*ends: float, slots: int = 1, host_bytes: int = 0) -> list[Running]:
    return [Running(Claim(slots, host_bytes, seconds=50.0), ends_at=end) for end in ends]


def test_the_first_begins_where_there_is_room() -> None:
    assert next_to_begin([Claim(seconds=9), Claim(seconds=5)], working(10, 20, 30), FOUR, 0) == 0
    assert next_to_begin([Claim(slots=2, seconds=9)], working(10, 20), FOUR, 0) == 0
    assert next_to_begin([], working(10), FOUR, 0) is None
    assert next_to_begin([Claim()], working(10, 20, 30, 40), FOUR, 0) is None


def test_a_gang_that_waits_keeps_its_turn() -> None:
    """Two of four places are free; the gang of three can begin at 10. Only who has ended by then goes ahead."""
    gang = Claim(slots=3, seconds=100)
    three = working(10, slots=3)
    assert next_to_begin([Claim(slots=2, seconds=100), Claim(seconds=90)], three, FOUR, 0) == 1, (
        "two are left beside it"
    )
    busy = [*working(10, slots=2), *working(20)]
    assert next_to_begin([gang, Claim(seconds=90), Claim(seconds=11)], busy, FOUR, 0) is None
    assert next_to_begin([gang, Claim(seconds=90), Claim(seconds=10)], busy, FOUR, 0) == 2
    assert next_to_begin([gang, Claim(seconds=10)], busy, FOUR, 1) is None


def test_who_takes_an_unknown_time_goes_ahead_of_nobody() -> None:
    busy = [*working(10, slots=2), *working(20)]
    assert next_to_begin([Claim(slots=3, seconds=100), Claim(seconds=0)], busy, FOUR, 0) is None


def test_a_job_that_should_have_ended_may_end_at_once() -> None:
    """Nobody is let ahead on its account: it may give its places back any moment."""
    overdue = [*working(-5, slots=2), *working(500)]
    assert next_to_begin([Claim(slots=3, seconds=100), Claim(seconds=1)], overdue, FOUR, 0) is None
    unknown = [Running(Claim(slots=2), ends_at=0.0), *working(500)]
    assert next_to_begin([Claim(slots=3, seconds=100), Claim(seconds=1)], unknown, FOUR, 300) is None


def test_the_hosts_memory_is_that_of_all_jobs_at_work() -> None:
    busy = working(10, host_bytes=60)
    large, small = Claim(host_bytes=50, seconds=9), Claim(host_bytes=40, seconds=9)
    assert next_to_begin([large, small], busy, FOUR, 0) == 1
    assert next_to_begin([large, Claim(host_bytes=40, seconds=11)], busy, FOUR, 0) == 1, "both have room beside another"
    assert next_to_begin([Claim(host_bytes=70, seconds=9), Claim(host_bytes=40, seconds=11)], busy, FOUR, 0) is None
    assert next_to_begin([large], [], FOUR, 0) == 0


def test_what_is_larger_than_the_whole_goes_alone() -> None:
    giant = Claim(slots=8, host_bytes=1_000, seconds=9)
    assert next_to_begin([giant], [], FOUR, 0) == 0
    assert next_to_begin([giant, Claim(seconds=20)], working(10), FOUR, 0) is None
    assert next_to_begin([giant, Claim(seconds=5)], working(10), FOUR, 0) == 1
    assert next_to_begin([Claim(seconds=1)], [Running(giant, 9)], FOUR, 0) is None
