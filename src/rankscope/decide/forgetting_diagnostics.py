"""Do the measures of what changed inside predict forgetting? Rank correlations over runs, with what chance would give.

docs/measures.md, "Do the diagnostics predict forgetting?", holds the formulas and what they cannot say.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import rankdata

from rankscope.decide.inside_tables import MEASURES, RUN

Floats = NDArray[np.float64]

FEWEST_RUNS = 8
DRAWS = 2000
COLUMNS = ["model", "train_set", "measure", "of", "runs", "correlation", "low", "high"]
COLUMNS += ["partial", "partial_low", "partial_high", "p", "p_corrected", "measures_tried", "predicts", "reason"]


def diagnose(values: pd.DataFrame, forgetting: pd.DataFrame, runs: pd.DataFrame, *, confidence: float) -> pd.DataFrame:
    """One row for each measure, base model and training set: COLUMNS.

    `values` is inside.measures_by_run, `forgetting` inside.forgetting_by_run; `runs` has each run's learning_rate.
    """
    frame = values.merge(forgetting, on=RUN).merge(runs[[*RUN, "learning_rate"]], on=RUN)
    parts = [
        _one(group, str(model), str(train_set), confidence)
        for (model, train_set), group in frame.groupby(["model", "train_set"], sort=True)
    ]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=COLUMNS)


def _one(group: pd.DataFrame, model: str, train_set: str, confidence: float) -> pd.DataFrame:
    names = [name for name in MEASURES if name in group.columns]
    whole = group.dropna(subset=["forgetting", "given_rank", "learning_rate"])
    rows: list[dict[str, Any]] = []
    for name in names:
        known = whole.dropna(subset=[name])
        row = {"model": model, "train_set": train_set, "measure": name, "of": MEASURES[name][1], "runs": len(known)}
        rows.append(dict.fromkeys(COLUMNS) | row | _measured(known, name, confidence))
    _correct(rows, confidence)
    return pd.DataFrame(rows, columns=COLUMNS)


def _measured(known: pd.DataFrame, name: str, confidence: float) -> dict[str, Any]:
    outcome, measure = (known[column].to_numpy(dtype=float) for column in ("forgetting", name))
    if len(known) < FEWEST_RUNS:
        return {"reason": f"{len(known)} runs: at least {FEWEST_RUNS} are needed"}
    if np.ptp(measure) == 0 or np.ptp(outcome) == 0:
        return {"reason": "the same in every run"}
    given = np.log(known[["given_rank", "learning_rate"]].to_numpy(dtype=float))
    rng = np.random.default_rng(0)
    plain, partial = rank_correlation(measure, outcome), partial_rank_correlation(measure, outcome, given)
    plain_draws, partial_draws = bootstrap(measure, outcome, given, rng)
    tails = [(1 - confidence) / 2, (1 + confidence) / 2]
    low, high = np.nanquantile(plain_draws, tails) if np.isfinite(plain_draws).any() else (None, None)
    found: dict[str, Any] = {"correlation": plain, "low": low, "high": high}
    if partial is None:
        return found | {"reason": "rank and learning rate leave nothing of it to compare"}
    low, high = np.nanquantile(partial_draws, tails) if np.isfinite(partial_draws).any() else (None, None)
    p = permutation_p(measure, outcome, given, rng)
    return found | {"partial": partial, "partial_low": low, "partial_high": high, "p": p}


def rank_correlation(x: Floats, y: Floats) -> float:
    """Spearman's: Pearson's of the ranks, ties shared; NaN where one is constant."""
    return _pearson(rankdata(x), rankdata(y))


def partial_rank_correlation(x: Floats, y: Floats, given: Floats) -> float | None:
    """Pearson's correlation of what a straight line in the ranks of `given` (n, c) leaves of the ranks of x and of y.

    None where it leaves nothing.
    """
    left = _residuals(x, y, given)
    if left is None:
        return None
    return _pearson(*left)


def _residuals(x: Floats, y: Floats, given: Floats) -> tuple[Floats, Floats] | None:
    design = np.column_stack([np.ones(len(x)), rankdata(given, axis=0)])
    both = np.column_stack([rankdata(x), rankdata(y)])
    left = both - design @ np.linalg.lstsq(design, both, rcond=None)[0]
    sizes = (left**2).sum(axis=0)
    whole = ((both - both.mean(axis=0)) ** 2).sum(axis=0)
    if len(x) - np.linalg.matrix_rank(design) < 2 or (sizes <= 1e-9 * np.maximum(whole, 1e-300)).any():
        return None
    return left[:, 0], left[:, 1]


def _pearson(x: Floats, y: Floats) -> float:
    x, y = x - x.mean(), y - y.mean()
    size = np.sqrt((x @ x) * (y @ y))
    return float(x @ y / size) if size > 0 else float("nan")


def bootstrap(
    x: Floats, y: Floats, given: Floats, rng: np.random.Generator, draws: int = DRAWS // 4
) -> tuple[Floats, Floats]:
    """Both correlations on runs drawn with replacement, (draws,) each; NaN where a draw has none."""
    plain, partial = np.full(draws, np.nan), np.full(draws, np.nan)
    for k in range(draws):
        chosen = rng.integers(0, len(x), len(x))
        plain[k] = rank_correlation(x[chosen], y[chosen])
        if (found := partial_rank_correlation(x[chosen], y[chosen], given[chosen])) is not None:
            partial[k] = found
    return plain, partial


def permutation_p(x: Floats, y: Floats, given: Floats, rng: np.random.Generator, draws: int = DRAWS) -> float:
    """Two-sided: the share of permutations of x's residuals that correlate with y's at least as strongly (Freedman &
    Lane 1983); the observed one is counted."""
    left = _residuals(x, y, given)
    if left is None:
        return float("nan")
    mine, other = (side - side.mean() for side in left)
    observed = abs(float(mine @ other))
    permuted = np.array([abs(float(rng.permutation(mine) @ other)) for _ in range(draws)])
    return float((1 + (permuted >= observed * (1 - 1e-12)).sum()) / (draws + 1))


def holm(values: Sequence[float]) -> list[float]:
    """p values corrected for their number (Holm 1979), in the given order."""
    order = np.argsort(values)
    corrected, running = [0.0] * len(values), 0.0
    for position, index in enumerate(order):
        running = max(running, min(1.0, (len(values) - position) * values[index]))
        corrected[index] = running
    return corrected


def _correct(rows: list[dict[str, Any]], confidence: float) -> None:
    tested = [row for row in rows if row["p"] is not None]
    for row, corrected in zip(tested, holm([row["p"] for row in tested]), strict=True):
        row["p_corrected"], row["measures_tried"] = corrected, len(tested)
        row["predicts"] = "yes" if corrected <= 1 - confidence else "no"
