"""Tables of what changed inside all runs, and comparisons between arms. Frames in, frames out.

`forgetting_diagnostics.py` asks whether any of it predicts forgetting.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from rankscope.decide.change_tables import RUN

Floats = NDArray[np.float64]
Directions = Mapping[str, NDArray[np.floating[Any]]]
"""Orthonormal columns (out, k) by module: the leading left singular vectors of a run's change."""

SUBSPACES = ["model", "train_set", "arm", "seed", "other_arm", "other_seed", "module", "layer", "kind", "i", "j"]
SUBSPACES += ["similarity"]
OVERLAPS = ["model", "train_set", "seed", "layer", "arm", "suite", "other_arm", "other_suite", "overlap", "chance"]


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
