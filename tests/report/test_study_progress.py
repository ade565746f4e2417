"""The live view: time left, plain lines without a terminal, a table within 80 columns, statuses while it trains."""

from __future__ import annotations

import heapq
import io
import random
import time
from typing import Any

import pytest
from made_plan import make_plan
from rich.console import Console

from rankscope.records import ModelFacts, Plan, PlannedRun, RunStatus, Stage
from rankscope.report.study_progress import Live, activities, as_json, counts, look, seconds_left


def status(run: PlannedRun, **changes: Any) -> RunStatus:
    return RunStatus(run_id=run.run_id, state="running", steps_total=40, **changes)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("factor", [0.2, 3.0])
def test_time_left_is_within_30_percent_after_the_first_run(seed: int, factor: float) -> None:
    """Two workers, longest first; each run takes the plan's time, times a factor unknown before, within 15 %."""
    dice = random.Random(seed)
    plan = make_plan()
    runs = sorted(plan.runs, key=lambda run: -run.seconds)
    truth = {run.run_id: factor * run.seconds * dice.uniform(0.85, 1.15) for run in runs}
    free, spans = [0.0, 0.0], {}
    for run in runs:
        begin = heapq.heappop(free)
        spans[run.run_id] = (begin, begin + truth[run.run_id])
        heapq.heappush(free, begin + truth[run.run_id])
    whole = max(end for _, end in spans.values())
    now = min(end for _, end in spans.values())
    shares = {name: min(1.0, max(0.0, (now - begin) / (end - begin))) for name, (begin, end) in spans.items()}
    left = seconds_left(plan, shares, dict.fromkeys(shares, 0.0), now)
    assert left == pytest.approx(whole - now, rel=0.3)


def test_what_an_earlier_session_did_does_not_count_as_speed() -> None:
    plan = make_plan()
    before = {run.run_id: 1.0 if run.seed < 2 else 0.0 for run in plan.runs}
    half = {run.run_id: 1.0 if run.seed < 2 else 0.5 for run in plan.runs}
    assert seconds_left(plan, half, before, 60.0) == pytest.approx(60.0)
    assert seconds_left(plan, before, before, 60.0) is None
    derived = plan.model_copy(update={"derived_seconds": sum(run.seconds for run in plan.runs if run.seed == 2) / 2})
    assert seconds_left(derived, half, before, 60.0) == pytest.approx(120.0)


def test_the_last_long_run_is_not_shared_out_over_workers() -> None:
    plan = make_plan()
    before = dict.fromkeys((run.run_id for run in plan.runs), 0.0)
    planned = sum(run.seconds for run in plan.runs)
    now = {run.run_id: 0.0 if run is plan.runs[-1] else 1.0 for run in plan.runs}
    elapsed = (planned - plan.runs[-1].seconds) / 2  # as planned, both workers busy
    assert seconds_left(plan, now, before, elapsed) == pytest.approx(plan.runs[-1].seconds)


def test_searches_count_by_the_steps_that_they_have_done() -> None:
    plan = make_plan(searches=1)
    rungs = {f"lora-r1 {rate} 10": {"loss": 1.0, "seconds": 1.0} for rate in ("0.0001", "0.001", "0.01", "0.1")}
    some = look(plan, lambda _: None, lambda _: rungs).shares["search-1"]
    rungs |= {f"lora-r1 {rate} 20": {"loss": 1.0, "seconds": 1.0} for rate in ("0.001", "0.01")}
    rungs |= {"lora-r1 0.01 40": {"loss": 1.0, "seconds": 1.0}}
    assert 0 < some < look(plan, lambda _: None, lambda _: rungs).shares["search-1"] == 1.0


def test_training_and_scoring_both_move_a_run() -> None:
    plan = make_plan()
    run = plan.runs[0]
    done = {run.run_id: status(run, steps_done=40, items_scored=100)}
    assert look(plan, done.get).shares[run.run_id] == pytest.approx(0.75 + 0.25 / 2)
    assert status(run, steps_done=20, train_seconds=4.0).tokens_per_second(run.train_tokens) == 1000
    assert status(run).tokens_per_second(run.train_tokens) is None
    (entry, *_) = as_json(plan, look(plan, done.get))["runs"]
    assert (entry["items_scored"], entry["items_total"]) == (100, 200)


def running_and_done() -> tuple[Plan, dict[str, RunStatus]]:
    plan = make_plan()
    first, second, third = plan.runs[:3]
    return plan, {
        first.run_id: status(
            first, steps_done=10, final_train_loss=1.25, train_seconds=2.0, peak_memory_bytes=3_000_000_000
        ),
        second.run_id: status(second, steps_done=40, items_scored=150, train_seconds=8.0),
        third.run_id: status(third).model_copy(update={"state": "diverged", "reason": "the loss rose [bold]"}),
    }


def test_without_a_terminal_it_writes_whole_plain_lines() -> None:
    plan, statuses = running_and_done()
    out = io.StringIO()
    before = dict(statuses)
    before.pop(plan.runs[2].run_id)
    seen = before
    with Live(lambda run_id: seen.get(run_id), console=Console(file=out, width=80)) as live:
        live.update(plan)
        seen = statuses
    lines = out.getvalue().splitlines()
    assert "\x1b" not in out.getvalue()
    assert "  lora-r1 on medical, seed 0: step 10 of 40, loss 1.250, 1,000 tokens/s, 3.0 GB" in lines
    assert "  lora-r1 on medical, seed 1: 150 of 200 items scored, 1,000 tokens/s" in lines
    assert "2 running, 13 planned; time left: not known yet" in lines
    assert "lora-r1 on medical, seed 2: diverged: the loss rose [bold]" in lines


def test_the_table_shows_every_arm_within_80_columns() -> None:
    plan, statuses = running_and_done()
    out = io.StringIO()
    with Live(statuses.get, console=Console(file=out, width=80)) as live:
        live.show_once(plan)
    lines = out.getvalue().splitlines()
    row = next(line for line in lines if line.startswith("lora-r1 "))
    assert [word in row for word in ("0/3 diverged", "1.250", "150/600", "1,000", "3.0 GB")] == [True] * 5
    assert sum(line.startswith("lora-r") for line in lines) == 5
    assert max(map(len, lines)) <= 80


# ---- what may still run, and what else is being done -------------------------------------------------------------


def test_runs_of_later_seeds_are_those_that_may_run() -> None:
    """Two seeds at first, then a third as the verdict asks."""
    plan = make_plan().model_copy(update={"looks": [2, 3]})
    begun = {run.run_id: status(run) for run in plan.runs if run.seed == 2 and run.arm.label == "lora-r1"}
    progress = look(plan, begun.get)
    assert counts(progress) == {"planned": 10, "running": 1, "may run": 4}
    entries = as_json(plan, progress)["runs"]
    assert sum(entry["optional"] for entry in entries) == 4
    done = {run.run_id: status(run).model_copy(update={"state": "done"}) for run in plan.runs if run.seed < 2}
    assert not look(plan, done.get).is_unfinished
    out = io.StringIO()
    Live(begun.get, console=Console(file=out, width=80)).show_once(plan)
    rows = {line.split()[0]: line for line in out.getvalue().splitlines() if line.startswith("lora-r")}
    assert " 0/3 " in rows["lora-r1"]
    assert " 0/2 to 3 " in rows["lora-r16"]


def test_optional_runs_are_no_time_left() -> None:
    plan = make_plan()
    before = dict.fromkeys((run.run_id for run in plan.runs), 0.0)
    now = {run.run_id: 1.0 if run.seed < 1 else 0.0 for run in plan.runs}
    optional = {run.run_id for run in plan.runs if run.seed == 2}
    everything, sure = seconds_left(plan, now, before, 60.0), seconds_left(plan, now, before, 60.0, optional)
    assert everything == pytest.approx(120.0)
    assert sure == pytest.approx(60.0)


def test_what_is_done_beside_runs_is_said_at_once() -> None:
    plan = make_plan(searches=1)
    plan = plan.model_copy(update={"models": [ModelFacts.model_construct(name="tiny")]})
    base = RunStatus(run_id="base", state="running", items_scored=50)
    inside = status(plan.runs[0]).model_copy(update={"state": "done", "activity": "looking inside"})
    statuses = {"base": base, plan.runs[0].run_id: inside}
    rungs = {"lora-r1 0.0001 10": {"loss": 1.0}}
    stage = Stage(what="derived runs", done=3, total=6, began_at=time.time() - 40)
    out = io.StringIO()
    with Live(statuses.get, lambda _: rungs, lambda: stage, Console(file=out, width=80)) as live:
        live.update(plan)
        lines = out.getvalue().splitlines()
    assert "  derived runs: 3 of 6, 40 s left" in lines
    assert "  the base tiny: 50 of 200 items scored" in lines
    assert "  learning-rate search for lora-r1 on medical: 12 % of its steps" in lines
    assert "  lora-r1 on medical, seed 0: looking inside" in lines
    statuses["base"] = base.model_copy(update={"state": "done", "activity": "scored once more in other batches"})
    said = activities(plan, look(plan, statuses.get), None, time.time())
    assert said[0] == "the base tiny: scored once more in other batches"
