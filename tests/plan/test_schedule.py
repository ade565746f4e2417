"""The schedule of a plan: who runs where and when, how long it takes, and what of it is idle."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_facts import STUDY, planned_on_gpus

from rankscope.plan.placement import Claim
from rankscope.plan.run_time import plan_totals
from rankscope.plan.schedule import Task, schedule, what_is_left
from rankscope.records import Plan, Schedule
from rankscope.study.study import Study

Read = Callable[..., Study]
HOST = 100


def tasks(*claims: Claim) -> list[Task]:
    return [Task("run", (f"r{i}",), claim) for i, claim in enumerate(claims)]


def where(found: Schedule) -> dict[str, tuple[float, float, list[int]]]:
    return {job.ids[0]: (job.start_seconds, job.end_seconds, job.devices) for job in found.jobs}


def test_longest_first_on_the_first_device_that_is_free() -> None:
    found = schedule([tasks(*(Claim(seconds=s) for s in (2, 5, 4, 3)))], "cuda", [0, 3], HOST)
    assert where(found) == {"r1": (0, 5, [0]), "r2": (0, 4, [3]), "r3": (4, 7, [3]), "r0": (5, 7, [0])}
    assert (found.makespan_seconds, found.idle_share) == (7, 0)
    assert found.gpu_hours == pytest.approx(14 / 3600)


def test_a_gang_waits_for_its_devices_and_short_jobs_fill_the_gap() -> None:
    jobs = tasks(Claim(seconds=10), Claim(slots=2, seconds=8), Claim(seconds=7), Claim(seconds=3), Claim(seconds=2))
    found = schedule([jobs], "cuda", [0, 1, 2], HOST)
    assert where(found) == {
        "r0": (0, 10, [0]), "r1": (0, 8, [1, 2]), "r2": (8, 15, [1]), "r3": (8, 11, [2]), "r4": (10, 12, [0]),
    }  # fmt: skip
    two = schedule([jobs], "cuda", [0, 1], HOST)
    assert where(two)["r2"] == (0, 7, [1]), "it ends before the gang can begin"
    assert where(two)["r3"] == (7, 10, [1])
    assert where(two)["r1"] == (10, 18, [0, 1])
    assert where(two)["r4"] == (18, 20, [0])
    assert two.idle_share == pytest.approx(1 - (10 + 16 + 7 + 3 + 2) / 40)


def test_a_stage_waits_for_the_one_before() -> None:
    found = schedule([tasks(Claim(seconds=4), Claim(seconds=1)), [Task("derived", ("d",), Claim(seconds=2))]], "cpu",
                     [0, 1], HOST)  # fmt: skip
    assert where(found)["d"] == (4, 6, [0])
    assert [job.stage for job in found.jobs] == [0, 0, 1]
    assert found.gpu_hours == 0


CLAIMS = st.builds(
    Claim, slots=st.sampled_from([1, 1, 1, 2, 4]), host_bytes=st.integers(0, 60), seconds=st.integers(0, 40)
)


@given(st.lists(CLAIMS, max_size=14), st.integers(1, 5))
def test_every_job_once_and_no_two_on_one_device(claims: list[Claim], count: int) -> None:
    found = schedule([tasks(*claims)], "cuda", list(range(count)), HOST)
    assert sorted(where(found)) == sorted(f"r{i}" for i in range(len(claims)))
    for job in found.jobs:
        assert len(set(job.devices)) == min(claims[int(job.ids[0][1:])].slots, count)
        at_start = [o for o in found.jobs if o.start_seconds <= job.start_seconds < o.end_seconds or o is job]
        assert sum(one.host_bytes for one in at_start) <= HOST
    for one, other in combinations(found.jobs, 2):
        apart = one.end_seconds <= other.start_seconds or other.end_seconds <= one.start_seconds
        assert apart or set(one.devices).isdisjoint(other.devices)
    busy = sum(job.seconds * len(job.devices) for job in found.jobs)
    assert found.makespan_seconds * count >= busy
    assert 0 <= found.idle_share < 1 or busy == 0


@given(st.lists(CLAIMS, max_size=14), st.integers(1, 4), st.integers(2, 3))
def test_on_several_nodes_every_job_is_on_one_and_has_its_memory_there(
    claims: list[Claim], each: int, nodes: int
) -> None:
    found = schedule([tasks(*claims)], "cuda", list(range(each * nodes)), HOST, nodes)
    assert sorted(where(found)) == sorted(f"r{i}" for i in range(len(claims)))
    for job in found.jobs:
        assert len(set(job.devices)) == min(claims[int(job.ids[0][1:])].slots, each)
        (node,) = {device // each for device in job.devices}
        beside = [one for one in found.jobs if one.devices[0] // each == node]
        at_start = [o for o in beside if o.start_seconds <= job.start_seconds < o.end_seconds or o is job]
        assert sum(one.host_bytes for one in at_start) <= HOST
    for one, other in combinations(found.jobs, 2):
        apart = one.end_seconds <= other.start_seconds or other.end_seconds <= one.start_seconds
        assert apart or set(one.devices).isdisjoint(other.devices)
    begun = sorted(found.jobs, key=lambda job: (-job.seconds, int(job.ids[0][1:])))
    starts = [job.start_seconds for job in begun]
    assert starts == sorted(starts), "strictly in order, as jobs are handed out"


def test_gangs_fill_nodes_one_by_one_and_who_is_too_large_takes_a_whole_one() -> None:
    jobs = tasks(Claim(seconds=9), Claim(slots=2, seconds=8), Claim(slots=2, seconds=7), Claim(slots=4, seconds=6))
    found = schedule([jobs], "cuda", [0, 1, 2, 3], HOST, 2)
    assert where(found) == {
        "r0": (0, 9, [0]), "r1": (0, 8, [2, 3]), "r2": (8, 15, [2, 3]), "r3": (9, 15, [0, 1]),
    }  # fmt: skip
    assert found.idle_share == pytest.approx(1 - (9 + 16 + 14 + 12) / 60)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=20), st.integers(1, 5))
def test_jobs_of_one_device_are_within_graham_s_bound(seconds: list[int], count: int) -> None:
    """No list schedule takes longer than the mean load and (1 - 1/m) of the longest job (Graham, 1966)."""
    found = schedule([tasks(*(Claim(seconds=s) for s in seconds))], "cuda", list(range(count)), HOST)
    assert found.makespan_seconds <= sum(seconds) / count + (1 - 1 / count) * max(seconds) + 1e-9


# ---- in a plan ------------------------------------------------------------------------------------------------------


def placed(plan: Plan) -> Schedule:
    assert plan.schedule is not None
    return plan.schedule


def test_every_job_of_a_plan_has_its_place(read: Read) -> None:
    plan = planned_on_gpus(read(STUDY, "arms.lora.learning_rate=auto", "analysis.enabled=true"))
    found = placed(plan)
    kinds = [job.what for job in found.jobs]
    assert kinds.count("base") == 1
    assert kinds.count("search") == len(plan.searches) == 2
    assert kinds.count("run") == len(plan.runs) == 9
    assert kinds.count("derived") == 6
    ends = {i: job.end_seconds for job in found.jobs for i in job.ids}
    begins = {i: job.start_seconds for job in found.jobs for i in job.ids}
    for search in plan.searches:
        assert begins[search.search_id] >= ends["base"]
        assert all(begins[search.search_id] >= ends[other] for other in search.after)
    for run in plan.runs:
        own = next(job for job in found.jobs if run.run_id in job.ids)
        assert len(own.devices) == run.gang
        assert run.search_id is None or own.start_seconds >= ends[run.search_id]
    assert found.gpu_hours == pytest.approx(plan.device_hours)
    assert plan_totals(plan)["seconds"] == found.makespan_seconds
    assert found.makespan_seconds == max(ends.values())


def test_only_the_gpus_that_the_study_takes(read: Read) -> None:
    found = placed(planned_on_gpus(read(STUDY, "execution.gpus=[5, 0, 2, 7]", "budget.gradient_checkpointing=false")))
    assert found.devices == [5, 0, 2, 7]
    assert {device for job in found.jobs for device in job.devices} == {5, 0, 2, 7}
    assert max(len(job.devices) for job in found.jobs) == 4, "a gang fits four"


def test_packs_are_placed_where_the_study_gives_their_size(read: Read) -> None:
    plan = planned_on_gpus(read(STUDY, "execution.arms_together=2"))
    packs = [job for job in placed(plan).jobs if job.what == "pack"]
    seeds = {run.run_id: run.seed for run in plan.runs}
    assert [len(pack.ids) for pack in packs] == [2, 2, 2]
    assert all(len({seeds[run_id] for run_id in pack.ids}) == 1 for pack in packs)


def test_later_seeds_wait_for_the_verdict_on_the_first(read: Read) -> None:
    plan = planned_on_gpus(read(STUDY.replace("seeds: [0, 1, 2]", "seeds: {start: 3, max: 5}")))
    seeds = {run.run_id: run.seed for run in plan.runs}
    runs = [job for job in placed(plan).jobs if job.what == "run"]
    first = max(job.end_seconds for job in runs if seeds[job.ids[0]] < 3)
    assert min(job.start_seconds for job in runs if seeds[job.ids[0]] >= 3) >= first
    totals = plan_totals(plan)
    assert first <= totals["first_seconds"] < totals["seconds"]


def test_jobs_wait_where_the_host_does_not_hold_them_all(read: Read) -> None:
    """Full fine-tuning of 8 billion parameters with the host's memory takes 150 GB of it: two at once in 400 GB."""
    study = read(STUDY, "execution.offload=always")
    plan = planned_on_gpus(study, memory_bytes=400 * 10**9)
    full = [job for job in placed(plan).jobs if job.ids[0].startswith("full")]
    assert len(full) == 3
    assert all(job.host_bytes > 120e9 for job in full)
    at_once = max(sum(o.start_seconds <= job.start_seconds < o.end_seconds for o in full) for job in full)
    assert at_once < 3
    roomy = [job for job in placed(planned_on_gpus(study)).jobs if job.ids[0].startswith("full")]
    assert len({job.start_seconds for job in roomy}) == 1


def test_of_what_is_done_nothing_is_left(read: Read) -> None:
    plan = planned_on_gpus(read(STUDY, "arms.lora.learning_rate=auto"))
    whole = placed(plan)
    again = what_is_left(whole, plan.runs, set())
    assert again.makespan_seconds == pytest.approx(whole.makespan_seconds)
    assert sorted(job.ids for job in again.jobs) == sorted(job.ids for job in whole.jobs)
    lora = {run.run_id for run in plan.runs if run.arm.rank == 4}
    left = what_is_left(whole, plan.runs, {*lora, "base"})
    assert {i for job in whole.jobs for i in job.ids} - {i for job in left.jobs for i in job.ids} == {
        *lora, "base", *(search.search_id for search in plan.searches if search.arms[0].rank == 4),
    }  # fmt: skip
    assert left.makespan_seconds < whole.makespan_seconds
    nothing = what_is_left(whole, plan.runs, {run.run_id for run in plan.runs})
    assert (nothing.jobs, nothing.makespan_seconds, nothing.idle_share) == ([], 0, 0)


def test_more_gpus_take_less_time_and_about_the_same_gpu_hours(read: Read) -> None:
    study = read(STUDY.replace("  full: {learning_rate: 1e-5}\n", ""))
    times = [placed(planned_on_gpus(study, device_count=n)) for n in (1, 2, 4)]
    makespans = [one.makespan_seconds for one in times]
    assert makespans == sorted(makespans, reverse=True)
    assert times[0].idle_share == pytest.approx(0)
    assert len({round(one.gpu_hours, 9) for one in times}) == 1


def test_a_plan_counts_on_every_node_and_keeps_a_gang_on_one(read: Read) -> None:
    study = read(STUDY, "execution.on=ray", "execution.shards=4", "arms.lora.learning_rate=auto")
    one, four = (planned_on_gpus(study, device_count=4, node_count=n) for n in (1, 4))
    assert [run.run_id for run in four.runs] == [run.run_id for run in one.runs]
    assert (four.resolved.worker_count, four.resolved.workers_a_node) == (16, 4)
    assert four.resolved.thread_count == one.resolved.thread_count
    assert four.resolved.gangs == one.resolved.gangs
    found = placed(four)
    assert found.devices == list(range(16))
    assert {len({device // 4 for device in job.devices}) for job in found.jobs} == {1}
    assert found.makespan_seconds < 0.6 * placed(one).makespan_seconds
    assert found.gpu_hours == pytest.approx(placed(one).gpu_hours)
    done = {run.run_id for run in four.runs if run.seed}
    assert what_is_left(found, four.runs, done).makespan_seconds < found.makespan_seconds
