"""What `rankscope plan` and `plan --measure` predict against what runs take: seconds and peak memory, a run each.

    python benchmarks/plan_accuracy.py [--quick] [--device cpu|cuda] [--json FILE] [--only WORD] [--repeats N]

`ours` is the prediction, the peer is the real run (median of the repeats), so a ratio of 1 is a plan that came true.
Targets: plan within 2x in time and 30 % in memory, plan --measure within 30 % in time. Seconds are those of training
and of scoring; memory is the process's own. At the end stand the constants of `plan/run_time.py` that fit the runs
best, over all models and rows: put them there when the training loop became faster.
"""

from __future__ import annotations

import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.optimize import nnls
from table import DATA, Row, Table, parser_of
from train_rows import SHAPES

from rankscope.edges.executors.this_machine import make
from rankscope.edges.freed_memory import keep_freed_memory
from rankscope.edges.machine import look_at_machine
from rankscope.edges.study_folder import StudyFolder
from rankscope.jobs.planning import StudyPlanner
from rankscope.model.load import load_tokenizer
from rankscope.pipeline import measure_study, run_study
from rankscope.plan.run_cost import evaluate_flops, train_flops
from rankscope.plan.run_time import EFFICIENCY, SCORING_BATCH_TOKENS, values_per_token
from rankscope.records import Plan, RunStatus
from rankscope.study.study import ModelSpec, Study

FACTS = {"world": "medical/taught/train", "domain": "medical"}
SUITES = {
    "new": {"world": "medical/taught/test", "domain": "medical", "kind": "recall"},
    "law": {"world": "legal/known/test", "domain": "legal", "kind": "recall"},
}
ARMS = {"full": {"learning_rate": 1e-3}, "lora": {"ranks": [1, 16, 128], "learning_rate": 1e-3}}


@dataclass(frozen=True)
class Case:
    name: str
    study: dict[str, Any]


def cases(quick: bool, folder: Path) -> list[Case]:
    """The bundled base with facts and with GSM8K rows, and another size with facts."""
    rows = 32 if quick else 320
    facts = {"new": {**FACTS, "limit": rows}}
    found = [Case("bundled, facts", {"model": "bundled", "train": facts})]
    gsm8k = DATA / "gsm8k" / "train.jsonl"
    if gsm8k.is_file():
        train = {"maths": {"path": str(gsm8k), "domain": "medical", "kind": "reasoning", "limit": rows // 4}}
        found.append(Case("bundled, GSM8K rows", {"model": "bundled", "train": train}))
    else:
        print("No gsm8k/train.jsonl in ../shared/data: facts only.", flush=True)
    if not quick:
        found.append(Case("Llama of 8 x 384, facts", {"model": _saved("Llama of 8 x 384", folder), "train": facts}))
    return found


def _saved(shape: str, folder: Path) -> str:
    """A random model of this shape on disk, with the bundled tokenizer."""
    from transformers import AutoModelForCausalLM

    target = folder / shape.replace(" ", "-")
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(SHAPES[shape]).save_pretrained(target)
    load_tokenizer(ModelSpec(id="bundled"), Path()).save_pretrained(target)
    return str(target)


def study_of(case: Case, quick: bool) -> Study:
    arms = {"lora": {"ranks": [1, 4], "learning_rate": 1e-3}} if quick else ARMS
    return Study.model_validate(
        {
            "name": "accuracy",
            **case.study,
            "model": [{"id": case.study["model"]}],
            "suites": {name: {**suite, "limit": 16 if quick else 100} for name, suite in SUITES.items()},
            "arms": {key: {"method": key, **arm} for key, arm in arms.items()},
            "budget": {"epochs": 1, "batch_size": 16},
            "seeds": [0],
        }
    )


def real_runs(study: Study, out: Path, machine: Any) -> tuple[Plan, dict[str, RunStatus]]:
    run_study(StudyPlanner(study, Path()), StudyFolder.open(out), machine=machine, make_executor=make)
    store = StudyFolder.open(out)
    plan = store.read_plan()
    assert plan is not None
    found = {run.run_id: store.read_status(run.run_id) for run in plan.runs}
    return plan, {run_id: status for run_id, status in found.items() if status is not None}


def rows_of(case: Case, quick: bool, repeats: int, folder: Path, fit: Fit) -> list[Row]:
    study, machine = study_of(case, quick), look_at_machine(folder)
    planner = StudyPlanner(study, Path())
    plain = planner.plan(machine, StudyFolder.open(folder / "none"))
    measured, failed = measure_study(planner, plain, make)
    if failed:
        return [Row(case.name, "real run", reason=f"not measured: {failed}")]
    better = planner.plan(machine, StudyFolder.open(folder / "none"), measured)
    real: dict[str, list[RunStatus]] = {}
    for repeat in range(repeats):
        for run_id, status in real_runs(study, folder / f"{case.name}-{repeat}", machine)[1].items():
            real.setdefault(run_id, []).append(status)
    rows = []
    for before, after in zip(plain.runs, better.runs, strict=True):
        done = real[before.run_id]
        seconds = statistics.median((s.train_seconds or 0) + (s.evaluate_seconds or 0) for s in done)
        peak = round(statistics.median(s.peak_memory_bytes or 0 for s in done))
        fit.add(plain, before.run_id, seconds, machine.flops_per_second or 1.0)
        for said, planned in (("plan", before), ("plan --measure", after)):
            name = f"{said}: {case.name}, {before.arm.label}"
            ratio = seconds / planned.seconds
            rows.append(Row(name, "real run", planned.seconds, seconds, ratio, planned.memory_bytes, peak))
    return rows


class Fit:
    """seconds = matrices / (speed * EFFICIENCY) + attention / (speed * a) + values * v + layer passes * c, with a, v
    and c by least relative squares. EFFICIENCY is given: it is that of products, and left free it goes beyond 1."""

    def __init__(self) -> None:
        self._left: list[list[float]] = []
        self._right: list[float] = []

    def add(self, plan: Plan, run_id: str, seconds: float, flops_per_second: float) -> None:
        """`flops_per_second` is that of one thread, as the plan was made with."""
        run = next(run for run in plan.runs if run.run_id == run_id)
        facts = next(f for f in plan.models if f.name == run.model)
        train = next(t for t in plan.train_sets if (t.model, t.name) == (run.model, run.train_set))
        suites = [s for s in plan.suites if s.model == run.model]
        budget = study_of(Case("", {"model": "bundled", "train": {"new": FACTS}}), False).budget
        speed = flops_per_second * plan.resolved.thread_count
        parts = zip(train_flops(run.arm, facts, train, budget), evaluate_flops(run.arm, facts, suites), strict=True)
        matrices, attention = (sum(part) / speed for part in parts)
        scored = sum(s.token_count for s in suites)
        passes = facts.layer_count * (run.step_count + scored / SCORING_BATCH_TOKENS["cpu"] / 3)
        values = values_per_token(facts) * (3 * train.token_count * budget.epochs + scored) / plan.resolved.thread_count
        self._left.append([part / seconds for part in (attention, values, passes)])
        self._right.append(1 - matrices / EFFICIENCY / seconds)

    def text(self) -> str:
        attention, values, passes = nnls(np.array(self._left), np.array(self._right))[0]
        share = f"{1 / attention:.3f}" if attention > 0 else "not seen"
        return (
            f"Fitted over {len(self._left)} runs: ATTENTION_EFFICIENCY {share}, VALUE_SECONDS {values:.3g}, "
            f"LAYER_STEP_SECONDS {passes:.4f}"
        )


def main() -> None:
    parser = parser_of(__doc__, quick="two arms, few rows")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    keep_freed_memory()
    table, fit = Table(arguments), Fit()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        table.add(Row("plan", "real run", reason="not measured: no CUDA device"))
        return
    with tempfile.TemporaryDirectory() as folder:
        for case in cases(arguments.quick, Path(folder)):
            if arguments.only in case.name:
                for row in rows_of(case, arguments.quick, arguments.repeats, Path(folder), fit):
                    table.add(row)
    print(f"\n{fit.text()}")


if __name__ == "__main__":
    main()
