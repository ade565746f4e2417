"""How a machine is shared out: which GPUs, how many workers, how many threads, and what is refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from made_facts import STUDY, machine_facts, planned

from rankscope.edges.executors.this_machine import InProcess, make
from rankscope.plan.worker_share import narrowed
from rankscope.records import MachineFacts
from rankscope.study.problems import InputProblems
from rankscope.study.study import Execution, Study

Read = Callable[..., Study]
TWO = machine_facts(device="cuda", device_count=2, core_count=12, bfloat16_is_fast=True)


def refusals(study: Study, machine: MachineFacts) -> list[str]:
    with pytest.raises(InputProblems) as caught:
        planned(study, machine=machine)
    return [str(problem).removeprefix("study.yaml: ") for problem in caught.value.problems]


def test_a_worker_on_each_gpu_shares_out_the_cores(read: Read) -> None:
    resolved = planned(read(), machine=TWO).resolved
    assert (resolved.gpus, resolved.worker_count, resolved.thread_count) == ([0, 1], 2, 6)
    one = planned(read(STUDY, "execution.gpus=[1]"), machine=TWO).resolved
    assert (one.gpus, one.worker_count, one.thread_count) == ([1], 1, 12)


def test_gpus_are_no_part_of_an_id(read: Read) -> None:
    ids = [
        [run.run_id for run in planned(read(STUDY, f"execution.gpus={gpus}"), machine=TWO).runs]
        for gpus in ("auto", "[1]", "[1, 0]")
    ]
    assert ids[0] == ids[1] == ids[2]
    workers = [[run.run_id for run in planned(read(STUDY, f"execution.workers={n}")).runs] for n in ("auto", "2")]
    assert workers[0] == workers[1]


def test_the_smallest_of_unlike_gpus_is_what_counts() -> None:
    unlike = TWO.model_copy(update={"device_memories_bytes": [80, 24], "device_memory_bytes": 24})
    assert narrowed(unlike, Execution()).device_memory_bytes == 24
    assert narrowed(unlike, Execution(gpus=(0,))).device_memory_bytes == 80
    assert narrowed(TWO, Execution(gpus=(1,))).device_count == 1
    cpu = machine_facts()
    assert narrowed(cpu, Execution()) is cpu


def test_a_gpu_that_is_not_there_is_refused_in_one_line(read: Read) -> None:
    assert refusals(read(STUDY, "execution.gpus=[7]"), TWO) == [
        "execution.gpus: found GPU 7 on a machine with 2 GPUs, expected numbers from 0 to 1"
    ]
    single = TWO.model_copy(update={"device_count": 1})
    assert refusals(read(STUDY, "execution.gpus=[0, 1]"), single) == [
        "execution.gpus: found GPU 1 on a machine with 1 GPU, expected auto, or [0]"
    ]
    assert refusals(read(STUDY, "execution.gpus=[0]"), machine_facts()) == [
        "execution.gpus: found gpus: [0] on a machine without a GPU (a processor), expected auto, or a machine with "
        "GPUs that torch can use"
    ]


def test_more_shards_than_the_listed_gpus_are_refused(read: Read) -> None:
    four = TWO.model_copy(update={"device_count": 4})
    (line,) = refusals(read(STUDY, "execution.gpus=[0, 2, 3]", "execution.shards=4"), four)
    assert line == ("execution.shards: found shards: 4 with gpus: [0, 2, 3], expected auto, or a power of two up to 2")
    (line,) = refusals(read(STUDY, "execution.gpus=[3]", "execution.shards=2"), four)
    assert line.endswith("expected auto or 1")
    assert len(refusals(read(STUDY, "execution.gpus=[9]", "execution.shards=2"), four)) == 2, "every problem at once"


def test_workers_of_a_cpu_are_refused_on_gpus(read: Read) -> None:
    (line,) = refusals(read(STUDY, "execution.workers=4"), TWO)
    assert line == (
        "execution.workers: found workers: 4 on a machine with 2 GPUs, expected auto: one on each GPU, or on each of "
        "`gpus`"
    )


@pytest.mark.parametrize(
    ("wrong", "found"),
    [
        ("[0, 1, 0]", "GPU 0 twice, expected each GPU once"),
        ("[]", "an empty list"),
        ("[-1]", "-1"),
        ("two", '"two"'),
        ("1", "1"),
    ],
)  # fmt: skip
def test_gpus_are_a_list_of_numbers(lines: Callable[..., list[str]], wrong: str, found: str) -> None:
    (line,) = lines(STUDY, f"execution.gpus={wrong}")
    assert "execution.gpus" in line
    assert f"found {found}" in line


def test_a_study_says_how_many_workers_share_a_cpu(read: Read) -> None:
    resolved = planned(read(STUDY, "execution.workers=2"), machine=machine_facts(core_count=8)).resolved
    assert (resolved.gpus, resolved.worker_count, resolved.thread_count) == ([], 2, 4)


def test_on_resume_threads_of_a_cpu_stay_and_gpus_are_those_of_now(read: Read) -> None:
    first = planned(read(), machine=machine_facts(core_count=4)).resolved
    other = machine_facts(core_count=16)
    again = planned(read(), machine=other, previous=first).resolved
    assert (again.worker_count, again.thread_count) == (first.worker_count, first.thread_count)
    asked = planned(read(STUDY, "execution.workers=2"), machine=other, previous=first).resolved
    assert (asked.worker_count, asked.thread_count) == (2, 8)
    on_gpus = planned(read(), machine=TWO).resolved
    eight = TWO.model_copy(update={"device_count": 8})
    moved = planned(read(), machine=eight, previous=on_gpus).resolved
    assert moved.gpus == list(range(8))
    assert (moved.dtype, moved.micro_batch_tokens) == (on_gpus.dtype, on_gpus.micro_batch_tokens)


MAC = machine_facts(device="cpu", device_name="Apple M3", mps=True, core_count=8, bfloat16_is_fast=True)


def test_a_mac_s_gpu_is_taken_where_the_study_asks_for_it(read: Read) -> None:
    plan = planned(read(STUDY, "execution.device=mps"), machine=MAC)
    resolved = plan.resolved
    assert (resolved.device, resolved.dtype, resolved.worker_count, resolved.thread_count) == ("mps", "float32", 1, 8)
    assert all(run.fits and run.seconds > 0 and not run.in_gang for run in plan.runs)
    assert plan.schedule is not None
    assert plan.schedule.gpu_hours == 0
    assert isinstance(make(plan), InProcess)
    assert planned(read(), machine=MAC).resolved.device == "cpu"
    in_fp32 = planned(read(STUDY), machine=MAC.model_copy(update={"bfloat16_is_fast": False}))
    assert [run.run_id for run in in_fp32.runs] == [run.run_id for run in plan.runs], "the device is no part of an id"


@pytest.mark.parametrize(
    ("settings", "machine", "said"),
    [
        ([], TWO, "execution.device: found device: mps on a machine without Apple's GPU"),
        (["execution.workers=2"], MAC, "execution.workers: found workers: 2 on a machine with 1 GPU"),
        (["execution.shards=2"], MAC, "execution.shards: found shards: 2 with device: mps, expected auto or 1"),
        (["analysis.enabled=true"], MAC, "analysis.enabled: found true with device: mps, which has no double"),
        (["optimizer.name=adamw_8bit"], MAC, "optimizer.name: found adamw_8bit on Apple M3 (mps)"),
    ],
)
def test_what_a_mac_s_gpu_cannot_do_is_refused(
    read: Read, settings: list[str], machine: MachineFacts, said: str
) -> None:
    (line,) = refusals(read(STUDY, "execution.device=mps", *settings), machine)
    assert line.startswith(said)
