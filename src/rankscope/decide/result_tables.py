"""Makes the tidy tables of a study, one row per fact: scores, flips, forgotten items and cost; frames in, frames out.

Changes come from the same pairing and estimates as the verdict's: an item without a score in some compared run is left
out of every arm, and nothing is imputed. docs/records.md lists the columns.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from rankscope.decide.change_tables import ARM, SUITE, forgetting, kinds, latest, matrix, seeds
from rankscope.decide.judging_items import judging
from rankscope.decide.looks import Evidence, gather_all
from rankscope.decide.paired_items import METRICS, Frames, Pairing, SuiteScores, metric_of, pair, relation, text_or_none
from rankscope.decide.run_outcomes import noise
from rankscope.records import Metric
from rankscope.records.readable_numbers import bare, unit_name
from rankscope.study.study import Decision

SCORES = [*ARM, "seed", *SUITE, "metric", "n", "accuracy", "loss_nats_per_token", "item_loss_nats", "bits_per_byte"]
FLIPS = ["model", "train_set", "arm", "suite", "item_id", "relation", "kind"]
FLIPS += ["base_correct", "seeds_total", "seeds_lost", "seeds_won"]
FORGOTTEN = ["model", "train_set", "suite", "item_id", "relation", "kind", "group"]
FORGOTTEN += ["arms_lost", "arms_compared", "arms"]
GROUPS = ["model", "train_set", "suite", "relation", "kind", "group", "items", "base_correct", "expected"]
RIGHT_ABOVE = 0.5
"""An item with a higher score is called right, one with a lower or the same wrong."""
_RUN = ["model", "train_set", "arm", "seed"]
_SUMMED = ["score", "loss_nats", "scored_tokens", "text_bytes"]
NAMES = ("every arm", "full only", "high ranks only", "low ranks only", "some arms")
"""The groups of forgotten items, by which arms lost them."""
COST = ["run_id", *ARM, "seed", "state", "reason", "trainable_parameters", "steps", "train_seconds"]
COST += ["evaluate_seconds", "search_seconds", "peak_memory_bytes", "adapter_bytes"]


def make_tables(
    frames: Frames,
    *,
    decision: Decision | None = None,
    looks: Sequence[int] = (),
    evidence: Mapping[tuple[str, str], Evidence] | None = None,
) -> dict[str, pd.DataFrame]:
    """Every table of the decide stage by name: scores, forgetting, matrix, kinds, seeds, flips, cost, noise.

    `looks` as in `decide`: with adaptive seeds an arm stands in every table as in its last look. `evidence`: that of
    `gather_all`, where it is known.
    """
    decision = decision or Decision()
    confidence = decision.confidence
    paired = pairings(frames, evidence if evidence is not None else gather_all(frames, decision, looks))
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


def pairings(frames: Frames, evidence: Mapping[tuple[str, str], Evidence]) -> list[Pairing]:
    """Look by look the compared arms of every base model and training set together, then each arm set aside that has
    done runs. What a later one says of an arm counts."""
    made = []
    for (model, train_set), known in evidence.items():
        made += [look.pairing for look in known.looks if look.labels]
        alone = [arm.label for arm in known.looks[0].pairing.arms if arm.problem is not None and arm.seeds]
        made += [pair(frames, model=model, train_set=train_set, only=[label]) for label in alone]
    return made


def scores(frames: Frames) -> pd.DataFrame:
    """One row per run and suite, over the items scored in that run that judge; the base stands once per training set.

    accuracy is the mean score (NaN for text); loss_nats_per_token and bits_per_byte are summed over the suite before
    dividing, item_loss_nats is the mean over items of each one's own nats per token, which is what judges (NaN where
    nothing was scored so).
    """
    predictions, suites, runs = frames
    sets = runs[["model", "train_set", "train_domain"]].drop_duplicates(["model", "train_set"])
    arms = runs[["model", "train_set", "arm", "method", "rank"]].drop_duplicates(["model", "train_set", "arm"])
    parts = []
    for model, train_set in zip(sets["model"], sets["train_set"], strict=True):
        mine = (predictions["model"] == model) & (predictions["train_set"] == train_set)
        of_base = (predictions["model"] == model) & (predictions["arm"] == "base")
        own = (mine | of_base).to_numpy() & judging(predictions, model, train_set)
        parts.append(_run_means(predictions.loc[own, ["run_id", "suite", *_RUN, *_SUMMED]]).assign(train_set=train_set))
    means = pd.concat(parts, ignore_index=True)
    base = means[means["arm"] == "base"].assign(method="base", rank=math.nan)
    trained = means[means["arm"] != "base"].merge(arms, on=["model", "train_set", "arm"])
    frame = pd.concat([base.astype({"rank": "Int64"}), trained.astype({"rank": "Int64"})], ignore_index=True)
    metrics = [metric_of(row) for row in suites.to_dict("records")]
    named = suites[["suite", "domain", "kind"]].assign(metric=metrics)
    frame = frame.merge(named, on="suite").merge(sets, on=["model", "train_set"])
    domains = zip(frame["domain"], frame["train_domain"], strict=True)
    frame["relation"] = [relation(text_or_none(suite), text_or_none(train)) for suite, train in domains]
    frame = frame.astype({"seed": "Int64"})[SCORES]
    return frame.sort_values(["model", "train_set", "arm", "seed", "suite"]).reset_index(drop=True)


def _run_means(predictions: pd.DataFrame) -> pd.DataFrame:
    """Means by run and suite. Only texts with a loss and a size count towards nats per token and bits per byte."""
    keys = ["run_id", "suite"]
    score, loss, tokens, size = (pd.to_numeric(predictions[name]).astype(float) for name in _SUMMED)
    scored = predictions[keys].assign(score=score).groupby(keys)["score"]
    result = pd.DataFrame({"n": scored.count(), "accuracy": scored.mean()})
    has_loss = loss.notna() & (tokens > 0)
    texts = predictions.loc[has_loss, keys].assign(loss=loss, tokens=tokens, sized_loss=loss.where(size > 0))
    texts["bytes"], texts["own"] = size.where(size > 0), loss / tokens
    groups = texts.groupby(keys)
    sums = groups[["loss", "tokens", "sized_loss", "bytes"]].sum(min_count=1).reindex(result.index)
    result["n"] = result["n"].where(result["n"] > 0, groups.size().reindex(result.index, fill_value=0))
    result["loss_nats_per_token"] = sums["loss"] / sums["tokens"]
    result["item_loss_nats"] = groups["own"].mean().reindex(result.index)
    result["bits_per_byte"] = sums["sized_loss"] / math.log(2) / sums["bytes"]
    runs = predictions.drop_duplicates("run_id")[["run_id", *_RUN]]
    return result.reset_index().merge(runs, on="run_id").drop(columns="run_id")


def flips(paired: Sequence[Pairing]) -> pd.DataFrame:
    """One row per arm and item: whether the base has it right, and how many of the arm's seeds lost it or won it.

    Right is a score above RIGHT_ABOVE. Items that never flip stand here too, so that shares can be taken of the table.
    """
    made = [
        _flips_of(pairing, a, suite)
        for pairing in paired
        for a in range(len(pairing.labels))
        for suite in pairing.suites
        if suite.metric == "score"  # a loss is neither right nor wrong
    ]
    if not made:
        return pd.DataFrame(columns=FLIPS)
    frame = pd.concat(made, ignore_index=True)[FLIPS]
    return latest(frame, ["model", "train_set", "arm", "suite", "item_id"])


def _flips_of(pairing: Pairing, a: int, suite: SuiteScores) -> pd.DataFrame:
    right = suite.base > RIGHT_ABOVE
    seeds_right = (suite.scores[a] > RIGHT_ABOVE).sum(axis=0)
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


# ---- forgotten items ------------------------------------------------------------------------------------------------


def forgotten(flips: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """One row for each item that the base has right and at least one arm has lost in most of its seeds: FORGOTTEN.

    `group` is every arm; full only (no other method); high or low ranks only (above the median of the compared ranks,
    or not above it, and no other arm); else some arms.
    """
    by_set, keys = ["model", "train_set"], ["model", "train_set", "suite", "item_id"]
    arms = runs.drop_duplicates([*by_set, "arm"])[[*by_set, "arm", "method", "rank"]]
    known = flips[flips["base_correct"].astype(bool)].merge(arms, on=[*by_set, "arm"])
    known["rank"] = pd.to_numeric(known["rank"]).astype(float)
    compared = known.drop_duplicates([*by_set, "arm"]).groupby(by_set)
    known = known.join(compared["rank"].median().rename("middle"), on=by_set)
    known = known.join(compared.size().rename("arms_compared"), on=by_set)
    lost = known[2 * known["seeds_lost"] > known["seeds_total"]].sort_values([*keys, "arm"])
    lost = lost.assign(
        full=lost["method"] == "full",
        high=(lost["rank"] > lost["middle"]) & (lost["method"] != "full"),
        low=(lost["rank"] <= lost["middle"]) & (lost["method"] != "full"),
    )
    items = lost.groupby(keys, as_index=False).agg(
        relation=("relation", "first"), kind=("kind", "first"), arms_lost=("arm", "size"),
        arms_compared=("arms_compared", "first"), arms=("arm", ", ".join),
        full=("full", "all"), high=("high", "all"), low=("low", "all"),
    )  # fmt: skip
    every = items["arms_lost"] == items["arms_compared"]
    named = np.select([every, items["full"], items["high"], items["low"]], NAMES[:4], NAMES[4])
    return items.assign(group=named)[FORGOTTEN]


def forgotten_groups(flips: pd.DataFrame, items: pd.DataFrame) -> pd.DataFrame:
    """One row for each suite and group: how many items, of how many that the base has right: GROUPS.

    `expected` (for every arm only): what there would be if arms forgot independently, each its own share of the suite.
    """
    keys = ["model", "train_set", "suite", "relation", "kind"]
    known = flips[flips["base_correct"].astype(bool)].assign(lost=lambda f: 2 * f["seeds_lost"] > f["seeds_total"])
    rows: list[dict[str, Any]] = []
    for values, mine in known.groupby(keys, dropna=False):
        named = dict(zip(keys, values, strict=True))
        right = mine["item_id"].nunique()
        shares = mine.groupby("arm")["lost"].mean()
        here = items[(items[keys[:3]] == pd.Series(named)[keys[:3]]).all(axis=1)]["group"].value_counts()
        for name in NAMES:
            expected = float(right * np.prod(shares)) if name == "every arm" and len(shares) > 1 else None
            count = int(here.get(name, 0))
            rows.append({**named, "group": name, "items": count, "base_correct": right, "expected": expected})
    return pd.DataFrame(rows, columns=GROUPS).astype({"expected": "Float64"})


def findings(groups: pd.DataFrame, kinds: pd.DataFrame, model: str, train_set: str) -> list[str]:
    """What was forgotten, in words: by which arms, recall against reasoning, in and outside the domain."""
    mine = groups[(groups["model"] == model) & (groups["train_set"] == train_set) & (groups["relation"] != "in-domain")]
    said = []
    total = mine.groupby("group", sort=False)[["items", "base_correct", "expected"]].sum()
    if not total.empty and total["items"].sum():
        count = {str(name): int(number) for name, number in total["items"].items()}
        right, expected = int(total["base_correct"].max()), float(total["expected"].max())
        sentence = (
            f"Of {right:,} items outside the domain that the base has right, {count['every arm']:,} are forgotten"
        )
        sentence += f" by every arm (if arms forgot independently: {expected:.0f})"
        sentence += "".join(f", {count[name]:,} by {name}" for name in NAMES[1:4] if count[name])
        said.append(f"{sentence}.")
    rows = kinds[(kinds["model"] == model) & (kinds["train_set"] == train_set)]
    for metric in METRICS:
        for kind in ("recall", "reasoning"):
            said += _kind_sentences(kind, rows[(rows["kind"] == kind) & (rows["metric"] == metric)], metric)
    return said


_WHERE = {"in-domain": "in the domain", "out-of-domain": "other domains", "general": "suites without a domain"}
"""How sentences call the relation of suites to a training set."""


def _kind_sentences(kind: str, rows: pd.DataFrame, metric: Metric) -> list[str]:
    """The spread over arms of what was gained or, outside the domain, forgotten of a kind, for each relation that has
    suites of it."""
    said = []
    for where, group in rows.groupby("relation", sort=True):
        gained = where == "in-domain"
        amounts = (1 if gained else -1) * group["change"].astype(float)
        spread = sorted(zip(amounts, group["arm"].astype(str), strict=True))
        told = [f"{bare(amount, metric, sign=gained)} {unit_name(metric)} ({arm})" for amount, arm in spread]
        most = told[0] if len(told) == 1 else f"from {told[0]} to {told[-1]}"
        happened = "gained" if gained else "forgotten"
        said.append(f"{kind.capitalize()}, {_WHERE.get(str(where), where)}: {happened} {most}.")
    return said


# ---- cost -----------------------------------------------------------------------------------------------------------


def cost(runs: pd.DataFrame) -> pd.DataFrame:
    """One row per run: what it took, with the share of a learning-rate search that was made for its arm."""
    frame = runs[COST].astype({"rank": "Int64", "seed": "Int64"})
    return frame.sort_values(["model", "train_set", "arm", "seed"]).reset_index(drop=True)
