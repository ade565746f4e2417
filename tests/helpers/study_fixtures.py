"""Study files written on the spot, with the data files that they name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from made_facts import STUDY

from rankscope.study.problems import InputProblems
from rankscope.study.read_study import read_study
from rankscope.study.study import Study


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], Path]:
    """Writes a study file beside the data files that it names."""
    for name in ("train.jsonl", "test.jsonl", "law.jsonl"):
        (tmp_path / name).write_text('{"text": "x"}\n')

    def file(text: str = STUDY) -> Path:
        path = tmp_path / "study.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return file


@pytest.fixture
def read(write: Callable[[str], Path]) -> Callable[..., Study]:
    """Reads a study of this text, with these overrides."""
    return lambda text=STUDY, *overrides: read_study(write(text), overrides)


@pytest.fixture
def lines(write: Callable[[str], Path], tmp_path: Path) -> Callable[..., list[str]]:
    """The lines that a study of this text is refused with, the folder's path taken out."""

    def refused(text: str, *overrides: str) -> list[str]:
        with pytest.raises(InputProblems) as caught:
            read_study(write(text), overrides)
        found = [str(problem).replace(f"{tmp_path}/", "") for problem in caught.value.problems]
        assert all("\n" not in line and "pydantic" not in line and "http" not in line for line in found)
        return found

    return refused
