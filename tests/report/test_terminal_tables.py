"""The plan as the terminal prints it: every run with its state, totals of what is left, nothing cut at 80 columns."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from rankscope.records import Plan, PlannedRun, PlannedSearch, Resolved
from rankscope.report.terminal_tables import print_plan
from rankscope.study.study import Arm

LORA = Arm(label="lora-r16", method="lora", rank=16, alpha=32.0, targets="all-linear", learning_rate="auto")


def planned(seed: int, **changes: Any) -> PlannedRun:
    fields: dict[str, Any] = {
        "run_id": f"lora-r16-s{seed}-abc", "model": "base", "train_set": "medical", "arm": LORA, "seed": seed,
        "trainable_parameters": 491_520, "step_count": 1200, "train_tokens": 10_000, "train_flops": 3e12,
        "evaluate_flops": 1e12, "memory_bytes": 2_000_000_000, "disk_bytes": 5_000_000, "seconds": 120.0,
    }  # fmt: skip
    return PlannedRun(**{**fields, **changes})


def printed(runs: list[PlannedRun], states: dict[str, str], width: int = 80) -> list[str]:
    resolved = Resolved(dtype="float32", device="cpu", worker_count=2, thread_count=1, micro_batch_tokens=4096)
    search = PlannedSearch(
        search_id="x", model="base", train_set="medical", arms=[LORA], rates=[1e-4, 1e-3], seed=9, step_count=100,
        train_flops=1e12, seconds=60.0,
    )  # fmt: skip
    plan = Plan(
        study="s", resolved=resolved, models=[], train_sets=[], suites=[], searches=[search], runs=runs,
        warnings=["rank 64 is above [a] matrix's smaller side"],
    )  # fmt: skip
    console = Console(width=width, highlight=False, force_terminal=False)
    with console.capture() as capture:
        print_plan(console, plan, states)
    return capture.get().splitlines()


def test_every_run_stands_with_its_cost_and_state() -> None:
    runs = [planned(0), planned(1), planned(2, fits=False, reason="needs 9 GB")]
    lines = printed(runs, {"lora-r16-s0-abc": "done"})
    assert max(len(line.rstrip()) for line in lines) <= 80
    first = next(line for line in lines if line.startswith("lora-r16"))
    for cell in ("492 k", "1,200", "4.0e+12", "2.0 GB", "5.0 MB", "2.0 min", "done"):
        assert cell in first
    text = " ".join(" ".join(lines).split())
    assert "to do" in text
    assert "does not fit" in text
    assert "needs 9" in text
    assert "[a] matrix" in text


def test_totals_count_only_what_is_left_and_are_shared_by_the_workers() -> None:
    runs = [planned(0), planned(1), planned(2, fits=False, reason="needs 9 GB")]
    text = " ".join(printed(runs, {"lora-r16-s0-abc": "done"}, 160))
    assert "3 runs, 1 done, 1 to do, 1 that do not fit; about 1.5 min with 2 workers, 5.0 MB of disk." in text


def test_a_finished_plan_has_nothing_left() -> None:
    assert "nothing left to do" in " ".join(printed([planned(0)], {"lora-r16-s0-abc": "done"}, 160))


def test_several_training_sets_are_named_and_still_fit() -> None:
    lines = printed([planned(0), planned(1, train_set="legal")], {})
    assert max(len(line.rstrip()) for line in lines) <= 80
    assert "legal" in " ".join(lines)
    assert "medical" in " ".join(lines)
