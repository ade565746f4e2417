"""A whole study by `rankscope run` against the script that an engineer would write (study_script.py).

    python benchmarks/study_speed.py [--quick] [--json FILE] [--only WORD] [--gemma FOLDER] [--analysis WHICH]
                                     [--device cpu|cuda]

The same base, rows, seeds, rates, batches, adapters' starts and items on both sides, in fp32: wall time and peak
memory of the whole process with its children; ours before and after the script, the mean of both. Ours is everything
that `rankscope run` does (planning, the base, the noise floor, tables, the verdict, the report); the script trains
with TRL and PEFT, scores with lm-eval's `hf` and writes its scores. `analysis off` is both sides without a look
inside; with it on ours is the whole of it, the script's dense spectra of every change. Below the table stand the
stages of both.

`max_difference` is the largest difference of a choice's log-likelihood between the two, in nats, over all arms and
items; the share of items with the same answer (largest choice, or the same text) and the largest difference of a step's
training loss are printed below. `--gemma` names a folder that scripts/gemma_base.py made; its rows are those of public
data sets beside the checkout.

With `--device cuda` both sides work in bf16 as they come (TRL's bf16 autocast over a base in bf16, over fp32 weights
where all are trained), where rounding moves answers that are near to one another, and memory is that of the host.
"""

from __future__ import annotations

import compileall
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
from study_cases import Case, bundled, gemma
from table import Row, Table, parser_of

import rankscope
from rankscope.data.token_files import open_training
from rankscope.data.training_batches import order
from rankscope.edges.study_folder import StudyFolder

HERE = Path(__file__).resolve().parent
# ---- the two sides ---------------------------------------------------------------------------------------------------


class Watched:
    """A process, its wall time and the most memory that it and its children held together."""

    def __init__(self, command: Sequence[str], environment: dict[str, str]) -> None:
        began = time.perf_counter()
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self.peak_bytes = 0
        watcher = threading.Thread(target=self._watch, args=(process.pid,), daemon=True)
        watcher.start()
        output, _ = process.communicate()
        self.seconds = time.perf_counter() - began
        if process.returncode != 0:
            raise SystemExit(f"{' '.join(command)}: exit {process.returncode}\n{output[-3000:]}")

    def _watch(self, pid: int) -> None:
        try:
            root = psutil.Process(pid)
            while root.is_running() and root.status() != psutil.STATUS_ZOMBIE:
                held = 0
                for one in (root, *root.children(recursive=True)):
                    try:
                        held += one.memory_info().rss
                    except psutil.NoSuchProcess:
                        continue
                self.peak_bytes = max(self.peak_bytes, held)
                time.sleep(0.5)
        except psutil.NoSuchProcess:
            return


def ours(case: Case, folder: Path) -> tuple[Watched, StudyFolder]:
    folder.mkdir(parents=True)
    for name, records in {"train": case.train, **case.suites}.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records), encoding="utf-8")
    first, *_ = case.suites
    kinds = {name: "recall" if "choices" in records[0] else "reasoning" for name, records in case.suites.items()}
    study = {
        "name": "speed",
        "model": {"id": str(case.model), "chat": "never", "dtype": case.dtype},
        "train": {"mine": {"path": "train.jsonl", "domain": "mine"}},
        "suites": {
            name: {"path": f"{name}.jsonl", "kind": kinds[name]}
            | ({"domain": "mine"} if name == first else {})
            | ({"max_new_tokens": 48} if kinds[name] == "reasoning" else {})
            for name in case.suites
        },
        "arms": {
            arm["label"] if arm["rank"] is None else f"lora-{arm['rank']}": {
                "method": "full" if arm["rank"] is None else "lora", "learning_rate": arm["learning_rate"], "dial": 1,
            } | ({} if arm["rank"] is None else
                 {"ranks": [arm["rank"]], "alpha": arm["alpha"], "targets": arm["targets"]})
            for arm in case.arms()
        },
        "validation": {"max_items": 16},
        "budget": {"epochs": case.epochs, "batch_size": case.batch_size, "gradient_checkpointing": False},
        "optimizer": {"warmup_fraction": 0.0},
        "seeds": list(case.seeds),
        "analysis": {"enabled": case.analysis},
    }  # fmt: skip
    (folder / "study.yaml").write_text(json.dumps(study), encoding="utf-8")
    command = [sys.executable, "-m", "rankscope", "run", str(folder / "study.yaml"), "--out", str(folder / "out")]
    watched = Watched(command, {**os.environ, **({"CUDA_VISIBLE_DEVICES": ""} if case.device == "cpu" else {})})
    return watched, StudyFolder.open(folder / "out")


def script(case: Case, folder: Path, study: StudyFolder) -> tuple[Watched, dict[str, Any]]:
    """The peer, on the rows that ours trained on (all but those for validation), in their order."""
    plan = study.read_plan()
    assert plan is not None
    (facts,) = plan.train_sets
    rows = open_training(study.tokens(facts.content_sha256), facts).train
    examples = [rows[place] for place in range(len(rows))]
    if len(examples) % case.batch_size:
        raise SystemExit(f"{len(examples)} rows: TRL would cut other batches of {case.batch_size} at an epoch's end")
    suites = [
        {"name": name, "path": str(folder.parent / "ours" / f"{name}.jsonl"), "choices": "choices" in records[0],
         "max_new_tokens": 48, "end": case.end}
        for name, records in case.suites.items()
    ]  # fmt: skip
    folder.mkdir(parents=True)
    job = {
        "model": str(case.model), "out": str(folder), "found": str(folder / "found.json"),
        "threads": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "rows": [
            {"input_ids": [*one.prompt_ids, *one.completion_ids],
             "completion_mask": [0] * len(one.prompt_ids) + [1] * len(one.completion_ids)}
            for one in examples
        ],
        "order": {str(seed): order(len(examples), case.batch_size, case.epochs, seed) for seed in case.seeds},
        "arms": case.arms(), "seeds": list(case.seeds), "suites": suites, "batch_size": case.batch_size,
        "train_batch": case.train_batch, "score_batch": case.score_batch, "analysis": case.analysis,
        "device": case.device,
    }  # fmt: skip
    (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    watched = Watched([sys.executable, str(HERE / "study_script.py"), str(folder / "job.json")], environment)
    return watched, json.loads((folder / "found.json").read_text(encoding="utf-8"))


# ---- whether both found the same -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Agreement:
    """Of the base or of a run: the largest difference of a log-likelihood (nats), the share of items with the same
    answer, the largest difference of a suite's accuracy (points) and of a step's loss (nats a token; of a base None).
    """

    name: str
    nats: float
    same: float
    points: float
    loss: float | None

    def __str__(self) -> str:
        losses = "" if self.loss is None else f", losses of steps within {self.loss:.1e} nats a token"
        return (
            f"{self.name}: log-likelihoods within {self.nats:.1e} nats, the same answer to {100 * self.same:.1f} % of "
            f"items, accuracies within {self.points:.1f} points{losses}"
        )


def agreement(case: Case, study: StudyFolder, items: dict[str, Any], losses: dict[str, Any]) -> Iterator[Agreement]:
    """Of the base and of each run."""
    plan = study.read_plan()
    assert plan is not None
    runs: dict[str, pd.DataFrame | None] = {"base": study.read_predictions(next(iter(plan.base_ids.values())))}
    steps: dict[str, list[float]] = {}
    for run in plan.runs:
        label = "full" if run.arm.rank is None else f"lora-r{run.arm.rank}"
        runs[f"{label}-{run.seed}"] = study.read_predictions(run.run_id)
        steps[f"{label}-{run.seed}"] = [float(one["loss_nats_per_token"]) for one in study.read_steps(run.run_id)]
    for name, frame in runs.items():
        assert frame is not None
        apart, same, count, points = 0.0, 0, 0, 0.0
        for suite, records in case.suites.items():
            own = frame[frame["suite"] == suite].set_index("item_id").loc[[one["id"] for one in records]]
            right_here = right_there = 0
            for record, (_, row), theirs in zip(records, own.iterrows(), items[name][suite], strict=True):
                count += 1
                here: int | str
                there: int | str
                if "choices" in record:
                    mine = list(row["choice_logprobs"])
                    apart = max(apart, max(abs(a - b) for a, b in zip(mine, theirs, strict=True)))
                    here, there = (max(range(len(mine)), key=one.__getitem__) for one in (mine, theirs))
                else:
                    here, there = str(row["predicted"]).strip(), theirs.strip()
                wanted = record["answer_index" if "choices" in record else "answer"]
                same += here == there
                right_here += here == wanted
                right_there += there == wanted
            points = max(points, 100 * abs(right_here - right_there) / len(records))
        pairs = zip(steps[name], losses[name], strict=True) if name in steps else None
        yield Agreement(
            name, apart, same / count, points, None if pairs is None else max(abs(a - b) for a, b in pairs)
        )  # fmt: skip


def measured(case: Case) -> tuple[Row, list[str]]:
    with tempfile.TemporaryDirectory() as temporary:
        mine, study = ours(case, Path(temporary) / "ours")
        theirs, found = script(case, Path(temporary) / "script", study)
        again, _ = ours(case, Path(temporary) / "again")  # a machine that is now slow, now fast, is so for both sides
        apart = list(agreement(case, study, found["items"], found["losses"]))
        cost = study.read_table("cost")
        assert cost is not None
        plan = study.read_plan()
        workers = plan.resolved.worker_count if plan is not None else 1
        train, score = float(cost["train_seconds"].sum()), float(cost["evaluate_seconds"].sum())
    stages = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in found["stages"].items())
    rest = theirs.seconds - sum(found["stages"].values())
    seconds = (mine.seconds + again.seconds) / 2
    lines = [
        f"{case.name}: ours: training {train:.0f} s, scoring {score:.0f} s, over {workers} worker(s); the rest of "
        f"its {mine.seconds:.0f} s is start, plan, base, tables{', analysis' if case.analysis else ''} and report",
        f"{case.name}: ours once more, after the script: {again.seconds:.0f} s",
        f"{case.name}: the script: {stages}, the rest (start, tasks) {rest:.0f} s",
        *(f"{case.name}: {one}" for one in apart),
    ]
    row = Row(
        f"{case.name}: {len(case.arms())} arms, {len(case.seeds)} seed(s), analysis {'on' if case.analysis else 'off'}",
        "TRL + PEFT, lm-eval hf" + (", dense SVD" if case.analysis else ""), seconds, theirs.seconds,
        theirs.seconds / seconds, max(mine.peak_bytes, again.peak_bytes), theirs.peak_bytes,
        max_difference=max(one.nats for one in apart),
    )  # fmt: skip
    return row, lines


def main() -> None:
    parser = parser_of(__doc__, "fewer arms, rows and items: five minutes on two slow cores, fourteen with --gemma")
    parser.add_argument("--gemma", type=Path, metavar="FOLDER", help="the folder that scripts/gemma_base.py made")
    parser.add_argument("--analysis", choices=("off", "on", "both"), help="off with --quick, else both")
    arguments = parser.parse_args()
    compileall.compile_dir(str(Path(rankscope.__file__).parent), quiet=1)  # as pip does with what it installs
    cases = [bundled(arguments.quick)]
    if arguments.gemma is not None:
        cases.append(gemma(arguments.gemma, arguments.quick, arguments.device))
    table, said = Table(arguments), []
    for case in cases:
        wanted = arguments.analysis or ("off" if arguments.quick else "both")
        for inside in {"off": (False,), "on": (True,), "both": (False, True)}[wanted]:
            if arguments.only in case.name:
                row, lines = measured(replace(case, analysis=inside, device=arguments.device))
                table.add(row)
                said += lines
    print("\n" + "\n".join(said))


if __name__ == "__main__":
    main()
