"""Does what changed inside the runs predict what they forget, beyond rank and learning rate?

Rank correlations over runs. The runs of one arm with several seeds are alike, so that chance is asked of whole arms:
they are permuted, and drawn again, with all their runs. docs/measures.md, "Do the diagnostics predict forgetting?", has
the formulas, what chance would give, and what they cannot say.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import permutations
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import rankdata

from rankscope.decide.change_tables import RUN
from rankscope.decide.inside_tables import MEASURES

Floats = NDArray[np.float64]
Numbers = NDArray[np.int64]

FEWEST_RUNS = 8
FEWEST_ARMS = 5
"""With fewer there are fewer than 120 ways to permute them: hardly anything could be told from chance."""
DRAWS = 2000
DIAGNOSTICS = ["model", "train_set", "measure", "of", "runs", "correlation", "low", "high", "partial", "partial_low"]
DIAGNOSTICS += ["partial_high", "p", "p_corrected", "measures_tried", "predicts", "reason"]


def diagnose(values: pd.DataFrame, forgetting: pd.DataFrame, runs: pd.DataFrame, *, confidence: float) -> pd.DataFrame:
    """Correlates each measure with forgetting over runs: one row for each base model, training set and measure.

    `values` is of `measures_by_run`, `forgetting` of `change_tables.forgetting_by_run`; `runs` has each run's
    learning_rate. The columns are DIAGNOSTICS.
    """
    frame = values.merge(forgetting, on=RUN).merge(runs[[*RUN, "learning_rate"]], on=RUN)
    parts = [
        _one(group, str(model), str(train_set), confidence)
        for (model, train_set), group in frame.groupby(["model", "train_set"], sort=True)
    ]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=DIAGNOSTICS)


def _one(group: pd.DataFrame, model: str, train_set: str, confidence: float) -> pd.DataFrame:
    names = [name for name in MEASURES if name in group.columns]
    whole = group.dropna(subset=["forgetting", "given_rank", "learning_rate"])
    rows: list[dict[str, Any]] = []
    for name in names:
        known = whole.dropna(subset=[name])
        row = {"model": model, "train_set": train_set, "measure": name, "of": MEASURES[name][1], "runs": len(known)}
        rows.append(dict.fromkeys(DIAGNOSTICS) | row | _measured(known, name, confidence))
    _correct(rows, confidence)
    return pd.DataFrame(rows, columns=DIAGNOSTICS)


def _measured(known: pd.DataFrame, name: str, confidence: float) -> dict[str, Any]:
    outcome, measure = (known[column].to_numpy(dtype=float) for column in ("forgetting", name))
    if len(known) < FEWEST_RUNS:
        return {"reason": f"{len(known)} runs: at least {FEWEST_RUNS} are needed"}
    if np.ptp(measure) == 0 or np.ptp(outcome) == 0:
        return {"reason": "the same in every run"}
    known = known.sort_values(["arm", "seed"])  # the seeds of two arms that change places are matched in this order
    outcome, measure = (known[column].to_numpy(dtype=float) for column in ("forgetting", name))
    arms = pd.factorize(known["arm"])[0].astype(np.int64)
    if int(arms.max()) + 1 < FEWEST_ARMS:
        return {"reason": f"{int(arms.max()) + 1} arms: at least {FEWEST_ARMS} are needed, seeds of one arm are alike"}
    given = np.log(known[["given_rank", "learning_rate"]].to_numpy(dtype=float))
    rng = np.random.default_rng(0)
    plain, partial = rank_correlation(measure, outcome), partial_rank_correlation(measure, outcome, given)
    plain_draws, partial_draws = bootstrap(measure, outcome, given, arms, rng)
    tails = [(1 - confidence) / 2, (1 + confidence) / 2]
    low, high = np.nanquantile(plain_draws, tails) if np.isfinite(plain_draws).any() else (None, None)
    found: dict[str, Any] = {"correlation": plain, "low": low, "high": high}
    if partial is None:
        return found | {"reason": "rank and learning rate leave nothing of it to compare"}
    low, high = np.nanquantile(partial_draws, tails) if np.isfinite(partial_draws).any() else (None, None)
    p = permutation_p(measure, outcome, given, arms, rng)
    return found | {"partial": partial, "partial_low": low, "partial_high": high, "p": p}


def rank_correlation(x: Floats, y: Floats) -> float:
    """Spearman's: Pearson's of the ranks, ties shared; NaN where one is constant."""
    return _pearson(rankdata(x), rankdata(y))


def partial_rank_correlation(x: Floats, y: Floats, given: Floats) -> float | None:
    """Pearson's correlation of what a straight line in the ranks of `given` (n, c) leaves of the ranks of x and of y.

    None where it leaves nothing.
    """
    left = _residuals(*_ranks(x, y, given))
    return None if left is None else _pearson(*left)


def _ranks(x: Floats, y: Floats, given: Floats) -> tuple[Floats, Floats, Floats]:
    return rankdata(x), rankdata(y), rankdata(given, axis=0)


def _residuals(x: Floats, y: Floats, given: Floats) -> tuple[Floats, Floats] | None:
    """What a straight line in `given` leaves of x and of y, all of them ranks; None where it leaves nothing."""
    design, both = np.column_stack([np.ones(len(x)), given]), np.column_stack([x, y])
    coefficients, _, design_rank, _ = np.linalg.lstsq(design, both, rcond=None)
    left = both - design @ coefficients
    sizes = (left**2).sum(axis=0)
    whole = ((both - both.mean(axis=0)) ** 2).sum(axis=0)
    if len(x) - design_rank < 2 or (sizes <= 1e-9 * np.maximum(whole, 1e-300)).any():
        return None
    return left[:, 0], left[:, 1]


def _pearson(x: Floats, y: Floats) -> float:
    x, y = x - x.mean(), y - y.mean()
    size = np.sqrt((x @ x) * (y @ y))
    return float(x @ y / size) if size > 0 else float("nan")


def bootstrap(
    x: Floats, y: Floats, given: Floats, arms: Numbers, rng: np.random.Generator, draws: int = DRAWS // 4
) -> tuple[Floats, Floats]:
    """Both correlations on arms drawn with replacement, each with all its runs, (draws,) each; NaN where a draw has
    none. `arms` (n,) numbers each run's arm from 0."""
    plain, partial = np.full(draws, np.nan), np.full(draws, np.nan)
    runs_of = [np.flatnonzero(arms == arm) for arm in range(int(arms.max()) + 1)]
    drawn = [
        np.concatenate([runs_of[arm] for arm in order])
        for order in rng.integers(0, len(runs_of), (draws, len(runs_of)))
    ]
    lengths = np.array([len(chosen) for chosen in drawn])
    for length in np.unique(lengths):  # of one length where every arm has as many runs: ranked in one go
        places = np.flatnonzero(lengths == length)
        chosen = np.stack([drawn[k] for k in places])
        ranks = [rankdata(values[chosen], axis=1) for values in (x, y, given)]
        for k, *parts in zip(places, *ranks, strict=True):
            plain[k] = _pearson(parts[0], parts[1])
            if (found := _residuals(*parts)) is not None:
                partial[k] = _pearson(*found)
    return plain, partial


def permutation_p(
    x: Floats, y: Floats, given: Floats, arms: Numbers, rng: np.random.Generator, draws: int = DRAWS
) -> float:
    """Two-sided: the share of permutations of x's residuals that correlate with y's at least as strongly, whole arms
    at a time (Freedman & Lane 1983).

    What is compared is the partial correlation: of permuted residuals `given` explains a part again, which is taken out
    again, since with few arms p would be far too small without. `arms` (n,) numbers each run's arm from 0, its runs in
    one order. Where arms have unlike numbers of runs their means are permuted. All permutations are taken where there
    are at most `draws`, else as many drawn ones and the present one.
    """
    parts: Sequence[Floats] = _ranks(x, y, given)
    runs_of = [np.flatnonzero(arms == arm) for arm in range(int(arms.max()) + 1)]
    if len({len(runs) for runs in runs_of}) > 1:
        parts = tuple(np.array([part[runs].mean(axis=0) for runs in runs_of]) for part in parts)
        runs_of = [np.array([arm]) for arm in range(len(runs_of))]
    left = _residuals(parts[0], parts[1], parts[2])
    if left is None:
        return float("nan")
    orders = _orders(len(runs_of), rng, draws)
    moved = left[0][np.array(runs_of)[orders].reshape(len(orders), -1)]  # (D, n), in the order of `places`
    places = np.concatenate(runs_of)
    basis = np.linalg.qr(np.column_stack([np.ones(len(places)), parts[2][places]]))[0]
    remains = moved - (moved @ basis) @ basis.T
    sizes = np.sqrt((remains**2).sum(axis=1))
    strength = np.abs(moved @ left[1][places]) / np.maximum(sizes, 1e-12)
    return float((strength >= strength[0] * (1 - 1e-9)).mean())


def _orders(count: int, rng: np.random.Generator, draws: int) -> Numbers:
    """Orders (D, count) of `count` things, the present one first: all where there are at most `draws`, else as many
    random ones."""
    if math.factorial(count) <= draws:
        return np.array(list(permutations(range(count))))
    random = np.argsort(rng.random((draws, count)), axis=1)
    return np.vstack([np.arange(count), random])


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
