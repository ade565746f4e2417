"""Makes the tables of change, accuracy minus the base's: by suite, domain, kind and seed, and along a rate search.

docs/records.md lists the columns. A change is a share of accuracy, or of suites judged by loss nats per token; the two
are never in one mean.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from rankscope.decide.crossed_statistics import estimate, gain_contrasts
from rankscope.decide.gain_and_forgetting import intervals
from rankscope.decide.paired_items import Pairing, SuiteScores, relation, text_or_none
from rankscope.records import ArmSetting, Metric, SearchRecord
from rankscope.records.readable_numbers import reason_decimal
from rankscope.study.study import Decision

ARM = ["model", "train_set", "arm", "method", "rank"]
SUITE = ["suite", "domain", "kind", "relation"]
_UNITS: tuple[tuple[Metric, str], ...] = (("score", ""), ("loss", "_nats"))
"""What a column's name ends with, by the metric of the suites that it is the mean of."""
_CHANGES = ["n", "seeds", "base_accuracy", "accuracy", "change", "low", "high"]
FORGETTING = [*ARM, *SUITE, "metric", *_CHANGES, "chance", "left_out"]
MATRIX = [*ARM, "domain", "relation", "metric", "suites", *_CHANGES]
RUN = ["model", "train_set", "arm", "seed"]
KINDS = [*ARM, "kind", "relation", "metric", "suites", *_CHANGES]
SEEDS = [*ARM, "seed", "gain", "forgetting", "gain_nats", "forgetting_nats"]
DERIVED = ["model", "train_set", "arm", "seed", "derivation", "rank", "mean_rank", "energy", "energy_kept", "factor"]
DERIVED += ["intruders", "below", "above"]
DERIVED_FACTS = len(DERIVED)
"""So many of the columns say what was derived."""
DERIVED += ["suite", "domain", "kind", "relation", "n", "accuracy", "base_accuracy", "change"]
RATES = ["model", "train_set", "arm", "learning_rate", "steps", "validation_loss", "chosen", "at_end_of_grid"]
RATES += ["gain", "forgetting", "probe_items"]

NO_DOMAIN = "(no domain)"
"""Stands in the matrix for suites without a domain: no name that a user can give."""


def forgetting(paired: Sequence[Pairing], confidence: float = 0.95) -> pd.DataFrame:
    """One row per arm and suite (in-domain ones too, text not): accuracy minus the base's, below 0 is forgetting.

    low and high are a two-sided interval at `confidence`, over items only where there is one seed. `left_out`: why the
    suite is no part of the mean that forgetting is.
    """

    def by_suite(suite: SuiteScores) -> dict[str, Any]:
        named = {"suite": suite.name, "domain": suite.domain, "kind": suite.kind, "relation": suite.relation}
        return {**named, "chance": suite.chance, "left_out": suite.left_out_of_mean}

    return _changes(paired, FORGETTING, by_suite, confidence, every_suite=True)


def matrix(paired: Sequence[Pairing], confidence: float = 0.95) -> pd.DataFrame:
    """One row per training set, arm and suite domain: the mean over the domain's suites, each with the same weight."""
    return _changes(
        paired, MATRIX, lambda suite: {"domain": suite.domain or NO_DOMAIN, "relation": suite.relation}, confidence
    )


def seeds(paired: Sequence[Pairing]) -> pd.DataFrame:
    """One row per arm and seed: its gain and its forgetting, the points of which the verdict takes the mean.

    Shares of accuracy, and of the suites judged by their loss nats per token; null where there is no such suite.
    """
    made: list[dict[str, Any]] = []
    for pairing in paired:
        for a, k in product(range(len(pairing.labels)), range(len(pairing.seeds))):
            row = {**_arm_columns(pairing, a), "seed": pairing.seeds[k]}
            for metric, unit in _UNITS:
                gain = [suite.scores[a, k].mean() - suite.base.mean() for suite in pairing.in_domain_of(metric)]
                lost = [suite.base.mean() - suite.scores[a, k].mean() for suite in pairing.others_of(metric)]
                row[f"gain{unit}"] = float(np.mean(gain)) if gain else None
                row[f"forgetting{unit}"] = float(np.mean(lost)) if lost else None
            made.append(row)
    frame = pd.DataFrame(made, columns=SEEDS).astype({"rank": "Int64", **dict.fromkeys(SEEDS[-4:], "Float64")})
    return latest(frame, ["model", "train_set", "arm", "seed"])


def kinds(paired: Sequence[Pairing], confidence: float = 0.95) -> pd.DataFrame:
    """One row per arm, kind (recall or reasoning) and relation to the training set, suites with the same weight."""
    return _changes(paired, KINDS, lambda suite: {"kind": suite.kind, "relation": suite.relation}, confidence)


def _changes(
    paired: Sequence[Pairing],
    columns: list[str],
    group_of: Callable[[SuiteScores], dict[str, Any]],
    confidence: float,
    *,
    every_suite: bool = False,
) -> pd.DataFrame:
    """One row for each arm and group of suites of scores; those that leave the mean only where `every_suite` counts."""
    made: list[dict[str, Any]] = []
    for pairing in paired:
        groups: dict[tuple[Any, ...], tuple[dict[str, Any], list[SuiteScores]]] = {}
        for suite in pairing.suites:
            if suite.left_out_of_mean is not None and not every_suite:
                continue
            group = {**group_of(suite), "metric": suite.metric}
            groups.setdefault(tuple(group.values()), (group, []))[1].append(suite)
        for group, members in groups.values():
            made += _change_rows(pairing, group, members, confidence)
    frame = pd.DataFrame(made, columns=columns).astype({"rank": "Int64"})
    order = [name for name in columns if name not in ("method", "rank", "suites", "chance", "left_out", *_CHANGES)]
    return latest(frame, order)


def latest(frame: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """Sorted by `keys`; of rows that are alike in them the last."""
    return frame.drop_duplicates(keys, keep="last").sort_values(keys).reset_index(drop=True)


def _change_rows(
    pairing: Pairing, group: dict[str, Any], members: list[SuiteScores], confidence: float
) -> Iterator[dict[str, Any]]:
    count = len(pairing.labels)
    found = estimate([suite.arrays for suite in members], gain_contrasts(count))
    for a, interval in enumerate(intervals(found, confidence, count)):
        yield {
            **_arm_columns(pairing, a),
            **group,
            "suites": len(members),
            "n": sum(len(suite.item_ids) for suite in members),
            "seeds": len(pairing.seeds),
            "base_accuracy": float(np.mean([suite.base.mean() for suite in members])),
            "accuracy": float(np.mean([suite.scores[a].mean() for suite in members])),
            "change": interval.mean,
            "low": math.nan if interval.low is None else interval.low,
            "high": math.nan if interval.high is None else interval.high,
        }


def _arm_columns(pairing: Pairing, a: int) -> dict[str, Any]:
    arm = pairing.facts(pairing.labels[a])
    return {
        "model": pairing.model,
        "train_set": pairing.train_set,
        "arm": arm.label,
        "method": arm.method,
        "rank": pd.NA if arm.rank is None else arm.rank,
    }


def forgetting_by_run(scores: pd.DataFrame, changes: pd.DataFrame | None = None) -> pd.DataFrame:
    """Forgetting of each run: model, train_set, arm, seed, forgetting.

    The mean over the suites outside the training domain, each with the same weight, of the base's accuracy minus the
    run's; a run that lacks one of them is left out. `scores` is the scores table, `changes` that of forgetting, which
    says of which suites nothing can be forgotten.
    """
    kept = scores[(scores["relation"] != "in-domain") & scores["accuracy"].notna()]
    if changes is not None:
        keys = ["model", "train_set", "suite"]
        guessed = changes.loc[changes["left_out"].notna(), keys].drop_duplicates()
        kept = kept[~kept.set_index(keys).index.isin(guessed.set_index(keys).index)]
    base = kept[kept["arm"] == "base"][["model", "train_set", "suite", "accuracy"]]
    arms = kept[kept["arm"] != "base"].merge(base, on=["model", "train_set", "suite"], suffixes=("", "_base"))
    arms = arms.assign(forgetting=arms["accuracy_base"] - arms["accuracy"])
    means = arms.groupby(RUN, as_index=False).agg(forgetting=("forgetting", "mean"), suites=("suite", "nunique"))
    wanted = base.groupby(["model", "train_set"], as_index=False).agg(all_suites=("suite", "nunique"))
    means = means.merge(wanted, on=["model", "train_set"])
    return means[means["suites"] == means["all_suites"]][[*RUN, "forgetting"]].reset_index(drop=True)


# ---- derived runs ---------------------------------------------------------------------------------------------------


def derived_scores(found: Sequence[tuple[Mapping[str, Any], pd.DataFrame]], scores: pd.DataFrame) -> pd.DataFrame:
    """One row for each derived run and suite. `found` holds (its facts, its predictions); `scores` is the scores table,
    of which the base's rows and the suites' relations are taken. Text suites, which have no accuracy, are left out."""
    base = scores[scores["arm"] == "base"].rename(columns={"accuracy": "base_accuracy"})
    base = base[["model", "train_set", "suite", "domain", "kind", "relation", "base_accuracy"]]
    parts = []
    for facts, predictions in found:
        known = predictions.assign(score=pd.to_numeric(predictions["score"]).astype(float)).dropna(subset=["score"])
        means = known.groupby("suite", as_index=False).agg(n=("score", "size"), accuracy=("score", "mean"))
        parts.append(means.assign(**{key: facts.get(key) for key in DERIVED[:DERIVED_FACTS]}))
    if not parts:
        return pd.DataFrame(columns=DERIVED)
    frame = pd.concat(parts, ignore_index=True).merge(base, on=["model", "train_set", "suite"])
    frame["change"] = frame["accuracy"] - frame["base_accuracy"]
    integers, floats = ["rank", "intruders"], ["mean_rank", "energy", "energy_kept", "factor", "below", "above"]
    for column in integers + floats:
        frame[column] = pd.to_numeric(frame[column])
    frame = frame.astype({**dict.fromkeys(integers, "Int64"), **dict.fromkeys(floats, "Float64")})
    return frame[DERIVED]


# ---- learning-rate searches -----------------------------------------------------------------------------------------


def rates(
    searches: Sequence[SearchRecord],
    base: pd.DataFrame,
    suites: pd.DataFrame,
    domains: Mapping[str, str | None],
    settings: Sequence[ArmSetting] = (),
) -> pd.DataFrame:
    """One row for each arm and rate that was tried, at the last step that it reached: RATES.

    `base` are the base's predictions, `domains` the training sets' domains; `settings` say which rate was chosen, the
    search's loss-best where they say nothing. Gain and forgetting are of the rates that were trained to the end, as
    they were trained, on the items that choose settings and never judge; each suite with the same weight, null where
    there are none.
    """
    used = {(s.model, s.train_set, s.arm): s.learning_rate for s in settings}
    known = base.assign(score=pd.to_numeric(base["score"]).astype(float)).dropna(subset=["score"])
    rows: list[dict[str, Any]] = []
    for search in searches:
        changes = _probe_changes(search, known[known["model"] == search.model], suites, domains[search.train_set])
        for rate, curve in zip(search.rates, search.losses, strict=True):
            reached = [(steps, loss) for steps, loss in zip(search.rung_steps, curve, strict=True) if loss is not None]
            for arm in search.arms:
                gain, lost = changes.get((arm, rate), (None, None))
                chosen = used.get((search.model, search.train_set, arm), search.chosen)
                rows.append(
                    {
                        "model": search.model,
                        "train_set": search.train_set,
                        "arm": arm,
                        "learning_rate": rate,
                        "steps": reached[-1][0] if reached else None,
                        "validation_loss": reached[-1][1] if reached else None,
                        "chosen": rate == chosen,
                        "at_end_of_grid": rate == chosen == search.chosen and search.at_end_of_grid,
                        "gain": gain,
                        "forgetting": lost,
                        "probe_items": sum(map(len, search.probe_items.values())),
                    }
                )
    types = {"steps": "Int64", "validation_loss": "Float64", "gain": "Float64", "forgetting": "Float64"}
    return pd.DataFrame(rows, columns=RATES).astype(types)


def _probe_changes(
    search: SearchRecord, base: pd.DataFrame, suites: pd.DataFrame, domain: str | None
) -> dict[tuple[str, float], tuple[float | None, float | None]]:
    """Gain and forgetting on the probe items, by arm and rate."""
    of_suite = suites.set_index("suite")["domain"]
    before = {
        suite: base.loc[(base["suite"] == suite) & base["item_id"].isin(items), "score"].mean()
        for suite, items in search.probe_items.items()
        if suite in of_suite.index
    }
    found: dict[tuple[str, float], dict[bool, list[float]]] = {}
    for row in search.probed:
        if row.suite not in before or np.isnan(before[row.suite]):
            continue
        inside = relation(text_or_none(of_suite[row.suite]), domain) == "in-domain"
        change = row.accuracy - float(before[row.suite])
        found.setdefault((row.arm, row.learning_rate), {True: [], False: []})[inside].append(change)
    return {
        key: (
            float(np.mean(parts[True])) if parts[True] else None,
            -float(np.mean(parts[False])) if parts[False] else None,
        )
        for key, parts in found.items()
    }


def rate_sentences(table: pd.DataFrame, decision: Decision) -> list[str]:
    """What a reader should know of the rates: a best one that ends its grid, and one nearby that forgets much less."""
    said = []
    for (_, train_set, arm), group in table.groupby(["model", "train_set", "arm"], sort=False):
        chosen = group[group["chosen"]]
        if chosen.empty:
            continue
        best = chosen.iloc[0]
        name, rate = f"{arm} on {train_set}", f"{best['learning_rate']:g}"
        if best["at_end_of_grid"]:
            said.append(f"{name}: the best rate, {rate}, ends the grid that was searched; a better one may lie beyond")
        others = group[~group["chosen"] & (group["steps"] == best["steps"])].dropna(subset=["forgetting"])
        if pd.isna(best["forgetting"]) or others.empty:
            continue
        mildest = others.loc[others["forgetting"].astype(float).idxmin()]
        less = float(best["forgetting"] - mildest["forgetting"])
        if less > decision.retention_margin:
            said.append(
                f"{name}: the rate {mildest['learning_rate']:g} forgets about {reason_decimal(less)} points less than "
                f"the chosen {rate} (on the {best['probe_items']} items that choose, as trained) at a validation loss "
                f"of {mildest['validation_loss']:.3g} against {best['validation_loss']:.3g}"
            )
    return said
