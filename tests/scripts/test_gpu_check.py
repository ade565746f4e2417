"""scripts/gpu_check.sh without a GPU: what it would run, its limits, and the table that it writes."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
SHELL = ("/bin/sh", "-c")


@pytest.fixture(scope="module")
def check() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_check", ROOT / "scripts" / "gpu_check.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["gpu_check"] = module  # a dataclass looks its module up
    spec.loader.exec_module(module)
    return module


ROW = {
    "work": "24 items", "peer": "lm-eval", "ours_seconds": 0.02, "peer_seconds": 0.03, "ratio": 1.5,
    "ours_peak_bytes": 2**20, "peer_peak_bytes": None, "max_difference": 3e-5, "machine": "a GPU", "reason": None,
}  # fmt: skip


def test_every_benchmark_that_takes_a_device_runs_or_is_left_out(check: ModuleType) -> None:
    scripts = {
        path.stem
        for path in (ROOT / "benchmarks").glob("*.py")
        if path.stem != "table" and ("parser_of(" in (text := path.read_text()) or '"--device"' in text)
        and "__main__" in text and "[--device cpu|cuda]" in text
    }  # fmt: skip
    run = {item.name for item in check.BENCHMARKS}
    assert run <= scripts
    assert run.isdisjoint(check.LEFT_OUT)
    assert scripts <= run | set(check.LEFT_OUT)


def test_the_table_says_how_tests_ended_what_was_cut_and_every_row(check: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "tests.txt").write_text("....\n===== 1 failed, 48 passed, 2 skipped in 130.52s (0:02:10) =====\n")
    (tmp_path / "tests-study.txt").write_text("collected 3 items\n")
    (tmp_path / "score_speed.json").write_text(json.dumps([ROW, {**ROW, "work": "more items", "reason": "no room"}]))
    (tmp_path / "analyse_speed.json").write_text('[{"work": "cut whi')
    train, score, analyse, remedies, plan, _ = check.BENCHMARKS
    ended = [
        check.Ended(train, check.OVERRAN, 150.2), check.Ended(score, 0, 9.0), check.Ended(analyse, 1, 3.0),
        check.Ended(remedies, None, 0.0), check.Ended(plan, 0, 2.0),
    ]  # fmt: skip
    lines = check.table(tmp_path, ended).splitlines()
    assert lines[:5] == [
        "- tests-study: no result",
        "- tests: 1 failed, 48 passed, 2 skipped in 130.52s",
        "- train_speed: cut after 150 s",
        "- analyse_speed: exit code 1, see analyse_speed.txt",
        "- remedies_cost: not begun, the 590 seconds were over",
    ]
    assert "Measured on a GPU." in lines
    assert lines.count("| 24 items | lm-eval | 0.02 | 0.03 | 1.50x | 1 |  | 3e-05 |") == 1
    assert any(line.startswith("| more items | lm-eval | no room") for line in lines)


def test_an_item_is_cut_at_its_limit_and_what_it_said_is_kept(
    check: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check, "LEAST_SECONDS", 0.1)
    item = check.Item("slow", ("echo so far; exec sleep 60",), 0.5)
    cut = check.run(item, tmp_path, 100, SHELL)
    assert cut.code == check.OVERRAN
    assert cut.seconds < 20
    assert (tmp_path / "slow.txt").read_text() == "so far\n"
    assert check.run(replace(item, seconds=60), tmp_path, 0.5, SHELL).code == check.OVERRAN, "no more is left"
    assert check.run(replace(item, words=("exit 3",)), tmp_path, 100, SHELL).code == 3
    assert check.run(item, tmp_path, 0.05, SHELL).code is None


def test_dry_says_what_would_run_and_runs_nothing(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHON": sys.executable}
    words = [str(ROOT / "scripts" / "gpu_check.sh"), str(tmp_path / "made"), "--dry"]
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "240 s at most: python -m pytest -q -n 0 -m cuda tests/cuda/test_study_on_cuda.py" in done.stdout
    assert "150 s at most: python benchmarks/train_speed.py --device cuda --quick --only cuda" in done.stdout
    assert [path.name for path in (tmp_path / "made").iterdir()] == ["table.md"]
    assert (tmp_path / "made" / "table.md").read_text().splitlines() == [
        "- tests-study: no result",
        "- tests: no result",
        "",
    ]
