"""rankscope: which LoRA rank, or full fine-tuning, for my model and my data, and what will the model forget?

>>> study = rankscope.load("demo")  # in a notebook: the answer; study.tables["scores"], study.chart("trade_off")
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rankscope.results.notebook import Results

__version__ = "0.2.0"
__all__ = ["__version__", "load"]


def load(folder: str | Path) -> Results:
    """The verdict, tables and charts in a study folder. Raises `study.problems.InputProblems` where there are none."""
    from rankscope.results.notebook import load as load_results  # pandas and altair are imported where they are needed

    return load_results(folder)
