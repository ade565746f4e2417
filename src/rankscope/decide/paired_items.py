"""Pairs predictions: the same items and the same seeds in every arm, as arrays, and what is set aside for that."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from rankscope.decide.chance_level import chance_of, nothing_to_forget
from rankscope.decide.crossed_statistics import SuiteArrays
from rankscope.decide.judging_items import judging
from rankscope.decide.run_outcomes import ArmFacts, arm_facts, moved_by_rounding
from rankscope.records import Metric, Relation

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
    """How far rounding alone moves the base's mean at most, were all items moved alike: the share of items that it
    answers otherwise in other batches, or of losses the mean absolute difference in nats."""
    metric: Metric = "score"
    """`score`: from 0 to 1; `loss`: minus the mean loss over an item's tokens in nats, so that more is better too."""
    chance: float | None = None
    """What guessing would have right; None where it is not known, and for losses."""
    left_out_of_mean: str | None = None
    """Why the suite is no part of the mean that forgetting is; None where it is part of it, or in the domain."""

    @property
    def arrays(self) -> SuiteArrays:
        """The scores as the estimators of crossed_statistics.py take them."""
        return SuiteArrays(self.base, self.scores, self.clusters, bounded=self.metric == "score")


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
        """The suites that gain is the mean of, in points."""
        return self.in_domain_of("score")

    @property
    def others(self) -> tuple[SuiteScores, ...]:
        """The suites that forgetting is the mean of, in points."""
        return self.others_of("score")

    def in_domain_of(self, metric: Metric) -> tuple[SuiteScores, ...]:
        """The suites of one metric that gain is the mean of."""
        return tuple(suite for suite in self.suites if suite.metric == metric and suite.relation == "in-domain")

    def others_of(self, metric: Metric) -> tuple[SuiteScores, ...]:
        """The suites of one metric that forgetting is the mean of."""
        outside = (suite for suite in self.suites if suite.metric == metric and suite.relation != "in-domain")
        return tuple(suite for suite in outside if suite.left_out_of_mean is None)

    def facts(self, label: str) -> ArmFacts:
        """The arm of this label, compared or not. Raises StopIteration where there is none."""
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
    Items that choose settings (`role` is `select`) take no part and are not counted; plain text takes none but where
    its suite's metric is the loss. Raises ValueError where no run of this model and training set is given.
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
    train_domain = text_or_none(mine["train_domain"].iloc[0])
    columns = [(label, seed) for label in labels for seed in seeds]
    rows_of = _scored_rows(frames.predictions, model, train_set, columns)
    paired: list[SuiteScores] = []
    gone: list[str] = []
    for row in frames.suites.sort_values("suite").to_dict("records"):
        metric = metric_of(row)
        if (row["form"] == "text" and metric != "loss") or not seeds:
            continue
        suite, suite_notes = _pair_suite(rows_of(str(row["suite"]), metric), row, train_domain, labels, seeds)
        notes += suite_notes
        if suite is not None:
            paired.append(suite)
        else:
            gone.append(str(row["suite"]))
    unfinished = int(mine["state"].isin(["planned", "running", "not needed"]).sum())
    return Pairing(model, train_set, labels, seeds, tuple(paired), facts, unfinished, tuple(gone), tuple(notes))


METRICS: tuple[Metric, ...] = ("score", "loss")


def metric_of(row: Mapping[Any, Any]) -> Metric:
    """The metric of a row of the suites' frame; a study from before losses were judged has scores only."""
    return "loss" if row.get("metric") == "loss" else "score"


def item_values(rows: pd.DataFrame, metric: Metric) -> Floats:
    """What each row of predictions is worth, more being better, NaN where it was not scored: its score, or minus its
    mean loss in nats over the tokens that were scored."""
    if metric == "score":
        return pd.to_numeric(rows["score"]).to_numpy(dtype=float, na_value=np.nan)
    loss = pd.to_numeric(rows["loss_nats"]).to_numpy(dtype=float, na_value=np.nan)
    tokens = pd.to_numeric(rows["scored_tokens"]).to_numpy(dtype=float, na_value=np.nan)
    return -loss / np.where(tokens > 0, tokens, np.nan)


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


class _Rows(NamedTuple):
    """One suite's rows: the base's as a frame, each item once, with `value`; of the runs each row's item, column and
    value."""

    base: pd.DataFrame
    items: pd.Categorical
    columns: NDArray[np.int64]
    scores: Floats


def _scored_rows(
    predictions: pd.DataFrame, model: str, train_set: str, columns: Sequence[tuple[str, int]]
) -> Callable[[str, Metric], _Rows]:
    """What gives a suite's rows of one base model: its own, and those of the runs that are `columns`, (arm, seed)."""
    ours = (predictions["model"] == model).to_numpy()
    is_base = ours & (predictions["arm"] == "base").to_numpy()
    place = {column: i for i, column in enumerate(columns)}
    # One small table of (arm, seed) instead of a comparison of every row's text.
    arm_codes, arm_names = pd.factorize(predictions["arm"])
    seed_codes, seed_values = pd.factorize(predictions["seed"])
    table = np.full((len(arm_names) + 1, len(seed_values) + 1), -1)  # the last row and column: missing
    for (i, arm), (j, seed) in product(enumerate(arm_names), enumerate(seed_values)):
        table[i, j] = place.get((str(arm), int(seed)), -1)
    column = np.where(ours & (predictions["train_set"] == train_set).to_numpy(), table[arm_codes, seed_codes], -1)
    judges = judging(predictions, model, train_set)
    column, is_base = np.where(judges, column, -1), is_base & judges
    items, suites = predictions["item_id"].astype("category").array, predictions["suite"]
    worth = predictions[["score", "loss_nats", "scored_tokens"]]

    def rows_of(suite: str, metric: Metric) -> _Rows:
        here = (suites == suite).to_numpy()
        rows = np.flatnonzero(here & (column >= 0))
        base = predictions[here & is_base].drop_duplicates("item_id").astype({"item_id": "str"})
        base["value"] = item_values(base, metric)
        return _Rows(base, items[rows], column[rows], item_values(worth.iloc[rows], metric))

    return rows_of


def _matrix(rows: _Rows, column_count: int) -> tuple[pd.Index, Floats]:
    """The items of a suite in the order of their text, the base's too, and their scores (columns, I), NaN where none.

    Of two rows with the same item and column the first that has a score counts.
    """
    known = pd.Index(rows.items.categories[np.unique(rows.items.codes)].astype("str"))
    item_ids = known.union(pd.Index(rows.base["item_id"])).sort_values()
    places = item_ids.get_indexer(rows.items.categories.astype("str"))
    scored = np.flatnonzero(~np.isnan(rows.scores))[::-1]  # the last written stays
    scores = np.full((column_count, len(item_ids)), np.nan)
    scores[rows.columns[scored], places[rows.items.codes[scored]]] = rows.scores[scored]
    return item_ids, scores


def _pair_suite(
    rows: _Rows, row: dict[Any, Any], train_domain: str | None, labels: tuple[str, ...], seeds: tuple[int, ...]
) -> tuple[SuiteScores | None, list[str]]:
    name, base = str(row["suite"]), rows.base
    if base["value"].dropna().empty:
        return None, [f"Suite {name} is left out: the base model has no scores on it."]
    item_ids, scores = _matrix(rows, len(labels) * len(seeds))
    empty: list[bool] = np.all(np.isnan(scores), axis=1).tolist()
    missing = [f"{arm} seed {seed}" for (arm, seed), gone in zip(product(labels, seeds), empty, strict=True) if gone]
    if missing:
        return None, [f"Suite {name} is left out: it was not scored for {', '.join(missing)}."]
    base_scores = base.set_index("item_id")["value"].reindex(item_ids).to_numpy(dtype=float, na_value=np.nan)
    whole = ~(np.isnan(scores).any(axis=0) | np.isnan(base_scores))
    left_out = int((~whole).sum())
    notes = [f"{left_out} items of {name} lack a score in some run and are left out of every arm."] if left_out else []
    if not whole.any():
        return None, [f"Suite {name} is left out: no item was scored in every run."]
    domain, metric = text_or_none(row["domain"]), metric_of(row)
    related, chance = relation(domain, train_domain), chance_of(base, row["form"]) if metric == "score" else None
    reason = None
    if metric == "score" and related != "in-domain":
        reason = nothing_to_forget(name, base_scores[whole], chance)
        notes += [f"{reason}."] if reason else []
    return (
        SuiteScores(
            name=name,
            domain=domain,
            relation=related,
            kind=text_or_none(row["kind"]),
            item_ids=tuple(str(item) for item in item_ids[whole]),
            base=base_scores[whole],
            scores=np.ascontiguousarray(scores[:, whole].reshape(len(labels), len(seeds), -1)),
            left_out=left_out,
            clusters=cluster_numbers(base, item_ids[whole]),
            noise=moved_by_rounding(base, list(item_ids[whole]), metric),
            metric=metric,
            chance=chance,
            left_out_of_mean=reason,
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
