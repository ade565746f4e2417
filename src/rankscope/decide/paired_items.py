"""Pairs predictions: the same items and the same seeds in every arm, as arrays, and what is set aside for that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from rankscope.decide.crossed_statistics import SuiteArrays
from rankscope.decide.run_outcomes import ArmFacts, arm_facts, changed_share
from rankscope.records import Relation

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class SuiteScores:
    """One suite, paired: `base` (I,), `scores` (N, K, I) for N arms, K seeds, I items that every run scored.

    `clusters` (I,) numbers the cluster of each item (several questions on one text), None where each is its own.
    """

    name: str
    domain: str | None
    relation: Relation
    kind: str | None
    item_ids: tuple[str, ...]
    base: Floats
    scores: Floats
    left_out: int = 0
    clusters: NDArray[np.int64] | None = None
    noise: float = 0.0
    """The share of items that the base answers otherwise in other batches."""

    @property
    def arrays(self) -> SuiteArrays:
        return SuiteArrays(self.base, self.scores, self.clusters)


@dataclass(frozen=True)
class Pairing:
    """What is compared (`labels` and `seeds` are the first two axes of every suite's scores) and what is not."""

    model: str
    train_set: str
    labels: tuple[str, ...]
    seeds: tuple[int, ...]
    suites: tuple[SuiteScores, ...]
    arms: tuple[ArmFacts, ...]
    unfinished: int = 0
    missing_suites: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=())

    @property
    def in_domain(self) -> tuple[SuiteScores, ...]:
        return tuple(suite for suite in self.suites if suite.relation == "in-domain")

    @property
    def others(self) -> tuple[SuiteScores, ...]:
        return tuple(suite for suite in self.suites if suite.relation != "in-domain")

    def facts(self, label: str) -> ArmFacts:
        return next(arm for arm in self.arms if arm.label == label)


def text_or_none(value: object) -> str | None:
    """A name from a frame, where None, NaN and NA all mean none."""
    return value if isinstance(value, str) and value else None


def relation(suite_domain: str | None, train_domain: str | None) -> Relation:
    """In-domain if same domain, general if the suite has no domain, else out-of-domain."""
    if suite_domain is None:
        return "general"
    return "in-domain" if suite_domain == train_domain else "out-of-domain"


class Frames(NamedTuple):
    """What a study has measured: every run's items joined (the base as arm `base`), a row per suite, a row per planned
    run; docs/records.md lists columns."""

    predictions: pd.DataFrame
    suites: pd.DataFrame
    runs: pd.DataFrame


def pair(frames: Frames, *, model: str, train_set: str, only: Sequence[str] | None = None) -> Pairing:
    """Join the runs of one base model and training set by item, over the seeds that the compared arms share.

    An item without a score in any of these runs, or in the base, is left out of every arm and counted; nothing is
    imputed. Arms with a diverged run, without a done run or with too few seeds are not compared and keep their state.
    `only` restricts the comparison to these labels (a description of arms that were set aside), whatever their state.
    Text suites take no part. Raises ValueError where no run of this model and training set is given.
    """
    runs = frames.runs
    mine = runs[(runs["model"] == model) & (runs["train_set"] == train_set)]
    if mine.empty:
        raise ValueError(f"no run of {model} on {train_set}")
    facts = arm_facts(mine)
    arms = [arm for arm in facts if arm.label in only] if only is not None else [a for a in facts if a.problem is None]
    arms, seeds, notes = _shared_seeds(arms)
    labels = tuple(arm.label for arm in arms)
    facts = tuple(
        arm if only is not None or arm.problem is not None or arm.label in labels else arm.set_aside() for arm in facts
    )
    scored = frames.predictions[frames.predictions["model"] == model]
    train_domain = text_or_none(mine["train_domain"].iloc[0])
    paired: list[SuiteScores] = []
    gone: list[str] = []
    for row in frames.suites.sort_values("suite").to_dict("records"):
        if row["form"] == "text" or not seeds:
            continue
        suite, suite_notes = _pair_suite(scored, row, train_set, train_domain, labels, seeds)
        notes += suite_notes
        if suite is not None:
            paired.append(suite)
        else:
            gone.append(str(row["suite"]))
    unfinished = int(mine["state"].isin(["planned", "running", "not needed"]).sum())
    return Pairing(model, train_set, labels, seeds, tuple(paired), facts, unfinished, tuple(gone), tuple(notes))


def _shared_seeds(arms: list[ArmFacts]) -> tuple[list[ArmFacts], tuple[int, ...], list[str]]:
    """Arms and the seeds all of them have. Where fewer than two are shared, arms with the fewest seeds step aside."""
    notes = []
    everything = {seed for arm in arms for seed in arm.seeds}
    kept = list(arms)
    while len(kept) > 1 and (not _common(kept) or (len(_common(kept)) < 2 and max(len(arm.seeds) for arm in kept) > 1)):
        fewest = min(kept, key=lambda arm: (len(arm.seeds), -(arm.trainable_parameters or 0), arm.label))
        kept.remove(fewest)
    shared = _common(kept)
    if kept and set(shared) != everything:
        notes.append(
            f"Not every arm has every seed: the comparison uses the seeds that all compared arms share "
            f"({', '.join(map(str, shared)) or 'none'})."
        )
    return kept, shared, notes


def _common(arms: list[ArmFacts]) -> tuple[int, ...]:
    sets = [set(arm.seeds) for arm in arms]
    return tuple(sorted(set.intersection(*sets))) if sets else ()


def _pair_suite(
    scored: pd.DataFrame,
    row: dict[Any, Any],
    train_set: str,
    train_domain: str | None,
    labels: tuple[str, ...],
    seeds: tuple[int, ...],
) -> tuple[SuiteScores | None, list[str]]:
    name = str(row["suite"])
    here = scored[scored["suite"] == name]
    base = here.loc[here["arm"] == "base"].drop_duplicates("item_id").set_index("item_id")["score"]
    runs = here[(here["train_set"] == train_set) & here["arm"].isin(labels) & here["seed"].isin(seeds)]
    runs = runs.assign(seed=runs["seed"].astype(int))
    wide = runs.pivot_table(index="item_id", columns=["arm", "seed"], values="score", aggfunc="first", dropna=False)
    wide = wide.reindex(columns=pd.MultiIndex.from_product([labels, seeds]))
    empty = wide.isna().all().to_numpy()
    missing = [f"{arm} seed {seed}" for (arm, seed), gone in zip(product(labels, seeds), empty, strict=True) if gone]
    if base.dropna().empty:
        return None, [f"Suite {name} is left out: the base model has no scores on it."]
    if missing:
        return None, [f"Suite {name} is left out: it was not scored for {', '.join(missing)}."]
    joined = wide.reindex(wide.index.union(base.index)).sort_index()
    base_scores = base.reindex(joined.index)
    whole = (joined.notna().all(axis=1) & base_scores.notna()).to_numpy()
    left_out = int((~whole).sum())
    notes = [f"{left_out} items of {name} lack a score in some run and are left out of every arm."] if left_out else []
    if not whole.any():
        return None, [f"Suite {name} is left out: no item was scored in every run."]
    values = joined.to_numpy(dtype=float)[whole]
    domain = text_or_none(row["domain"])
    return (
        SuiteScores(
            name=name,
            domain=domain,
            relation=relation(domain, train_domain),
            kind=text_or_none(row["kind"]),
            item_ids=tuple(str(item) for item in joined.index[whole]),
            base=base_scores.to_numpy(dtype=float)[whole],
            scores=np.ascontiguousarray(values.T.reshape(len(labels), len(seeds), -1)),
            left_out=left_out,
            clusters=cluster_numbers(here, joined.index[whole]),
            noise=changed_share(here[here["arm"] == "base"], list(joined.index[whole])),
        ),
        notes,
    )


def cluster_numbers(here: pd.DataFrame, item_ids: pd.Index) -> NDArray[np.int64] | None:
    """The cluster of each item by number, as the base's rows name it; an item without a name is its own cluster."""
    if "cluster" not in here.columns:
        return None
    base = here.loc[here["arm"] == "base"].drop_duplicates("item_id").set_index("item_id")["cluster"]
    names = base.reindex(item_ids)
    if names.isna().all():
        return None
    own = [("item", item) if pd.isna(name) else ("cluster", name) for item, name in zip(item_ids, names, strict=True)]
    return pd.factorize(pd.Series(own, dtype=object))[0].astype(np.int64)
