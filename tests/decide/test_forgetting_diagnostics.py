"""Whether what changed inside predicts forgetting, on made frames with known answers."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
from made_inside import runs_frame
from scipy.stats import rankdata, spearmanr
from statsmodels.stats.multitest import multipletests

from rankscope.decide.forgetting_diagnostics import (
    FEWEST_RUNS,
    diagnose,
    holm,
    partial_rank_correlation,
    permutation_p,
    rank_correlation,
)

RNG = np.random.default_rng(5)


def test_correlations_are_those_of_scipy_and_of_residuals() -> None:
    x, y, given = RNG.normal(size=20), RNG.normal(size=20), RNG.normal(size=(20, 2))
    assert rank_correlation(x, y) == pytest.approx(spearmanr(x, y).statistic)
    ranks = np.corrcoef(np.column_stack([rankdata(v) for v in (x, y, *given.T)]).T)
    precision = np.linalg.inv(ranks)
    expected = -precision[0, 1] / np.sqrt(precision[0, 0] * precision[1, 1])
    assert partial_rank_correlation(x, y, given) == pytest.approx(expected)
    assert partial_rank_correlation(given[:, 0] ** 3, y, given) is None, "the covariates' own ranks leave nothing"


def test_the_correction_is_holms() -> None:
    values = [0.01, 0.04, 0.03, 0.005, 0.5]
    assert holm(values) == pytest.approx(multipletests(values, method="holm")[1])


def test_p_values_are_even_where_there_is_nothing() -> None:
    """Permutation p over data without any relation: about 10 % are below 0.1."""
    rng = np.random.default_rng(0)
    below = 0
    for _ in range(200):
        x, y, given = rng.normal(size=14), rng.normal(size=14), rng.normal(size=(14, 2))
        below += permutation_p(x, y, given, np.arange(14), rng, 200) <= 0.1
    assert 8 <= below <= 34


def made_runs(seed: int, strength: float) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """24 runs of 8 arms in which one measure drives forgetting with `strength`, beyond rank and rate; another is only
    rank."""
    rng = np.random.default_rng(seed)
    runs = runs_frame(8, 3)
    rank = np.repeat(2.0 ** np.arange(8), 3)
    drift = rng.normal(size=24)
    values = runs[["model", "train_set", "arm", "seed"]].assign(
        **{"cosine drift": drift, "stable rank": rank**2, "relative norm": rng.normal(size=24), "given_rank": rank}
    )
    outcome = strength * drift + np.log(rank) + 0.3 * rng.normal(size=24)
    return values, values[["model", "train_set", "arm", "seed"]].assign(forgetting=outcome), runs


def test_a_measure_that_drives_forgetting_is_found_and_one_that_is_rank_alone_is_not() -> None:
    values, forgetting, runs = made_runs(0, 2.0)
    found = diagnose(values, forgetting, runs, confidence=0.95).set_index("measure")
    drift = found.loc["cosine drift"]
    assert (drift["predicts"], drift["measures_tried"]) == ("yes", 2)
    assert drift["partial_low"] > 0.3
    assert drift["p"] < drift["p_corrected"]
    rank = found.loc["stable rank"]
    assert rank["partial"] is None or np.isnan(rank["partial"])
    assert "leave nothing" in rank["reason"]
    assert found.loc["relative norm", "predicts"] == "no"


def test_nothing_is_said_of_few_runs_or_of_what_never_varies() -> None:
    values, forgetting, runs = made_runs(0, 2.0)
    few = diagnose(values.head(FEWEST_RUNS - 1), forgetting, runs, confidence=0.95)
    assert few["predicts"].isna().all()
    assert few["reason"].str.contains("at least 8").all()
    same = diagnose(values.assign(**{"cosine drift": 1.0}), forgetting, runs, confidence=0.95).set_index("measure")
    assert same.loc["cosine drift", "reason"] == "the same in every run"
    assert diagnose(values.head(0), forgetting, runs, confidence=0.95).empty


def test_all_orders_of_few_arms_are_taken() -> None:
    """Five arms of two runs against a loop over the definition: the partial correlation after each permutation."""
    rng = np.random.default_rng(2)
    x, y, given, arms = rng.normal(size=10), rng.normal(size=10), rng.normal(size=(10, 1)), np.repeat(np.arange(5), 2)
    design = np.column_stack([np.ones(10), rankdata(given, axis=0)])

    def left(values: np.ndarray) -> np.ndarray:
        return np.asarray(values - design @ np.linalg.lstsq(design, values, rcond=None)[0])

    of_x, of_y = left(rankdata(x)), left(rankdata(y))
    strengths = []
    for order in itertools.permutations(range(5)):
        moved = np.concatenate([of_x[2 * arm : 2 * arm + 2] for arm in order])
        strengths.append(abs(np.corrcoef(left(moved), of_y)[0, 1]))
    expected = np.mean(np.array(strengths) >= strengths[0] - 1e-12)
    assert permutation_p(x, y, given, arms, rng) == pytest.approx(expected)


def test_arms_with_unlike_numbers_of_runs_are_compared_by_their_means() -> None:
    rng = np.random.default_rng(3)
    arms = np.array([0, 0, 1, 1, 2, 2, 3, 3, 4, 5])
    p = permutation_p(rng.normal(size=10), rng.normal(size=10), rng.normal(size=(10, 1)), arms, rng)
    assert 0 < p <= 1
    assert p * 720 == pytest.approx(round(p * 720))  # all 6! orders of the arms


def test_unrelated_measures_that_differ_by_arm_rarely_predict() -> None:
    """Nine arms of three seeds; twelve measures and forgetting differ by arm, hardly by seed, and are unrelated.

    With single runs permuted 72 % of such studies had a measure that was said to predict.
    """
    rng = np.random.default_rng(4)
    arms = np.repeat(np.arange(9), 3)
    given = np.column_stack([arms, arms % 2]).astype(float)

    def column() -> np.ndarray:
        return np.repeat(rng.normal(size=9), 3) + 0.1 * rng.normal(size=27)

    found, single = [], []
    for _ in range(60):
        outcome, measures = column(), [column() for _ in range(12)]
        found.append(min(holm([permutation_p(m, outcome, given, arms, rng, 1000) for m in measures])) <= 0.05)
        single.append(min(holm([permutation_p(m, outcome, given, np.arange(27), rng, 1000) for m in measures])) <= 0.05)
    assert np.mean(found) <= 0.12
    assert np.mean(single) > 0.5


def test_few_arms_are_not_tested_however_many_seeds_they_have() -> None:
    runs = runs_frame(4, 6)
    keys = runs[["model", "train_set", "arm", "seed"]]
    values = keys.assign(**{"cosine drift": RNG.normal(size=24)}, given_rank=np.repeat([1.0, 4.0, 16.0, 64.0], 6))
    found = diagnose(values, keys.assign(forgetting=RNG.normal(size=24)), runs, confidence=0.95)
    assert found["reason"].str.contains("4 arms: at least 5").all()
    assert found["predicts"].isna().all()
