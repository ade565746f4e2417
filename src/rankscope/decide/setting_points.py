"""Makes the points that settings are chosen from: what each rate and dial scored on the items that choose.

Frames have one row for each arm, rate, dial, seed, suite and item; docs/records.md lists the columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from rankscope.decide.chance_level import chance_of, knows_nothing
from rankscope.decide.paired_items import item_values, metric_of
from rankscope.decide.retention_rule import over_choices
from rankscope.records import ArmSetting, SettingPoint
from rankscope.records.settings_record import Source

KEYS = ["arm", "learning_rate", "dial"]

RATE_NOT_KNOWN = 0.0
"""Stands for the rate of an arm that was trained elsewhere where points are told apart by their rate; no arm is trained
at it, and nobody outside sees it."""

OPERATING_POINTS = [
    "model", "train_set", "arm", "learning_rate", "dial", "source", "seeds", "validation_loss", "forgetting_select",
    "forgetting_select_nats", "select_items", "kl_first_token_nats", "kl_choices_nats", "fitted", "fitted_nats",
    "admissible", "chosen", "how",
]  # fmt: skip
"""Columns of the table of operating points; gain and forgetting by the items that judge stand beside them."""

JUDGED = [
    "judged_seeds",
    *(f"{measure}{unit}{end}" for unit in ("", "_nats") for measure in ("gain", "forgetting")
      for end in ("", "_low", "_high")),
]  # fmt: skip
"""Columns of what the study's own runs were judged to be, in shares of accuracy and of suites judged by their loss in
nats per token; each interval for itself, at the study's confidence."""

_TYPES: dict[str, Any] = {
    **dict.fromkeys(OPERATING_POINTS[7:15], "Float64"),
    "learning_rate": "float64",
    "dial": "float64",
    "seeds": "Int64",
    "admissible": "boolean",
}


class SettingMeasurements(NamedTuple):
    """What was measured of some arms: `scores` (KEYS, seed, suite, item_id and what an item is worth), `moved` (KEYS,
    seed, suite, item_id, kl_first_token_nats, kl_choices_nats), `losses` (KEYS, seed, validation_loss)."""

    scores: pd.DataFrame
    moved: pd.DataFrame
    losses: pd.DataFrame


def setting_points(
    measured: SettingMeasurements, base: pd.DataFrame, suites: pd.DataFrame, source: Source
) -> list[SettingPoint]:
    """A point for each arm, rate and dial that has a validation loss in every seed that the arm has at that rate.

    `base` is what the base scored on every item (suite, item_id, choice_logprobs, ...), `suites` has suite, form and
    metric; suites on which the base only guesses are left out, as where arms are judged, but where it guesses on all.
    Forgetting is the mean over a suite's items that base and arm have a score on, then over suites with equal weight,
    then over seeds; divergences likewise.
    """
    losses = measured.losses.dropna(subset=["validation_loss"])
    if losses.empty:
        return []
    known = [_counts(base[base["suite"] == row["suite"]], row) for row in suites.to_dict("records")]
    counted = suites[known] if any(known) else suites
    lost = _forgetting(measured.scores, base, counted)
    moved = _divergences(measured.moved[measured.moved["suite"].isin(counted["suite"])])
    seeds = {
        (str(arm), float(rate)): own["seed"].nunique()  # type: ignore[arg-type]
        for (arm, rate), own in losses.groupby(KEYS[:2])
    }
    points = []
    tables = [table.to_dict("index") for table in (lost, moved)]
    for key, group in losses.groupby(KEYS, sort=True):
        arm, rate, dial = (str(key[0]), *map(float, key[1:]))  # type: ignore[arg-type]
        count = group["seed"].nunique()
        if count < seeds[arm, rate]:
            continue
        values: dict[str, Any] = {}
        for table in tables:
            values |= {str(n): None if pd.isna(v) else v for n, v in table.get((arm, rate, dial), {}).items()}
        values["select_items"] = values.get("select_items") or 0.0
        mean = float(group["validation_loss"].astype(float).mean())
        known_rate = None if rate == RATE_NOT_KNOWN else rate
        named = {"arm": arm, "learning_rate": known_rate, "dial": dial, "source": source, "seeds": int(count)}
        points.append(SettingPoint.model_validate({**named, "validation_loss": mean, **values}))
    return points


def _counts(base: pd.DataFrame, row: Mapping[Any, Any]) -> bool:
    """Whether a suite has something that can be forgotten, by what the base scored on it."""
    if metric_of(row) == "loss":
        return True
    known = pd.to_numeric(base["score"]).dropna().to_numpy(dtype=float)
    return bool(len(known)) and not knows_nothing(known, chance_of(base, row["form"]))


def _forgetting(scores: pd.DataFrame, base: pd.DataFrame, suites: pd.DataFrame) -> pd.DataFrame:
    """forgetting, forgetting_nats and select_items (a suite in the mean, of whichever metric) by KEYS."""
    parts = []
    for row in suites.to_dict("records"):
        metric = metric_of(row)
        mine, before = scores[scores["suite"] == row["suite"]], base[base["suite"] == row["suite"]]
        if mine.empty or before.empty:
            continue
        before = before.assign(before=item_values(before, metric))[["item_id", "before"]].drop_duplicates("item_id")
        joined = mine.assign(after=item_values(mine, metric)).merge(before.astype({"item_id": "str"}), on="item_id")
        joined = joined.dropna(subset=["before", "after"])
        joined = joined.assign(lost=joined["before"] - joined["after"], metric=metric, suite=str(row["suite"]))
        parts.append(joined[[*KEYS, "seed", "suite", "metric", "item_id", "lost"]])
    if not parts:
        return pd.DataFrame(columns=["forgetting", "forgetting_nats", "select_items"])
    rows = pd.concat(parts, ignore_index=True)
    groups = rows.groupby([*KEYS, "seed", "metric", "suite"], as_index=False)
    by_suite = groups.agg(lost=("lost", "mean"), items=("item_id", "size"))
    means = by_suite.groupby([*KEYS, "metric"], as_index=False).agg(lost=("lost", "mean"))
    wide = means.pivot(index=KEYS, columns="metric", values="lost").reindex(columns=["score", "loss"])
    wide.columns = pd.Index(["forgetting", "forgetting_nats"])
    return wide.assign(select_items=by_suite.groupby(KEYS)["items"].mean())


def _divergences(moved: pd.DataFrame) -> pd.DataFrame:
    """Means over prompts, then over suites and seeds, by KEYS. That over the choices is of the suites that have any,
    and not known where less than half of them do."""
    columns = ["kl_first_token_nats", "kl_choices_nats"]
    if moved.empty:
        return pd.DataFrame(columns=columns)
    floats = moved.astype(dict.fromkeys(columns, float))
    by_suite = floats.groupby([*KEYS, "seed", "suite"])[columns].mean()
    means, counts = by_suite.groupby(KEYS).mean(), by_suite.groupby(KEYS).count()
    enough = np.array([over_choices(*pair) for pair in zip(counts[columns[1]], counts[columns[0]], strict=True)])
    return means.assign(kl_choices_nats=means[columns[1]].where(enough))


def operating_points(settings: list[ArmSetting], judged: pd.DataFrame) -> pd.DataFrame:
    """OPERATING_POINTS and JUDGED: one row for each point.

    `judged` has model, train_set, KEYS and JUDGED, what the study's own seeds were measured to gain and forget at a
    rate and dial on the items that judge; a point without that has none.
    """
    rows = []
    for setting in settings:
        for point in setting.points:
            own = point.model_dump()
            shares = [
                (own[name], limit)
                for name, limit in (("fitted", setting.limit), ("fitted_nats", setting.limit_nats))
                if own[name] is not None and limit is not None
            ]
            rows.append(
                {
                    "model": setting.model,
                    "train_set": setting.train_set,
                    **own,
                    "forgetting_select": own["forgetting"],
                    "forgetting_select_nats": own["forgetting_nats"],
                    "admissible": all(value <= limit for value, limit in shares) if shares else None,
                    "chosen": point is setting.point,
                    "how": setting.how,
                }
            )
    keys = ["model", "train_set", *KEYS]
    judged = judged.astype({"learning_rate": float})  # all None where no run has ended
    frame = pd.DataFrame(rows, columns=OPERATING_POINTS).astype(_TYPES).merge(judged, on=keys, how="left")
    return frame.sort_values([*keys, "source"]).reset_index(drop=True)
