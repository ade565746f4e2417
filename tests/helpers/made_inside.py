"""Made-up tables of what changed inside, for four arms of the made-up verdict."""

from __future__ import annotations

import numpy as np
import pandas as pd
from made_report import make_verdict

VERDICT = make_verdict()
ARMS = [arm.label for arm in VERDICT.arms][:4]
RNG = np.random.default_rng(0)


def inside_tables(diagnosed: bool = True) -> dict[str, pd.DataFrame]:
    """Every table of analyses; without `diagnosed` there are too few runs to test anything."""
    front = {"model": VERDICT.model, "train_set": VERDICT.train_set}
    spectra, hidden, attention, neurons = [], [], [], []
    for arm in ARMS:
        for seed in range(2):
            named = {**front, "arm": arm, "seed": seed}
            for layer in range(3):
                for kind in ("q_proj", "up_proj"):
                    values = sorted(RNG.random(4), reverse=True)
                    spectra.append(
                        {**named, "module": f"layers.{layer}.{kind}", "layer": layer, "kind": kind, "rank": 4,
                         "singular_values": values, "relative_norm": 0.1, "utilisation": 0.5, "intruders": 2,
                         "intruders_random": 1, "stable_rank": 2.0}
                    )  # fmt: skip
                hidden.append(
                    {**named, "suite": "s", "layer": layer, "cka": 0.9, "cosine_drift": 0.1, "procrustes": 0.2}
                )
                neurons.append({**named, "suite": "s", "layer": layer, "mean_change": 0.3, "firing_change": 0.1})
                for head in range(2):
                    attention.append(
                        {**named, "suite": "s", "layer": layer, "head": head, "divergence": 0.05, "entropy": 1.0,
                         "entropy_base": 1.2}
                    )  # fmt: skip
    subspaces = [{**front, "arm": ARMS[0], "other_arm": ARMS[1], "similarity": 0.25}]
    subspaces += [{**front, "arm": ARMS[0], "other_arm": ARMS[0], "similarity": 0.75}]
    overlaps = [
        {**front, "arm": ARMS[0], "other_arm": o, "overlap": v, "chance": 0.02}
        for o, v in zip(ARMS, (0.6, 0.3), strict=False)
    ]
    found = {"measure": "CKA to the base", "correlation": -0.5, "partial": -0.4, "partial_low": -0.8,
             "partial_high": 0.1, "p_corrected": 0.2, "runs": 12, "predicts": "no", "reason": None}  # fmt: skip
    if not diagnosed:
        found |= {"partial": None, "predicts": None, "reason": "5 runs: at least 8 are needed"}
    derived = [
        {**front, "arm": ARMS[-1], "seed": 0, "derivation": d, "rank": r, "mean_rank": m, "factor": f,
         "relation": rel, "change": c}
        for d, r, m, f in (("truncated", 2, 2.0, None), ("energy", None, 3.5, None), ("intruders", None, 8.0, 0.5),
                           ("control", None, 8.0, 0.5))
        for rel, c in (("in-domain", 0.3), ("general", -0.1))
    ]  # fmt: skip
    return {
        "spectra": pd.DataFrame(spectra), "hidden": pd.DataFrame(hidden), "attention": pd.DataFrame(attention),
        "neurons": pd.DataFrame(neurons), "subspaces": pd.DataFrame(subspaces),
        "neuron_overlaps": pd.DataFrame(overlaps),
        "diagnostics": pd.DataFrame([{**front, **found}]), "derived": pd.DataFrame(derived),
    }  # fmt: skip


def runs_frame(arms: int = 4, seeds: int = 3) -> pd.DataFrame:
    """The runs of `arms` arms with `seeds` seeds, at two learning rates in turns."""
    rows = [
        {
            "run_id": f"{a}-{s}",
            "model": "m",
            "train_set": "t",
            "arm": f"a{a}",
            "seed": s,
            "learning_rate": 1e-3 * (1 + a % 2),
        }
        for a in range(arms)
        for s in range(seeds)
    ]
    return pd.DataFrame(rows)
