"""The simulated choice of settings before the sure verdict: by the real rule, and judged on what is true of it."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from rankscope.study.study import Decision

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))

from verdict_selection import ARMS, FAMILIES, STRENGTHS, chosen_settings, selected_row


def test_the_truths_are_as_the_families_are_named() -> None:
    for seed in range(20):
        _, lost = FAMILIES["several candidates just over the margin"](np.random.default_rng(seed))
        assert ((lost > 3).sum(axis=1) >= 9).all()
        assert (lost[lost > 3] < 3.7).all()
        assert (lost.min(axis=1) < 2).all()
        _, lost = FAMILIES["one arm without an admissible rate"](np.random.default_rng(seed))
        without = (lost > 3).all(axis=1)
        assert without.sum() == 1
        assert (lost[~without].min(axis=1) < 2).all()


def test_what_surely_keeps_is_chosen_for_its_loss_and_what_surely_forgets_never() -> None:
    gain = np.tile(20 + 5 * STRENGTHS.ravel(), (ARMS, 1))
    lost = np.where(np.arange(12) < 6, -12.0, 40.0) * np.ones((ARMS, 1))
    for seed in range(5):
        places, without = chosen_settings(np.random.default_rng(seed), gain, lost, Decision())
        assert without == 0
        assert (places < 6).all()
    lost[2] = 40.0
    assert chosen_settings(np.random.default_rng(0), gain, lost, Decision())[1] == 1


@pytest.mark.parametrize("name", FAMILIES)
def test_a_row_has_shares_of_its_studies(name: str) -> None:
    row = selected_row(name, 3, 100, 2, Decision(), 0)
    assert row["studies"] == 2
    for share in ("wrong", "decided", "over", "unadmitted", "adaptive_wrong", "wrong_argmax"):
        assert 0 <= row[share] <= 1
    assert row["wrong"] <= row["decided"]
