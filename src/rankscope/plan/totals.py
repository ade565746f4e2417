"""A plan as rows and as sums, for people."""

from __future__ import annotations

from typing import Any

from rankscope.records import Plan


def describe_plan(plan: Plan) -> list[dict[str, Any]]:
    """One row for each run, in the plan's order; FLOPs in 10^12, all else in the units that the names say."""
    return [
        {
            "run_id": run.run_id,
            "model": run.model,
            "train_set": run.train_set,
            "arm": run.arm.label,
            "seed": run.seed,
            "trainable_parameters": run.trainable_parameters,
            "steps": run.step_count,
            "train_tokens": run.train_tokens,
            "teraflops": (run.train_flops + run.evaluate_flops) / 1e12,
            "memory_bytes": run.memory_bytes,
            "disk_bytes": run.disk_bytes,
            "seconds": run.seconds,
            "fits": run.fits,
            "reason": run.reason,
        }
        for run in plan.runs
    ]


def plan_totals(plan: Plan) -> dict[str, Any]:
    """Sums over the runs that fit and the searches. Time is shared out over workers; each has a checkpoint on disk.

    With adaptive seeds these are the most that there can be; `first_runs` and `first_seconds` are those of the first
    seeds, which every arm gets.
    """
    runs = [run for run in plan.runs if run.fits]
    first = [run for run in runs if not plan.looks or run.seed < plan.looks[0]]
    workers = plan.resolved.worker_count
    kept = sum(run.kept_disk_bytes for run in runs)
    temporary = sorted((run.disk_bytes - run.kept_disk_bytes for run in runs), reverse=True)[:workers]
    flops = sum(run.train_flops + run.evaluate_flops for run in runs) + sum(s.train_flops for s in plan.searches)
    common = sum(search.seconds for search in plan.searches) + plan.base_seconds + plan.derived_seconds
    return {
        "runs": len(runs),
        "first_runs": len(first),
        "runs_that_do_not_fit": len(plan.runs) - len(runs),
        "searches": len(plan.searches),
        "train_tokens": sum(run.train_tokens for run in runs),
        "teraflops": flops / 1e12,
        "memory_bytes": sum(sorted((run.memory_bytes for run in runs), reverse=True)[:workers]),
        "disk_bytes": kept + sum(temporary),
        "first_seconds": (sum(run.seconds for run in first) + common) / workers,
        "seconds": (sum(run.seconds for run in runs) + common) / workers,
    }
