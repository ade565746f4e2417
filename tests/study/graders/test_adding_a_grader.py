"""A stranger adds a grader in one new file, and nothing else: a study names it, and answers are graded by it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml
from tiny_study import tiny_study, write_rows

import rankscope

pytestmark = pytest.mark.slow

LENGTH = '''
"""Grades by length."""

from typing import ClassVar

from pydantic import Field

from rankscope.study.graders.grader import Asked, Grader


class LengthGrader(Grader):
    """By how near an answer is to a number of characters."""

    name: ClassVar[str] = "length"
    title: ClassVar[str] = "their length"

    length: int = Field(gt=0, description="a whole number above 0. Characters that an answer should have.")

    def score(self, asked: Asked) -> float:
        return 1 / (1 + abs(len(asked.answer) - self.length))


GRADERS = (LengthGrader,)
'''


def test_a_grader_in_one_file_grades_a_study(tmp_path: Path) -> None:
    root = tmp_path / "stranger"
    before = Path(rankscope.__file__).parent
    after = shutil.copytree(before, root / "rankscope", ignore=shutil.ignore_patterns("__pycache__"))
    (after / "study" / "graders" / "length_grader.py").write_text(LENGTH, encoding="utf-8")
    suites = {
        "taught": {"path": "taught.jsonl", "domain": "trees", "kind": "recall"},
        "short": {"path": "short.jsonl", "kind": "recall", "max_new_tokens": 4, "grade": {"length": 5}},
    }
    study = tiny_study(tmp_path / "input", suites=suites, arms={"lora": {"ranks": [2], "learning_rate": 1e-2}})
    write_rows(tmp_path / "input" / "short.jsonl", [{"prompt": f"Tree {i}:", "completion": " oak"} for i in range(4)])
    done = subprocess.run(
        [sys.executable, "-m", "rankscope", "run", str(study), "--out", str(tmp_path / "out")],
        env=os.environ | {"PYTHONPATH": str(root)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    found = pd.read_parquet(tmp_path / "out" / "base" / "predictions.parquet")
    found = found[found["suite"] == "short"]
    assert list(found["score"]) == [1 / (1 + abs(len(text) - 5)) for text in found["predicted"]]
    resolved = yaml.safe_load((tmp_path / "out" / "study.yaml").read_text(encoding="utf-8"))
    assert resolved["suites"]["short"]["grade"] == {"length": 5}
