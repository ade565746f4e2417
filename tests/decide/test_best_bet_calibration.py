"""The bet's calibration at a small scale: simulated families of truths, a few studies each, wide tolerances."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def calibration() -> Any:
    sys.path.insert(0, str(BENCHMARKS))
    try:
        import bet_calibration
    finally:
        sys.path.remove(str(BENCHMARKS))
    return bet_calibration


@pytest.fixture(scope="module")
def rows(calibration: Any) -> list[dict[str, Any]]:
    """Four studies of each of eighteen families, three seeds and 400 items."""
    return [
        calibration.one_study(np.random.default_rng([number, study]), family, 3, 400)
        for number, family in enumerate(calibration.EVERY)
        for study in range(4)
    ]


def test_bets_are_right_about_as_often_as_they_say(rows: list[dict[str, Any]]) -> None:
    said, right = (float(np.mean([row[name] for row in rows])) for name in ("said", "right_bet"))
    assert -0.08 < right - said < 0.15
    sure = [row["right_bet"] for row in rows if row["said"] >= 0.8]
    assert len(sure) > 0.35 * len(rows)
    assert np.mean(sure) > 0.85


def test_bets_cost_less_than_other_ways_to_choose(calibration: Any, rows: list[dict[str, Any]]) -> None:
    cost = {way: float(np.mean([row[way] for row in rows])) for way in ("bet", *calibration.PEERS)}
    assert cost["bet"] < 0.8 * min(cost[way] for way in ("argmax", "loss", "r16", "r64"))
    assert cost["bet"] < cost["plug_in"]


def test_the_figures_of_the_file(calibration: Any, rows: list[dict[str, Any]]) -> None:
    """The bins hold every study once; Brier and regrets are those of a loop over the studies."""
    found = calibration.summary(rows)
    pooled = [one for one in found["reliability"] if one["family"] == "all"]
    assert sum(one["n"] for one in pooled) == len(rows)
    assert all(one["low"] <= one["predicted"] <= one["high"] for one in pooled)
    brier = sum((row["said"] - row["right_bet"]) ** 2 for row in rows) / len(rows)
    assert found["brier"] == pytest.approx(brier)
    flat = [row["bet"] for row in rows if row["family"] == "flat"]
    assert found["regret"][0]["family"] == "flat"
    assert found["regret"][0]["bet"] == pytest.approx(sum(flat) / len(flat))
    assert len(found["regret"]) == 18
    assert [one["family"] for one in found["families"] if one["held_out"]] == [
        "two plateaus", "large arms forget less", "full stands apart", "small gains and wild seeds",
    ]  # fmt: skip
