"""A plan of fifteen made-up runs, with searches for some."""

from __future__ import annotations

from rankscope.records import Plan, PlannedRun, PlannedSearch, Resolved, SuiteFacts
from rankscope.study.study import Arm

RESOLVED = Resolved(dtype="float32", device="cpu", worker_count=2, thread_count=1, micro_batch_tokens=512)


def make_plan(searches: int = 0) -> Plan:
    runs = [
        PlannedRun(
            run_id=f"r{rank}-s{seed}", model="tiny", train_set="medical", seed=seed, trainable_parameters=100 * rank,
            arm=Arm(label=f"lora-r{rank}", method="lora", rank=rank, alpha=2.0 * rank, targets="all-linear",
                    dropout=0.0, learning_rate=1e-3),
            step_count=40, train_tokens=8_000, train_flops=3e9, evaluate_flops=1e9, memory_bytes=1, disk_bytes=1,
            seconds=10.0 + rank,
            search_id=f"search-{rank}" if rank <= searches else None,
        )
        for rank in (1, 2, 4, 8, 16)
        for seed in range(3)
    ]  # fmt: skip
    found = [
        PlannedSearch(
            search_id=f"search-{run.arm.rank}", model="tiny", train_set="medical", arms=[run.arm],
            rates=[1e-4, 1e-3, 1e-2, 1e-1], seed=9, step_count=40, train_flops=6e9, seconds=20.0,
            tries=4, runs=2.0,
        )
        for run in runs
        if run.search_id and run.seed == 0
    ]  # fmt: skip
    suite = SuiteFacts(
        model="tiny", name="law", domain=None, kind="recall", form="choices", content_sha256="0", item_count=200,
        token_count=1, max_new_tokens=1,
    )  # fmt: skip
    return Plan(study="made", resolved=RESOLVED, models=[], train_sets=[], suites=[suite], searches=found, runs=runs)
