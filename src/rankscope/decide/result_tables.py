"""Predictions and runs to tidy tables, one row per fact. Pure: frames in, frames out; docs/records.md lists columns.

Changes come from the same pairing and estimates as the verdict's: an item without a score in some compared run is left
out of every arm, and nothing is imputed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from rankscope.decide.change_tables import ARM, SUITE, forgetting, kinds, latest, matrix, seeds
from rankscope.decide.looks import gather
from rankscope.decide.noise_floor import noise
from rankscope.decide.paired_items import Frames, Pairing, SuiteScores, pair, relation, text_or_none
from rankscope.study.study import Decision

SCORES = [*ARM, "seed", *SUITE, "n", "accuracy", "loss_nats_per_token", "bits_per_byte"]
FLIPS = ["model", "train_set", "arm", "suite", "item_id", "relation", "kind"]
FLIPS += ["base_correct", "seeds_total", "seeds_lost", "seeds_won"]
COST = ["run_id", *ARM, "seed", "state", "reason", "trainable_parameters", "steps", "train_seconds"]
COST += ["evaluate_seconds", "search_seconds", "peak_memory_bytes", "adapter_bytes"]


def make_tables(
    frames: Frames, *, decision: Decision | None = None, looks: Sequence[int] = ()
) -> dict[str, pd.DataFrame]:
    """Every table of the decide stage by name: scores, forgetting, matrix, kinds, seeds, flips, cost, noise.

    `looks` as in `decide`: with adaptive seeds an arm stands in every table as in its last look.
    """
    decision = decision or Decision()
    confidence = decision.confidence
    paired = pairings(frames, decision, looks)
    return {
        "scores": scores(frames),
        "forgetting": forgetting(paired, confidence),
        "matrix": matrix(paired, confidence),
        "kinds": kinds(paired, confidence),
        "seeds": seeds(paired),
        "flips": flips(paired),
        "cost": cost(frames.runs),
        "noise": noise(frames.predictions),
    }


def pairings(frames: Frames, decision: Decision, looks: Sequence[int] = ()) -> list[Pairing]:
    """Look by look the compared arms of every base model and training set together, then each arm set aside that has
    done runs. What a later one says of an arm counts."""
    made = []
    for model, train_set in sorted(set(zip(frames.runs["model"], frames.runs["train_set"], strict=True))):
        where = {"model": model, "train_set": train_set}
        seen = gather(frames, **where, decision=decision, looks=looks).looks
        together = seen[0].pairing
        made += [look.pairing for look in seen if look.labels]
        alone = [arm.label for arm in together.arms if arm.problem is not None and arm.seeds]
        made += [pair(frames, model=model, train_set=train_set, only=[label]) for label in alone]
    return made


def scores(frames: Frames) -> pd.DataFrame:
    """One row per run and suite, over the items scored in that run; the base stands once per training set.

    accuracy is the mean score (NaN for text); loss_nats_per_token and bits_per_byte are summed over the suite before
    dividing (NaN where nothing was scored so).
    """
    predictions, suites, runs = frames
    means = _run_means(predictions)
    sets = runs[["model", "train_set", "train_domain"]].drop_duplicates(["model", "train_set"])
    arms = runs[["model", "train_set", "arm", "method", "rank"]].drop_duplicates(["model", "train_set", "arm"])
    base = means[means["arm"] == "base"].drop(columns="train_set").merge(sets[["model", "train_set"]], on="model")
    base = base.assign(method="base", rank=math.nan)
    trained = means[means["arm"] != "base"].merge(arms, on=["model", "train_set", "arm"])
    frame = pd.concat([base.astype({"rank": "Int64"}), trained.astype({"rank": "Int64"})], ignore_index=True)
    frame = frame.merge(suites[["suite", "domain", "kind"]], on="suite").merge(sets, on=["model", "train_set"])
    domains = zip(frame["domain"], frame["train_domain"], strict=True)
    frame["relation"] = [relation(text_or_none(suite), text_or_none(train)) for suite, train in domains]
    frame = frame.astype({"seed": "Int64"})[SCORES]
    return frame.sort_values(["model", "train_set", "arm", "seed", "suite"]).reset_index(drop=True)


def _run_means(predictions: pd.DataFrame) -> pd.DataFrame:
    """Means by run and suite. Only texts with a loss and a size count towards nats per token and bits per byte."""
    frame = predictions[["model", "train_set", "arm", "seed", "suite"]].copy()
    for name in ("score", "loss_nats", "scored_tokens", "text_bytes"):
        frame[name] = pd.to_numeric(predictions[name]).astype(float)
    frame["has_loss"] = frame["loss_nats"].notna() & (frame["scored_tokens"] > 0)
    frame["has_size"] = frame["has_loss"] & (frame["text_bytes"] > 0)
    frame["text_loss"] = frame["loss_nats"].where(frame["has_loss"])
    frame["tokens"] = frame["scored_tokens"].where(frame["has_loss"])
    frame["sized_loss"] = frame["loss_nats"].where(frame["has_size"])
    frame["bytes"] = frame["text_bytes"].where(frame["has_size"])
    groups = frame.groupby(["model", "train_set", "arm", "seed", "suite"], dropna=False)
    sums = groups[["text_loss", "tokens", "sized_loss", "bytes"]].sum(min_count=1)
    result = pd.DataFrame(
        {
            "n": groups["score"].count().where(groups["score"].count() > 0, groups["has_loss"].sum()),
            "accuracy": groups["score"].mean(),
            "loss_nats_per_token": sums["text_loss"] / sums["tokens"],
            "bits_per_byte": sums["sized_loss"] / math.log(2) / sums["bytes"],
        }
    )
    return result.reset_index()


def flips(paired: Sequence[Pairing]) -> pd.DataFrame:
    """One row per arm and item: whether the base has it right, and how many of the arm's seeds lost it or won it.

    Right is a score above 0.5. Items that never flip stand here too, so that shares can be taken of the table.
    """
    made = [
        _flips_of(pairing, a, suite)
        for pairing in paired
        for a in range(len(pairing.labels))
        for suite in pairing.suites
    ]
    if not made:
        return pd.DataFrame(columns=FLIPS)
    frame = pd.concat(made, ignore_index=True)[FLIPS]
    return latest(frame, ["model", "train_set", "arm", "suite", "item_id"])


def _flips_of(pairing: Pairing, a: int, suite: SuiteScores) -> pd.DataFrame:
    right = suite.base > 0.5
    seeds_right = (suite.scores[a] > 0.5).sum(axis=0)
    seeds = len(pairing.seeds)
    return pd.DataFrame(
        {
            "model": pairing.model,
            "train_set": pairing.train_set,
            "arm": pairing.labels[a],
            "suite": suite.name,
            "item_id": list(suite.item_ids),
            "relation": suite.relation,
            "kind": suite.kind,
            "base_correct": right,
            "seeds_total": seeds,
            "seeds_lost": np.where(right, seeds - seeds_right, 0),
            "seeds_won": np.where(right, 0, seeds_right),
        }
    )


def cost(runs: pd.DataFrame) -> pd.DataFrame:
    """One row per run: what it took, with the share of a learning-rate search that was made for its arm."""
    frame = runs[COST].astype({"rank": "Int64", "seed": "Int64"})
    return frame.sort_values(["model", "train_set", "arm", "seed"]).reset_index(drop=True)
