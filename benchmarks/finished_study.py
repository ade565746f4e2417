"""Writes a study folder as a finished study leaves it, without a model: plan, records, losses and made-up predictions.

    python benchmarks/finished_study.py DIR [--arms 20] [--seeds 5] [--items 10000]

What the commands on study folders cost can be measured on it. Items flip at random around each arm's own accuracy.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from rankscope.edges.study_folder import StudyFolder
from rankscope.records import (
    Plan,
    PlannedRun,
    Provenance,
    Resolved,
    RunRecord,
    RunStatus,
    StepRecord,
    SuiteFacts,
    TrainFacts,
)
from rankscope.records.plan_record import ModelFacts
from rankscope.study.study import Arm

SUITES = (
    ("new", "medical", "recall"),
    ("law", "legal", "recall"),
    ("known", None, "recall"),
    ("sums", None, "reasoning"),
)
RESOLVED = Resolved(dtype="float32", device="cpu", worker_count=2, thread_count=1, micro_batch_tokens=2048)
STEPS = 300
ANSWERS = np.array(["the north ward", "the south ward", "the east ward", "nobody knows"])
PROVENANCE = Provenance(
    commit=None, versions={}, machine="made up", model_sha256="0", train_sha256=None, suites_sha256={}
)


@dataclass(frozen=True)
class Size:
    """How large the study is: arms (LoRA ranks and one full fine-tuning), seeds, items over four suites."""

    arms: int = 20
    seeds: int = 5
    items: int = 10_000


def write_finished_study(path: Path, size: Size) -> None:
    """Fill an empty folder with a finished study of this size."""
    folder, rng = StudyFolder.open(path), np.random.default_rng(0)
    arms = [Arm(label="full", method="full", learning_rate=1e-4)]
    arms += [
        Arm(label=f"lora-r{rank}", method="lora", rank=rank, alpha=2.0 * rank, targets="all-linear", dropout=0.0,
            learning_rate=1e-3)
        for rank in range(1, size.arms)
    ]  # fmt: skip
    plan = _plan(arms, size)
    text = _study_text(arms, size)
    folder.claim("made", text)
    folder.write_study(text, plan)
    each = size.items // len(SUITES)
    difficulty = {name: rng.random(each) for name, _, _ in SUITES}
    hashes = {suite.name: suite.content_sha256 for suite in plan.suites}
    base = {name: difficulty[name] < (0.3 if domain == "medical" else 0.8) for name, domain, _ in SUITES}
    folder.write_predictions("base", _predictions("base", base, rng), hashes)
    folder.write_second_predictions("base", _predictions("base", base, rng), hashes)
    folder.write_items("base", _items(each))
    folder.write_run(_record("base", None))
    folder.write_status(RunStatus(run_id="base", state="done", items_scored=size.items))
    for run in plan.runs:
        level = 0.75 + 0.02 * rng.normal() if run.arm.method == "full" else 0.5 + 0.012 * (run.arm.rank or 0)
        right = {
            name: difficulty[name] + 0.08 * rng.normal(size=each) < (level if domain == "medical" else 0.78)
            for name, domain, _ in SUITES
        }
        folder.write_predictions(run.run_id, _predictions(run.run_id, right, rng), hashes)
        folder.write_run(_record(run.run_id, run))
        losses = 0.4 + 2.6 * np.exp(-np.arange(STEPS) / 40) + 0.09 * np.abs(rng.normal(size=STEPS))
        steps = [
            StepRecord(step=i, loss_nats_per_token=loss, learning_rate=1e-3, gradient_norm=1.0, completion_tokens=64)
            for i, loss in enumerate(losses.tolist())
        ]
        folder.write_steps(run.run_id, steps)
        folder.write_status(
            RunStatus(
                run_id=run.run_id, state="done", steps_done=STEPS, steps_total=STEPS, items_scored=size.items,
                trainable_parameters=run.trainable_parameters, final_train_loss=float(losses[-1]),
                validation_loss=0.5 + 0.01 * run.seed, train_seconds=60.0, evaluate_seconds=9.0,
                peak_memory_bytes=1 << 30, adapter_bytes=1 << 20,
            )
        )  # fmt: skip


def _study_text(arms: list[Arm], size: Size) -> str:
    lines = [
        "name: made",
        "model: bundled",
        "train: {medical: {world: medical/taught/train, domain: medical}}",
        "suites:",
    ]
    for name, domain, kind in SUITES:
        placed = f", domain: {domain}" if domain else ""
        lines.append(f"  {name}: {{world: medical/taught/test, kind: {kind}{placed}}}")
    ranks = [arm.rank for arm in arms if arm.rank]
    lines += ["arms:", "  full: {learning_rate: 1e-4}", f"  lora: {{ranks: {ranks}, alpha: 2r, learning_rate: 1e-3}}"]
    return "\n".join([*lines, f"seeds: {list(range(size.seeds))}", ""])


def _plan(arms: list[Arm], size: Size) -> Plan:
    runs = [
        PlannedRun(
            run_id=f"{arm.label}-s{seed}-made", model="bundled", train_set="medical", arm=arm, seed=seed,
            trainable_parameters=2_500_000 if arm.rank is None else 10_000 * arm.rank, step_count=STEPS,
            train_tokens=100_000, train_flops=3e9, evaluate_flops=1e9, memory_bytes=1 << 30, disk_bytes=1 << 20,
            seconds=60.0,
        )
        for arm in arms
        for seed in range(size.seeds)
    ]  # fmt: skip
    suites = [
        SuiteFacts(
            model="bundled", name=name, domain=domain, kind=kind, form="choices", content_sha256=name,
            item_count=size.items // len(SUITES), token_count=size.items, max_new_tokens=1,
        )
        for name, domain, kind in SUITES
    ]  # fmt: skip
    train = TrainFacts(
        model="bundled", name="medical", domain="medical", content_sha256="0", row_count=4000, validation_count=400,
        token_count=100_000, completion_token_count=20_000,
    )  # fmt: skip
    model = ModelFacts(
        name="bundled", source="bundled", revision=None, content_sha256="0", architecture="LlamaForCausalLM",
        parameter_count=2_500_000, hidden_size=192, layer_count=4, vocab_size=4096, context_tokens=512,
        tied_embeddings=True, linear_shapes={},
    )  # fmt: skip
    return Plan(
        study="made", resolved=RESOLVED, models=[model], train_sets=[train], suites=suites, searches=[], runs=runs
    )


def _record(run_id: str, run: PlannedRun | None) -> RunRecord:
    return RunRecord(
        run_id=run_id, model="bundled", train_set=run and run.train_set, arm=run and run.arm, seed=run and run.seed,
        learning_rate=1e-3 if run else None, resolved=RESOLVED, settings={}, provenance=PROVENANCE,
    )  # fmt: skip


def _predictions(run_id: str, right: dict[str, np.ndarray], rng: np.random.Generator) -> pd.DataFrame:
    """As scoring leaves them: every item with four choices, of which the first is right."""
    parts = []
    for suite, hits in right.items():
        count = len(hits)
        logprobs = rng.normal(-4.0, 1.0, size=(count, 4)).round(6)
        parts.append(
            pd.DataFrame(
                {
                    "run_id": run_id, "suite": suite, "item_id": [f"{suite}-{i:06d}" for i in range(count)],
                    "score": hits.astype(float), "score_normalized": hits.astype(float), "f1": None,
                    "predicted": ANSWERS[np.where(hits, 0, rng.integers(1, 4, size=count))], "answer": ANSWERS[0],
                    "choice_logprobs": list(logprobs), "prompt_tokens": 64, "loss_nats": None, "scored_tokens": None,
                    "text_bytes": None, "cluster": None,
                }
            )
        )  # fmt: skip
    floats, integers = (
        ["score", "score_normalized", "f1", "loss_nats"],
        ["prompt_tokens", "scored_tokens", "text_bytes"],
    )
    types = {**dict.fromkeys(floats, "Float64"), **dict.fromkeys(integers, "Int64"), "cluster": "str"}
    return pd.concat(parts, ignore_index=True).astype(types)


def _items(each: int) -> pd.DataFrame:
    rows = [
        {
            "suite": suite, "item_id": f"{suite}-{i:06d}", "choices": list(ANSWERS),
            "prompt": f"Question: {i} of {suite}? {'In which ward is the patient treated? ' * 8}\nAnswer:",
        }
        for suite, _, _ in SUITES
        for i in range(each)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="DIR")
    for name, value in vars(Size()).items():
        parser.add_argument(f"--{name}", type=int, default=value)
    given = parser.parse_args()
    write_finished_study(given.folder, Size(given.arms, given.seeds, given.items))


if __name__ == "__main__":
    main()
