"""What changed inside, of all runs together: tidy tables and comparisons between arms. Frames in, frames out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Directions = Mapping[str, NDArray[np.floating[Any]]]
"""Orthonormal columns (out, k) by module: the leading left singular vectors of a run's change."""

RUN = ["model", "train_set", "arm", "seed"]
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
    """phi(i, j) = ||U_i^T U_j||_F^2 / min(i, j) for orthonormal columns (out, i) and (out, j): 0 for spaces at right
    angles, 1 where one holds the other (arXiv 2106.09685, equation 4)."""
    crossed = np.asarray(left, dtype=np.float64).T @ np.asarray(other, dtype=np.float64)
    return float((crossed**2).sum() / min(crossed.shape))


def subspaces(directions: Mapping[str, Directions], spectra: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """One row for each module and pair of runs of one base model and training set: arms with the same seed, and seeds
    of the same arm, which show what chance and the common data give."""
    places = {}
    if len(spectra):
        unique = spectra.drop_duplicates("module")
        places = {
            m: (layer, kind) for m, layer, kind in zip(unique["module"], unique["layer"], unique["kind"], strict=True)
        }
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


def forgetting_by_run(scores: pd.DataFrame) -> pd.DataFrame:
    """model, train_set, arm, seed, forgetting: mean over the suites outside the training domain, each with the same
    weight, of the base's accuracy minus the run's; a run that lacks one of them is left out."""
    kept = scores[scores["kind"].notna() & (scores["relation"] != "in-domain") & scores["accuracy"].notna()]
    base = kept[kept["arm"] == "base"][["model", "train_set", "suite", "accuracy"]]
    arms = kept[kept["arm"] != "base"].merge(base, on=["model", "train_set", "suite"], suffixes=("", "_base"))
    arms = arms.assign(forgetting=arms["accuracy_base"] - arms["accuracy"])
    means = arms.groupby(RUN, as_index=False).agg(forgetting=("forgetting", "mean"), suites=("suite", "nunique"))
    wanted = base.groupby(["model", "train_set"], as_index=False).agg(all_suites=("suite", "nunique"))
    means = means.merge(wanted, on=["model", "train_set"])
    return means[means["suites"] == means["all_suites"]][[*RUN, "forgetting"]].reset_index(drop=True)


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
    """RUN, given_rank, and a column for each of MEASURES; what has suites is taken outside the training domain."""
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


COLUMNS = ["model", "train_set", "arm", "seed", "derivation", "rank", "mean_rank", "energy", "energy_kept", "factor"]
COLUMNS += ["intruders", "suite", "domain", "kind", "relation", "n", "accuracy", "base_accuracy", "change"]


def derived_scores(found: Sequence[tuple[Mapping[str, Any], pd.DataFrame]], scores: pd.DataFrame) -> pd.DataFrame:
    """One row for each derived run and suite. `found` holds (its facts, its predictions); `scores` is the scores table,
    of which the base's rows and the suites' relations are taken. Text suites, which have no accuracy, are left out."""
    base = scores[scores["arm"] == "base"].rename(columns={"accuracy": "base_accuracy"})
    base = base[["model", "train_set", "suite", "domain", "kind", "relation", "base_accuracy"]]
    parts = []
    for facts, predictions in found:
        known = predictions.assign(score=pd.to_numeric(predictions["score"]).astype(float)).dropna(subset=["score"])
        means = known.groupby("suite", as_index=False).agg(n=("score", "size"), accuracy=("score", "mean"))
        parts.append(means.assign(**{key: facts.get(key) for key in COLUMNS[:11]}))
    if not parts:
        return pd.DataFrame(columns=COLUMNS)
    frame = pd.concat(parts, ignore_index=True).merge(base, on=["model", "train_set", "suite"])
    frame["change"] = frame["accuracy"] - frame["base_accuracy"]
    integers, floats = ["rank", "intruders"], ["mean_rank", "energy", "energy_kept", "factor"]
    for column in integers + floats:
        frame[column] = pd.to_numeric(frame[column])
    frame = frame.astype({**dict.fromkeys(integers, "Int64"), **dict.fromkeys(floats, "Float64")})
    return frame[COLUMNS]
