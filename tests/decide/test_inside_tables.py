"""Tables of what changed inside, on made frames with known answers."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from made_inside import runs_frame

from rankscope.decide.change_tables import derived_scores, forgetting_by_run
from rankscope.decide.inside_tables import joined, measures_by_run, neuron_overlaps, subspace_similarity, subspaces

RNG = np.random.default_rng(5)


# ---- tables ---------------------------------------------------------------------------------------------------------


def test_subspace_similarity_of_known_subspaces() -> None:
    eye = np.eye(6)
    assert subspace_similarity(eye[:, :2], eye[:, :4]) == 1
    assert subspace_similarity(eye[:, :2], eye[:, 2:4]) == 0
    assert subspace_similarity(eye[:, :2], eye[:, 1:3]) == 0.5
    turned, _ = np.linalg.qr(RNG.normal(size=(2, 2)))
    assert subspace_similarity(eye[:, :2] @ turned, eye[:, :2]) == pytest.approx(1)


def test_pairs_are_arms_of_a_seed_and_seeds_of_an_arm() -> None:
    runs = runs_frame(2, 2)
    directions = {r: {"layers.1.q": np.eye(5)[:, :2]} for r in runs["run_id"]}
    spectra = pd.DataFrame({"module": ["layers.1.q"], "layer": [1], "kind": ["q"]})
    found = subspaces(directions, spectra, runs)
    assert len(found) == 4
    assert set(found["similarity"]) == {1.0}
    assert found[["layer", "kind", "i", "j"]].drop_duplicates().to_numpy().tolist() == [[1, "q", 2, 2]]
    assert not ((found["arm"] == found["other_arm"]) == (found["seed"] == found["other_seed"])).any()


def test_overlap_of_neurons_beside_chance() -> None:
    rows = [("a0", "s", [1, 2, 3, 4]), ("a1", "s", [3, 4, 5, 6]), ("a0", "z", [1, 2, 3, 4])]
    frame = pd.DataFrame(
        [{"model": "m", "train_set": "t", "seed": 0, "layer": 0, "arm": a, "suite": s, "units": 100, "top_units": u}
         for a, s, u in rows]
    )  # fmt: skip
    found = neuron_overlaps(frame).set_index(["arm", "other_arm", "suite", "other_suite"])
    assert len(found) == 2, "not another arm on another suite"
    assert found.loc[("a0", "a1", "s", "s"), "overlap"] == pytest.approx(2 / 6)
    assert found.loc[("a0", "a0", "s", "z"), "overlap"] == 1
    sets = [(set(RNG.choice(100, 4, False)), set(RNG.choice(100, 4, False))) for _ in range(4000)]
    simulated = np.mean([len(a & b) / len(a | b) for a, b in sets])
    assert found["chance"].iloc[0] == pytest.approx(simulated, abs=0.004)


def scores_frame(runs: pd.DataFrame, accuracy: dict[str, float]) -> pd.DataFrame:
    suites = [("own", "in-domain"), ("x", "out-of-domain"), ("y", "general")]
    rows = [{"arm": "base", "seed": pd.NA, "accuracy": 0.8, "suite": s, "relation": r} for s, r in suites]
    rows += [
        {"arm": run.arm, "seed": run.seed, "accuracy": accuracy[run.run_id], "suite": s, "relation": r}
        for run in runs.itertuples()
        for s, r in suites
    ]
    return pd.DataFrame(rows).assign(model="m", train_set="t", kind="recall", domain="d").astype({"seed": "Int64"})


def test_forgetting_of_a_run_is_over_the_suites_outside_its_domain() -> None:
    runs = runs_frame(1, 2)
    scores = scores_frame(runs, {"0-0": 0.5, "0-1": 0.7})
    found = forgetting_by_run(scores)
    assert found["forgetting"].tolist() == pytest.approx([0.3, 0.1])
    short = scores[~((scores["seed"] == 1).fillna(False) & (scores["suite"] == "x"))]
    assert forgetting_by_run(short)["seed"].tolist() == [0], "a run that lacks a suite is left out"


def test_a_runs_measure_is_the_mean_over_its_rows_outside_its_domain() -> None:
    runs = runs_frame(1, 1)
    hidden = joined({"0-0": pd.DataFrame({"suite": ["own", "x", "y"], "layer": 0, "cka": [0.0, 0.4, 0.6]})}, runs)
    hidden = hidden.assign(
        **dict.fromkeys(["cosine_drift", "procrustes", "effective_rank", "effective_rank_base"], 1.0)
    )
    found = measures_by_run({"hidden": hidden}, scores_frame(runs, {"0-0": 0.5}))
    assert found["CKA to the base"].tolist() == [pytest.approx(0.5)]
    assert found["effective rank of states"].tolist() == [0.0]


def test_derived_scores_stand_beside_the_base() -> None:
    scores = scores_frame(runs_frame(1, 1), {"0-0": 0.5})
    facts = {"model": "m", "train_set": "t", "arm": "a0", "seed": 0, "derivation": "truncated", "rank": "4"}
    predictions = pd.DataFrame({"suite": ["x", "x", "own", "text"], "score": [1.0, 0.0, 1.0, None]})
    found = derived_scores([(facts, predictions)], scores).set_index("suite")
    assert set(found.index) == {"x", "own"}
    assert found.loc["x", "change"] == pytest.approx(0.5 - 0.8)
    assert (found.loc["x", "n"], found.loc["x", "rank"]) == (2, 4)
    assert derived_scores([], scores).empty
