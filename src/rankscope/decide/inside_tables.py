"""Tables of what changed inside all runs, comparisons between arms, and whether any of it predicts forgetting.

Frames in, frames out. docs/measures.md, "Do the diagnostics predict forgetting?", has the formulas of the rank
correlations, what chance would give, and what they cannot say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import rankdata

from rankscope.decide.change_tables import RUN

Floats = NDArray[np.float64]
Directions = Mapping[str, NDArray[np.floating[Any]]]
"""Orthonormal columns (out, k) by module: the leading left singular vectors of a run's change."""

FEWEST_RUNS = 8
DRAWS = 2000
SUBSPACES = ["model", "train_set", "arm", "seed", "other_arm", "other_seed", "module", "layer", "kind", "i", "j"]
SUBSPACES += ["similarity"]
OVERLAPS = ["model", "train_set", "seed", "layer", "arm", "suite", "other_arm", "other_suite", "overlap", "chance"]
DIAGNOSTICS = ["model", "train_set", "measure", "of", "runs", "correlation", "low", "high", "partial", "partial_low"]
DIAGNOSTICS += ["partial_high", "p", "p_corrected", "measures_tried", "predicts", "reason"]


def joined(frames: Mapping[str, pd.DataFrame], runs: pd.DataFrame) -> pd.DataFrame:
    """One table of all runs' frames (by run id), each row with its model, train_set, arm and seed in front."""
    named = runs.set_index("run_id")
    parts = []
    for run_id, frame in frames.items():
        if len(frame):
            values = {column: named.loc[run_id, column] for column in RUN}
            front = pd.DataFrame({c: [v] * len(frame) for c, v in values.items()})
            parts.append(pd.concat([front, frame.reset_index(drop=True)], axis=1))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=RUN)


def subspace_similarity(left: NDArray[Any], other: NDArray[Any]) -> float:
    """How much two subspaces have in common: 0 where they are at right angles, 1 where one holds the other.

    phi(i, j) = ||U_i^T U_j||_F^2 / min(i, j) for orthonormal columns (out, i) and (out, j), arXiv 2106.09685, eq. 4.
    """
    crossed = np.asarray(left, dtype=np.float64).T @ np.asarray(other, dtype=np.float64)
    return float((crossed**2).sum() / min(crossed.shape))


def subspaces(directions: Mapping[str, Directions], spectra: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """One row for each module and pair of runs of one base model and training set: arms with the same seed, and seeds
    of the same arm, which show what chance and the common data give."""
    known = spectra.drop_duplicates("module").to_dict("records") if len(spectra) else []
    places = {row["module"]: (row["layer"], row["kind"]) for row in known}
    rows = []
    for one, other in _pairs(runs[runs["run_id"].isin(list(directions))]):
        both = directions[one["run_id"]].keys() & directions[other["run_id"]].keys()
        for module in sorted(both):
            left, right = directions[one["run_id"]][module], directions[other["run_id"]][module]
            layer, kind = places.get(module, (None, module))
            named = [one["model"], one["train_set"], one["arm"], one["seed"], other["arm"], other["seed"]]
            sizes = [left.shape[1], right.shape[1], subspace_similarity(left, right)]
            rows.append([*named, module, layer, kind, *sizes])
    return pd.DataFrame(rows, columns=SUBSPACES)


def _pairs(runs: pd.DataFrame) -> Iterator[tuple[dict[Any, Any], dict[Any, Any]]]:
    for _, group in runs.groupby(["model", "train_set"], sort=True):
        for one, other in combinations(group.to_dict("records"), 2):
            if (one["seed"] == other["seed"]) != (one["arm"] == other["arm"]):
                yield one, other


def neuron_overlaps(neurons: pd.DataFrame) -> pd.DataFrame:
    """Jaccard index of the most changed units, by layer: two arms on one suite, and two suites in one arm.

    `chance` is about what sets drawn at random would have: k^2 / n over 2k - k^2 / n.
    """
    if neurons.empty:
        return pd.DataFrame(columns=OVERLAPS)
    rows = []
    for keys, group in neurons.groupby(["model", "train_set", "seed", "layer"], sort=True):
        for one, other in combinations(group.to_dict("records"), 2):
            if (one["arm"] == other["arm"]) == (one["suite"] == other["suite"]):
                continue
            mine, theirs = set(one["top_units"]), set(other["top_units"])
            if mine and theirs:
                index = len(mine & theirs) / len(mine | theirs)
                common = len(mine) * len(theirs) / one["units"]
                chance = common / (len(mine) + len(theirs) - common)
                rows.append([*keys, one["arm"], one["suite"], other["arm"], other["suite"], index, chance])
    return pd.DataFrame(rows, columns=OVERLAPS)


# ---- one number a run for each measure ------------------------------------------------------------------------------

Measure = tuple[str, str, Callable[[pd.DataFrame], "pd.Series[float]"]]


def _column(name: str) -> Callable[[pd.DataFrame], pd.Series[float]]:
    return lambda frame: pd.to_numeric(frame[name]).astype(float)


def _moved(name: str) -> Callable[[pd.DataFrame], pd.Series[float]]:
    return lambda frame: (pd.to_numeric(frame[name]) - pd.to_numeric(frame[f"{name}_base"])).astype(float)


MEASURES: dict[str, Measure] = {
    "relative norm": ("spectra", "of the change", _column("relative_norm")),
    "spectral norm": ("spectra", "of the change", _column("spectral_norm")),
    "stable rank": ("spectra", "of the change", _column("stable_rank")),
    "effective rank": ("spectra", "of the change", _column("effective_rank")),
    "energy rank 90 %": ("spectra", "of the change", _column("energy_rank_90")),
    "utilisation": ("spectra", "of the change", _column("utilisation")),
    "singular vectors kept, top 10": ("spectra", "of the weight", _column("preservation_10")),
    "singular vectors kept, top 500": ("spectra", "of the weight", _column("preservation_500")),
    "intruder dimensions": ("spectra", "of the weight", _column("intruders")),
    "energy of intruders": ("spectra", "of the weight", _column("intruder_energy")),
    "CKA to the base": ("hidden", "of hidden states", _column("cka")),
    "cosine drift": ("hidden", "of hidden states", _column("cosine_drift")),
    "Procrustes residual": ("hidden", "of hidden states", _column("procrustes")),
    "effective rank of states": ("hidden", "of hidden states", _moved("effective_rank")),
    "attention divergence": ("attention", "of attention", _column("divergence")),
    "attention entropy": ("attention", "of attention", _moved("entropy")),
    "attention distance": ("attention", "of attention", _moved("distance")),
    "first-token mass": ("attention", "of attention", _moved("first_token")),
    "neuron means": ("neurons", "of neurons", _column("mean_change")),
    "firing rates": ("neurons", "of neurons", _column("firing_change")),
}
"""Each measure: its table, what it is of, and its value in a row; a run's value is the mean over its rows."""


def measures_by_run(tables: Mapping[str, pd.DataFrame], scores: pd.DataFrame) -> pd.DataFrame:
    """Averages each measure over a run's rows: RUN, given_rank, and a column for each of MEASURES.

    `tables` are those of `joined`, by name; what has suites is taken outside the training domain.
    """
    relations = scores[["train_set", "suite", "relation"]].drop_duplicates()
    columns: list[pd.Series[float]] = []
    for name, (table, _, value) in MEASURES.items():
        frame = tables.get(table, pd.DataFrame())
        if frame.empty:
            continue
        if "suite" in frame.columns:
            frame = frame.merge(relations, on=["train_set", "suite"], how="left")
            frame = frame[frame["relation"] != "in-domain"]
        columns.append(_by_run(frame, value(frame)).rename(name))
    spectra = tables.get("spectra", pd.DataFrame())
    if len(spectra):
        columns.append(_by_run(spectra, spectra["rank"].astype(float)).rename("given_rank"))
    if not columns:
        return pd.DataFrame(columns=[*RUN, "given_rank"])
    found = pd.concat(columns, axis=1).reset_index()
    return found if "given_rank" in found.columns else found.assign(given_rank=np.nan)


def _by_run(frame: pd.DataFrame, values: pd.Series[float]) -> pd.Series[float]:
    return values.groupby([frame[column] for column in RUN]).mean()


# ---- do they predict forgetting? ------------------------------------------------------------------------------------


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
    x: Floats, y: Floats, given: Floats, rng: np.random.Generator, draws: int = DRAWS // 4
) -> tuple[Floats, Floats]:
    """Both correlations on runs drawn with replacement, (draws,) each; NaN where a draw has none."""
    plain, partial = np.full(draws, np.nan), np.full(draws, np.nan)
    chosen = rng.integers(0, len(x), (draws, len(x)))
    ranks = (rankdata(x[chosen], axis=1), rankdata(y[chosen], axis=1), rankdata(given[chosen], axis=1))
    for k, (of_x, of_y, of_given) in enumerate(zip(*ranks, strict=True)):
        plain[k] = _pearson(of_x, of_y)
        if (found := _residuals(of_x, of_y, of_given)) is not None:
            partial[k] = _pearson(*found)
    return plain, partial


def permutation_p(x: Floats, y: Floats, given: Floats, rng: np.random.Generator, draws: int = DRAWS) -> float:
    """Two-sided: the share of permutations of x's residuals that correlate with y's at least as strongly (Freedman &
    Lane 1983); the observed one is counted."""
    left = _residuals(*_ranks(x, y, given))
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
