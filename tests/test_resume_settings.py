"""A study whose settings are searched, killed in its search and at its dials, ends as one that was never killed."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from test_resume import assert_same, finish, start
from tiny_study import tiny_study

ARMS = {"lora": {"ranks": [2, 4], "learning_rate": "auto"}}

MOMENTS: list[Callable[[Path], bool]] = [
    lambda out: any(out.glob("searches/*/rungs.json")),
    lambda out: any(out.glob("searches/*/search.json")),
    lambda out: (out / "settings.json").exists(),
    lambda out: any(out.glob("runs/*/dials/*.parquet")),
]


@pytest.mark.slow
def test_killed_in_the_search_and_at_a_dial(tmp_path: Path) -> None:
    study = tiny_study(
        tmp_path / "input", arms=ARMS, seeds=[0], dial=[0.5, 1], selection={"min_items": 8},
        checkpoint={"minutes": 0.001}, execution={"arms_together": 1, "micro_batch_tokens": 4096},
    )  # fmt: skip
    finish(start(study, tmp_path / "whole"))
    out, kills = tmp_path / "out", 0
    for reached in MOMENTS:
        process = start(study, out)
        while process.poll() is None and not reached(out):
            time.sleep(0.02)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            kills += 1
        process.communicate()
    assert kills >= 2
    finish(start(study, out))
    assert_same(out, tmp_path / "whole")
