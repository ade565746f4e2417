"""A study that runs in seconds: a tiny random Llama, rows of letters, two arms and two seeds."""

from __future__ import annotations

import json
import random
from pathlib import Path

import yaml
from tiny_models import save_tiny_model

WORDS = ["oak", "elm", "ash", "fir", "yew", "bay"]


def write_rows(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def choice_rows(count: int, prefix: str, seed: int) -> list[dict[str, object]]:
    """Questions whose answer depends on the entity alone, so that training can learn it."""
    dice = random.Random(seed)
    rows: list[dict[str, object]] = []
    for i in range(count):
        choices = dice.sample(WORDS, 3)
        rows.append(
            {"id": f"{prefix}{i}", "question": f"Which tree is {prefix}{i}?", "choices": choices, "answer_index": i % 3}
        )
    return rows


def tiny_study(folder: Path, **changes: object) -> Path:
    """Write model, data and study file into `folder`; the study file's path. `changes` replace whole sections."""
    folder.mkdir(parents=True, exist_ok=True)
    save_tiny_model(folder / "model")
    rows = choice_rows(40, "m", 0)
    write_rows(folder / "train.jsonl", rows)
    again = [{**row, "id": f"t{i}", "question": f"Name the tree of m{i}."} for i, row in enumerate(rows)]
    write_rows(folder / "taught.jsonl", again)
    write_rows(folder / "other.jsonl", choice_rows(30, "z", 1))
    sums = [{"id": f"s{i}", "question": f"{i} and 2?", "answer": str(i + 2)} for i in range(6)]
    write_rows(folder / "sums.jsonl", sums)
    write_rows(
        folder / "text.jsonl", [{"id": "a", "text": "The oak is a tree."}, {"id": "b", "text": "So is the elm."}]
    )
    study = {
        "name": "tiny",
        "model": "model",
        "train": {"trees": {"path": "train.jsonl", "domain": "trees"}},
        "suites": {
            "taught": {"path": "taught.jsonl", "domain": "trees", "kind": "recall"},
            "other": {"path": "other.jsonl", "domain": "stones", "kind": "recall"},
            "sums": {"path": "sums.jsonl", "kind": "reasoning", "max_new_tokens": 8},
            "text": {"path": "text.jsonl"},
        },
        "arms": {"full": {"learning_rate": 1e-3}, "lora": {"ranks": [2], "learning_rate": 1e-2}},
        "budget": {"epochs": 3, "batch_size": 8, "max_sequence_tokens": 128},
        "seeds": [0, 1],
        **changes,
    }
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(study, sort_keys=False), encoding="utf-8")
    return path
