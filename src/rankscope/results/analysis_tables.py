"""From the analyses in a study folder to tables: what changed inside, and what was derived."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from safetensors.numpy import load_file

from rankscope.decide.change_tables import derived_scores, forgetting_by_run
from rankscope.decide.inside_tables import diagnose, joined, measures_by_run, neuron_overlaps, subspaces
from rankscope.edges.study_folder import FolderStore

ANALYSES = ("spectra", "hidden", "attention", "neurons")


def inside_tables(
    store: FolderStore, runs: pd.DataFrame, scores: pd.DataFrame, *, confidence: float
) -> dict[str, pd.DataFrame]:
    """Of the finished runs: spectra, subspaces, hidden, attention, neurons, neuron_overlaps, diagnostics, derived."""
    done = runs[runs["state"] == "done"]
    tables = {name: joined(_frames(store, done, name), runs) for name in ANALYSES}
    tables["subspaces"] = subspaces(_directions(store, done), tables["spectra"], runs)
    tables["neuron_overlaps"] = neuron_overlaps(tables["neurons"])
    values = measures_by_run(tables, scores)
    tables["diagnostics"] = diagnose(values, forgetting_by_run(scores), runs, confidence=confidence)
    tables["derived"] = derived_scores(_derived(store, done), scores)
    return tables


def _frames(store: FolderStore, runs: pd.DataFrame, name: str) -> dict[str, pd.DataFrame]:
    found = {r: store.read_frame(store.run_folder(r) / "analysis" / f"{name}.parquet") for r in runs["run_id"]}
    return {run_id: frame for run_id, frame in found.items() if frame is not None}


def _directions(store: FolderStore, runs: pd.DataFrame) -> dict[str, dict[str, NDArray[np.floating]]]:
    paths = {r: store.run_folder(r) / "analysis" / "directions.safetensors" for r in runs["run_id"]}
    return {run_id: load_file(path) for run_id, path in paths.items() if path.is_file()}


def _derived(store: FolderStore, runs: pd.DataFrame) -> list[tuple[dict[str, object], pd.DataFrame]]:
    """(facts, predictions) of what was made of the largest adapter: of each base model and training set one run's."""
    found: list[tuple[dict[str, object], pd.DataFrame]] = []
    seen: set[tuple[str, str]] = set()
    ordered = runs.sort_values(["rank", "arm", "seed"], ascending=[False, True, True])
    for row in ordered.to_dict("records"):
        paths = sorted((store.run_folder(row["run_id"]) / "derived").glob("*.parquet"))
        pair = (row["model"], row["train_set"])
        if not paths or pair in seen:
            continue
        seen.add(pair)
        named = {key: row[key] for key in ("model", "train_set", "arm", "seed")}
        for path in paths:
            frame = store.read_frame(path)
            if frame is not None:
                found.append((store.frame_metadata(path) | named, frame))
    return found
