"""From the analyses in a study folder to tables: what changed inside, and what was derived."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from safetensors.numpy import load_file

from rankscope.decide.derived import derived_scores
from rankscope.decide.diagnostics import diagnose
from rankscope.decide.inside import forgetting_by_run, joined, measures_by_run, neuron_overlaps, subspaces
from rankscope.edges.store import FolderStore

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
    found: list[tuple[dict[str, object], pd.DataFrame]] = []
    for row in runs.to_dict("records"):
        for path in sorted((store.run_folder(row["run_id"]) / "derived").glob("*.parquet")):
            frame = store.read_frame(path)
            if frame is not None:
                named = {key: row[key] for key in ("model", "train_set", "arm", "seed")}
                found.append((store.frame_metadata(path) | named, frame))
    return found
