"""lm-eval tasks of every output type, as local YAML files over local JSONL: no hub is asked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

ITEMS = 8
FAMILY = ["tin", "iron and coal", "salt", "a long piece of rope"]


def questions(count: int = ITEMS) -> list[dict[str, Any]]:
    return [
        {
            "question": f"What does town {i} sell?",
            "choices": [FAMILY[(i + k) % 4] + ("" if k else " ore") for k in range(4)],
            "answer": (i * 3) % 4,
            "reply": f"{i + 2}",
            "text": f"Town {i} sells much.\nIt lies by river {i * 7}, and people like it there.",
        }
        for i in range(count)
    ]


def save_task(folder: Path, name: str = "towns", **settings: Any) -> Path:
    """A task's YAML beside its rows; `settings` replace or add to those of a multiple-choice task."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = folder / f"{name}.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in questions()))
    fewshot = folder / f"{name}-train.jsonl"
    fewshot.write_text("".join(json.dumps(row) + "\n" for row in questions(12)[ITEMS:]))
    task = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(rows), "train": str(fewshot)}},
        "test_split": "test",
        "fewshot_split": "train",
        "output_type": "multiple_choice",
        "doc_to_text": "Question: {{question}}\nAnswer:",
        "doc_to_choice": "choices",
        "doc_to_target": "answer",
        "metric_list": [
            {"metric": "acc", "aggregation": "mean", "higher_is_better": True},
            {"metric": "acc_norm", "aggregation": "mean", "higher_is_better": True},
        ],
        "metadata": {"version": 2.0},
        **settings,
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in task.items() if value is not None}))
    return path


GENERATED: dict[str, Any] = {
    "output_type": "generate_until",
    "doc_to_choice": None,
    "doc_to_target": "reply",
    "generation_kwargs": {"until": ["\n\n", "e"], "max_gen_toks": 12, "do_sample": False},
    "filter_list": [
        {
            "name": "first",
            "filter": [{"function": "regex", "regex_pattern": "([A-Za-z0-9])"}, {"function": "take_first"}],
        },
        {"name": "whole", "filter": [{"function": "take_first"}]},
    ],
    "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True, "ignore_case": True}],
}
ROLLING: dict[str, Any] = {
    "output_type": "loglikelihood_rolling",
    "doc_to_text": "",
    "doc_to_choice": None,
    "doc_to_target": "text",
    "fewshot_split": None,
    "metric_list": [{"metric": "word_perplexity"}, {"metric": "bits_per_byte"}],
}
CONTINUED: dict[str, Any] = {
    "output_type": "loglikelihood",
    "doc_to_choice": None,
    "doc_to_target": "{{' ' + reply}}",
    "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}, {"metric": "perplexity"}],
}
