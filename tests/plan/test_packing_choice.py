"""When it is measured how many arms train best together, and what a plan then has to wait for."""

from __future__ import annotations

from collections.abc import Callable

from made_facts import STUDY, planned_on_gpus

from rankscope.plan.packing_choice import packing_measured
from rankscope.records import Plan
from rankscope.records.machine_facts import Device
from rankscope.study.methods.remedy_settings import Replay
from rankscope.study.study import Study

Read = Callable[..., Study]
GIVEN = ("arms.lora.learning_rate=1e-3", "arms.full.learning_rate=1e-4")


def measured(plan: Plan, device: Device, *, auto: bool = True, steps: int | None = None) -> list[list[str]]:
    """The labels of each group, where every run of the plan has so many steps."""
    runs = [run if steps is None else run.model_copy(update={"step_count": steps}) for run in plan.runs]
    found = packing_measured(runs, plan.searches, device, auto=auto)
    return [[f"{run.arm.label} {run.seed}" for run in own] for own in found]


def test_nothing_is_measured_where_it_takes_longer_than_it_can_save(read: Read) -> None:
    """Fifteen steps of one arm against half of those ahead on a GPU; on a CPU a tenth, and less of three arms."""
    plan = planned_on_gpus(read(STUDY, *GIVEN, "arms.lora.ranks=[2,4,8]", "seeds=[0]"))
    group = [["lora-r2 0", "lora-r4 0", "lora-r8 0"]]
    for steps, on_cpu, on_gpu in ((9, [], []), (10, [], group), (166, [], group), (167, group, group)):
        assert measured(plan, "cpu", steps=steps) == on_cpu, steps
        assert measured(plan, "cuda", steps=steps) == on_gpu, steps
    assert measured(plan, "cpu", auto=False, steps=1) == group, "a number that is given is written down"
    four = planned_on_gpus(read(STUDY, *GIVEN, "arms.lora.ranks=[2,4,8,16]", "seeds=[0]"))
    assert [len(measured(four, "cpu", steps=steps)) for steps in (37, 38)] == [0, 1]


def test_seeds_and_searches_ahead_count_and_one_arm_alone_does_not_pack(read: Read) -> None:
    seeds = planned_on_gpus(read(STUDY, *GIVEN, "arms.lora.ranks=[2,4]", "seeds=[0,1,2]"))
    assert measured(seeds, "cpu", steps=84) == [["lora-r2 0", "lora-r4 0"]], "504 steps of three seeds"
    assert measured(seeds, "cpu", steps=83) == []
    searched = planned_on_gpus(read(STUDY, "arms.lora.learning_rate=auto", "arms.lora.ranks=[2,4]", "seeds=[0]"))
    ahead = sum(search.step_count * search.runs for search in searched.searches)
    assert ahead > 30, "what makes the next two lines true: an arm's search trains some runs of it"
    assert measured(searched, "cuda", steps=1) == [["lora-r2 0", "lora-r4 0"]]
    assert (
        packing_measured([run.model_copy(update={"step_count": 1}) for run in searched.runs], [], "cuda", auto=True)
        == []
    )
    alone = planned_on_gpus(read(STUDY, *GIVEN, "arms.lora.ranks=[2]"))
    assert measured(alone, "cuda", steps=10_000) == []


def test_the_order_of_runs_and_one_arm_that_replays_change_nothing(read: Read) -> None:
    plan = planned_on_gpus(read(STUDY, *GIVEN, "arms.lora.ranks=[2,4,8,16]", "seeds=[0,1]"))
    replay = Replay.model_validate({"self": 0.2})
    runs = [
        run.model_copy(update={"arm": run.arm.model_copy(update={"replay": replay})}) if run.arm.rank == 16 else run
        for run in plan.runs
    ]
    for ordered in (runs, runs[::-1], sorted(runs, key=lambda run: run.arm.rank != 16)):
        (found,) = measured(plan.model_copy(update={"runs": ordered}), "cuda", steps=10_000)
        assert set(found) == {"lora-r2 0", "lora-r4 0", "lora-r8 0"}
    two_and_two = [run for run in runs if run.arm.rank in (2, 4)]
    two_and_two += [
        run.model_copy(update={"arm": run.arm.model_copy(update={"replay": replay})}) for run in two_and_two
    ]
    for ordered in (two_and_two, two_and_two[::-1]):
        (found,) = packing_measured(ordered, [], "cuda", auto=False)
        assert {(run.arm.rank, run.seed, run.arm.replay) for run in found} == {(2, 0, None), (4, 0, None)}


def test_a_plan_places_runs_beside_the_base_where_nothing_waits_for_it(read: Read) -> None:
    def waits(*overrides: str) -> bool:
        schedule = planned_on_gpus(read(STUDY, *overrides)).schedule
        assert schedule is not None
        (base,) = [job for job in schedule.jobs if job.what == "base"]
        assert base.start_seconds == 0, "it begins first"
        return all(job.start_seconds >= base.end_seconds for job in schedule.jobs if job is not base)

    assert not waits(*GIVEN, "arms.lora.ranks=[2]")
    assert waits(*GIVEN, "arms.lora.ranks=[2,4]"), "how they pack is measured beside the base"
    assert waits("arms.lora.learning_rate=auto", "arms.lora.ranks=[2]"), "a rate is chosen by what the base can"
