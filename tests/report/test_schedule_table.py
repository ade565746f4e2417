"""The schedule in the terminal: a line for each GPU, and what of their time is idle."""

from __future__ import annotations

from made_plan import make_plan
from rich.console import Console

from rankscope.plan.placement import Claim
from rankscope.plan.schedule import Task, schedule
from rankscope.report.schedule_table import print_schedule
from rankscope.report.terminal_tables import print_plan


def printed(count: int, *tasks: Task, width: int = 80) -> list[str]:
    console = Console(width=width, highlight=False, force_terminal=False)
    with console.capture() as capture:
        print_schedule(console, make_plan(1), schedule([list(tasks)], "cuda", list(range(count)), 100))
    return [line.rstrip() for line in capture.get().splitlines()]


def test_a_line_for_each_gpu() -> None:
    lines = printed(
        3,
        Task("run", ("r4-s0",), Claim(slots=2, seconds=7200)),
        Task("search", ("search-1",), Claim(seconds=3600)),
        Task("pack", ("r1-s0", "r2-s0"), Claim(seconds=1800)),
        Task("base", ("base",), Claim(seconds=60)),
    )
    assert lines[0].split() == ["GPU", "jobs", "busy", "idle", "done", "after", "longest", "first"]
    assert lines[1].endswith("search lora-r1, pack of 2, 1 more"), "and the base, which begins first"
    assert lines[2].endswith("lora-r4 seed 0 (gang of 2)")
    assert lines[3].split()[:2] == ["2", "1"]
    assert lines[4].startswith("8.1 % of the time of 3 GPUs is idle")
    assert max(map(len, lines)) <= 80


def test_of_many_gpus_the_first_are_shown() -> None:
    lines = printed(20, Task("base", ("base",), Claim(seconds=60)))
    assert len(lines) == 1 + 16 + 2
    assert lines[-2] == "and 4 more GPUs"
    assert lines[-1].startswith("95.0 % of the time of 20 GPUs is idle")


def test_a_plan_on_one_worker_has_no_such_table() -> None:
    console = Console(width=100, highlight=False, force_terminal=False)
    task = Task("run", ("r4-s0",), Claim(seconds=7200))
    texts = []
    for count in (1, 2):
        plan = make_plan().model_copy(update={"schedule": schedule([[task]], "cpu", list(range(count)), 1)})
        with console.capture() as capture:
            print_plan(console, plan, {})
        texts.append(capture.get())
    assert "longest first" not in texts[0]
    assert "longest first" in texts[1]
    assert "about 2.0 h with 2 workers" in texts[1]
