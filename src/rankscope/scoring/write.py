"""Every prediction of `rankscope score`, as a file."""

from __future__ import annotations

from pathlib import Path

from rankscope.config.problems import InputProblems, Problem, show
from rankscope.scoring.score import Scored


def check_outputs(items: Path | None, confidence: float) -> None:
    """Raises InputProblems for a file that could not be written in the end, and for a confidence that is none."""
    problems = []
    if items is not None and items.suffix not in (".parquet", ".jsonl"):
        problems.append(Problem("score", "--items", show(str(items)), "a file that ends in .parquet or .jsonl"))
    if items is not None and items.is_dir():
        problems.append(Problem("score", "--items", show(str(items)) + ", a folder", "a file"))
    if not 0.5 <= confidence < 1:
        problems.append(Problem("score", "--confidence", show(confidence), "a number from 0.5 to below 1"))
    if problems:
        raise InputProblems(problems)


def write_items(scored: Scored, path: Path) -> None:
    """The columns of predictions.parquet, one row for each model and item."""
    frame = scored.frame()
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        frame.to_parquet(path, index=False)
    else:
        frame.to_json(path, orient="records", lines=True, force_ascii=False)
