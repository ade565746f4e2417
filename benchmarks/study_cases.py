"""What study_speed.py trains and scores on both sides: the bundled base, and Gemma 3 270M where it is at hand."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from table import DATA

from rankscope.assets import bundled_base_path
from rankscope.data.world import make_world

Records = list[dict[str, Any]]


@dataclass(frozen=True)
class Case:
    """A base with its rows; those that are left to train on fill whole batches.

    `targets` are the linear layers that LoRA adapts on both sides. `score_batch` is the batch that lm-eval was fastest
    with on a CPU, of 8, 16, 32 and 64; `train_batch` the rows that TRL was fastest with at once, of the whole batch and
    its half and quarter, the gradients of several added up.
    """

    name: str
    model: Path
    train: Records
    suites: dict[str, Records]
    ranks: tuple[int, ...]
    seeds: tuple[int, ...]
    epochs: int = 2
    batch_size: int = 16
    train_batch: int = 16
    score_batch: int = 32
    rates: tuple[float, float] = (1e-3, 3e-3)
    end: str = "<|end|>"
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    analysis: bool = False
    device: str = "cpu"

    @property
    def dtype(self) -> str:
        return "float32" if self.device == "cpu" else "bfloat16"

    def arms(self) -> Records:
        loras: Records = [
            {"label": f"lora-r{r}", "rank": r, "alpha": 2 * r, "targets": list(self.targets),
             "learning_rate": self.rates[1]}
            for r in self.ranks
        ]  # fmt: skip
        return [{"label": "full", "rank": None, "learning_rate": self.rates[0]}, *loras]


def bundled(quick: bool) -> Case:
    """Rows and suites of the bundled world, on the bundled base."""
    world = make_world()

    def rows(name: str, count: int) -> Records:
        keys = ("id", "question", "choices", "answer_index", "answer")
        found = [{key: row[key] for key in keys if row.get(key) is not None} for row in world.rows(name)[:count]]
        return [dict(one) for one in found]

    names = {"new-facts": "medical/taught/test", "law": "legal/known/test", "general": "general/known/test"}
    suites = {name: rows(source, 200 if quick else 300) for name, source in names.items()}
    suites["arithmetic"] = rows("arithmetic/test", 80 if quick else 120)
    return Case(
        "bundled base, quick" if quick else "bundled base", bundled_base_path(),
        rows("medical/taught/train", 304 if quick else 1_136), suites,
        ranks=(4, 16, 64) if quick else (1, 4, 16, 64), seeds=(0, 1, 2), batch_size=32, train_batch=32,
    )  # fmt: skip


def gemma(folder: Path, quick: bool, device: str) -> Case:
    """Rows of commonsense_qa and of suites whose base is above chance: few, full and two ranks, on a CPU; on a GPU
    those of a small study with the ranks of the paper. FileNotFoundError without the data."""

    def rows(file: str, count: int) -> Records:
        lines = (DATA / file).read_text(encoding="utf-8").splitlines()[:count]
        return [
            {key: one[key] for key in ("id", "question", "choices", "answer_index")} for one in map(json.loads, lines)
        ]

    row_count, item_count = {
        "cpu": (53, 20) if quick else (160, 60), "cuda": (336, 100) if quick else (1_056, 300),
    }[device]  # fmt: skip
    ranks = {"cpu": (4, 16), "cuda": (16, 64) if quick else (8, 16, 32, 64, 128)}[device]
    suites = {"csqa": "commonsense_qa/validation.jsonl", "arc": "arc_easy/test.jsonl", "piqa": "piqa/validation.jsonl"}
    return Case(
        "Gemma 3 270M, few rows" if device == "cpu" else "Gemma 3 270M, on a GPU", folder,
        rows("commonsense_qa/train.jsonl", row_count),
        {name: rows(file, item_count) for name, file in suites.items()}, ranks=ranks, seeds=(0,),
        epochs=1, rates=(1e-5, 3e-4), end="<eos>", train_batch=4 if device == "cpu" else 16,
        score_batch=16 if device == "cpu" else 64,
    )  # fmt: skip
