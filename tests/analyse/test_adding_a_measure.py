"""A stranger adds a spectral measure: a function and a line, in two files; it is then in the tables and on the page."""

from __future__ import annotations

import filecmp
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tiny_study import tiny_study

import rankscope

pytestmark = pytest.mark.slow

SOURCE = Path(rankscope.__file__).parent

MEASURE = '''
@of_change
def participation(change: Change) -> float | None:
    """(sum of the singular values)^2 over the sum of their squares."""
    return float(change.values.sum()) ** 2 / change.energy if change.energy > 0 else None

'''
LINE = '    MatrixMap("participation", "Participation ratio of the toy", "directions", ".2f"),\n'
EDITS = {
    "analyse/update_spectra.py": ("\n@of_change\ndef effective_rank", MEASURE),
    "report/weight_charts.py": ('    MatrixMap("intruders"', LINE),
}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A copy of the package with the two edits."""
    copy = tmp_path / "source" / "rankscope"
    shutil.copytree(SOURCE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    for name, (before, new) in EDITS.items():
        text = (copy / name).read_text(encoding="utf-8")
        assert text.count(before) == 1
        (copy / name).write_text(text.replace(before, new + before), encoding="utf-8")
    return copy


def python(source: Path, *words: object) -> str:
    environment = {**os.environ, "PYTHONPATH": str(source.parent), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_measure_is_a_function_and_a_line(source: Path, tmp_path: Path) -> None:
    files = [path.relative_to(SOURCE).as_posix() for path in SOURCE.rglob("*.py")]
    assert set(filecmp.cmpfiles(SOURCE, source, files, shallow=False)[1]) == set(EDITS)
    study = tiny_study(
        tmp_path / "input", seeds=[0], arms={"lora": {"ranks": [2], "learning_rate": 1e-2}},
        analysis={"enabled": True, "probe_items": 4, "derived": False},
    )  # fmt: skip
    out = tmp_path / "out"
    python(source, "-m", "rankscope", "run", study, "--out", out)
    table = pd.read_parquet(out / "tables" / "spectra.parquet")
    (own,) = out.glob("runs/*/analysis/spectra.parquet")
    assert pd.read_parquet(own)["participation"].tolist() == table["participation"].tolist()
    values = np.array(table["singular_values"].tolist())  # (modules, 2): all there are of a rank of 2
    expected = values.sum(1) ** 2 / (values**2).sum(1)
    assert table["participation"].to_numpy() == pytest.approx(expected)
    assert np.ptp(expected) > 0
    assert "Participation ratio of the toy" in (out / "report.html").read_text(encoding="utf-8")
    shown = python(source, "-c", f"import rankscope; print(*rankscope.load({str(out)!r}).tables['spectra'])")
    assert "participation" in shown.split()
