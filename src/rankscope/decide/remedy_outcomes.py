"""What each remedy is worth against its own arm: the arm of the same method and size that does nothing beside its task.

Both are paired by items and seeds; docs/measures.md, "Remedies", has the formulas.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from rankscope.decide.crossed_statistics import SuiteArrays, estimate
from rankscope.decide.gain_and_forgetting import intervals
from rankscope.decide.paired_items import METRICS, Frames, Pairing, pair
from rankscope.records import Interval, Metric, RemedyOutcome, RemedyPart
from rankscope.records.readable_numbers import bare, listing, unit_name

_SAME = ("method", "rank", "alpha", "targets")


class Means(NamedTuple):
    """What an arm and its own one gain and forget, in one unit; None where there is no such suite."""

    gain: float | None
    gain_own: float | None
    forgets: float | None
    forgets_own: float | None


def remedy_outcomes(frames: Frames, model: str, train_set: str, confidence: float) -> list[RemedyOutcome]:
    """One for each arm with a remedy that has done runs and an arm of its own to be compared with, in the runs' order.

    Intervals are two-sided at `confidence`, each for itself: they describe, and no arm is recommended by them. An arm's
    own one has the same method, size, alpha and targets, and no remedy; of several the one with the same learning rate.
    """
    runs = frames.runs
    if "remedy" not in runs:
        return []
    mine = runs[(runs["model"] == model) & (runs["train_set"] == train_set)]
    remedies = mine.drop_duplicates("arm").set_index("arm")["remedy"]
    found = []
    for arm, own in own_arms(mine).items():
        if not _done(mine, arm) & _done(mine, own):
            continue
        pairing = pair(frames, model=model, train_set=train_set, only=[arm, own])
        if len(pairing.labels) == 2:
            found.append(outcome_against(pairing, arm, own, str(remedies[arm]), mine, confidence))
    return found


def own_arms(runs: pd.DataFrame) -> dict[str, str]:
    """By arm with a remedy its own one without, of the runs of one base model and training set, in their order."""
    first = runs.drop_duplicates("arm")
    pairs = ((str(row["arm"]), _own_arm(row, first)) for row in first[first["remedy"].notna()].to_dict("records"))
    return {arm: own for arm, own in pairs if own is not None}


def best_sentence(outcomes: list[RemedyOutcome]) -> str | None:
    """The remedy that surely saves forgetting and pays most for it, in a sentence; None where none surely saves any."""
    for unit in ("", "_nats"):
        known = [(one, getattr(one, f"forgetting_saved{unit}"), getattr(one, f"gain_lost{unit}")) for one in outcomes]
        sure = [entry for entry in known if entry[1] is not None and entry[1].low is not None and entry[1].low > 0]
        if sure:
            return max(sure, key=lambda entry: (entry[1].mean or 0.0) - (entry[2].mean or 0.0))[0].sentence
    return None


def _own_arm(row: Mapping[Any, Any], arms: pd.DataFrame) -> str | None:
    same = arms[arms["remedy"].isna()]
    for name in _SAME:
        wanted = row[name]
        same = same[same[name].isna()] if pd.isna(wanted) else same[same[name] == wanted]
    if same.empty:
        return None
    rates = same[same["learning_rate"] == row["learning_rate"]]
    return str((same if rates.empty else rates)["arm"].iloc[0])


def _done(runs: pd.DataFrame, arm: object) -> set[int]:
    return set(runs[(runs["arm"] == arm) & (runs["state"] == "done")]["seed"])


def outcome_against(
    pairing: Pairing, arm: str, own: str, remedy: str, runs: pd.DataFrame, confidence: float, subject: str = ""
) -> RemedyOutcome:
    """The arm `arm` against `own`, both of the pairing. `runs`: those of its base model and training set.

    `subject`: how the sentence calls an arm that is compared with itself.
    """
    here, there = pairing.labels.index(arm), pairing.labels.index(own)
    differences: dict[Metric, tuple[Interval, Interval]] = {}
    means: dict[Metric, Means] = {}
    for metric in METRICS:
        suites = pairing.in_domain_of(metric), pairing.others_of(metric)
        inside, outside = ([suite.arrays for suite in part] for part in suites)
        lost, saved = (_difference(part, here, there, confidence, sign) for part, sign in ((inside, -1), (outside, 1)))
        differences[metric] = lost, saved
        forgets = [None if (v := _against_base(outside, i)) is None else -v for i in (here, there)]
        means[metric] = Means(_against_base(inside, here), _against_base(inside, there), *forgets)
    in_nats = any(part.mean is not None for part in differences["loss"])
    seconds = [runs[runs["arm"] == label]["train_seconds"].astype(float).mean() for label in (arm, own)]
    share = float(seconds[0] / seconds[1] - 1) if seconds[1] > 0 and not np.isnan(seconds[0]) else None
    tokens = pd.to_numeric(runs[runs["arm"] == arm]["extra_tokens_share"]).max()
    more = None if pd.isna(tokens) else float(tokens)
    return RemedyOutcome(
        arm=arm,
        own_arm=own,
        remedy=remedy,
        seeds=list(pairing.seeds),
        gain_lost=differences["score"][0],
        forgetting_saved=differences["score"][1],
        gain_lost_nats=differences["loss"][0] if in_nats else None,
        forgetting_saved_nats=differences["loss"][1] if in_nats else None,
        extra_tokens_share=more,
        extra_seconds_share=share,
        sentence=_sentence(subject or arm, "" if subject else own, means, more, share),
        parts=_parts(pairing, (here, there), _gave(runs, arm), confidence),
    )


def _gave(runs: pd.DataFrame, arm: str) -> tuple[str, ...]:
    """The suites that gave prompts of what the arm replays."""
    found = runs.loc[runs["arm"] == arm, "prompts_from"] if "prompts_from" in runs else ()
    return tuple(next(iter(found), ()))


def _parts(pairing: Pairing, arms: tuple[int, int], gave: tuple[str, ...], confidence: float) -> list[RemedyPart]:
    """Forgetting of the first arm, and what it saves against the second, apart for suites that gave prompts and for
    those that gave none; nothing where none gave any."""
    found = []
    for gives in (True, False) if gave else ():
        suites = [suite for suite in pairing.others if (suite.name in gave) == gives]
        if suites:
            arrays = [suite.arrays for suite in suites]
            found.append(
                RemedyPart(
                    gave_prompts=gives,
                    suites=[suite.name for suite in suites],
                    forgetting=_difference(arrays, arms[0], None, confidence, -1),
                    forgetting_saved=_difference(arrays, *arms, confidence, 1),
                )
            )
    return found


def _difference(suites: list[SuiteArrays], here: int, there: int | None, confidence: float, sign: int) -> Interval:
    """The mean over suites of the mean over items and seeds of arm `here` minus arm `there` (None: the base), times
    `sign`."""
    if not suites:
        return Interval(mean=None, low=None, high=None)
    contrast = np.zeros((1, 1 + len(suites[0].scores)))
    contrast[0, 1 + here], contrast[0, 0 if there is None else 1 + there] = sign, -sign
    return intervals(estimate(suites, contrast), confidence, 1)[0]


def _against_base(suites: list[SuiteArrays], arm: int) -> float | None:
    if not suites:
        return None
    return float(np.mean([suite.scores[arm].mean() - suite.base.mean() for suite in suites]))


def _sentence(arm: str, own: str, means: Mapping[Metric, Means], tokens: float | None, seconds: float | None) -> str:
    """`ARM keeps 98 % of OWN's gain and forgets 2.0 points instead of 9.0, for 25 % more tokens and 40 % more time`; of
    an arm that is compared with itself (no `own`) `keeps 98 % of its gain`."""
    said = [part for metric in METRICS for part in _done_in(metric, means[metric], own)]
    price = [f"{100 * tokens:.0f} % more tokens"] if tokens else []
    price += [f"{100 * seconds:.0f} % more time"] if seconds is not None and seconds > 0.005 else []
    return f"{arm} {listing(said)}" + (f", for {' and '.join(price)}" if price else "")


def _done_in(metric: Metric, means: Means, own: str) -> list[str]:
    """What the arm keeps of its own one's gain, and what it forgets, in one unit."""
    unit, said = unit_name(metric), []
    whose, who = (f"{own}'s", own) if own else ("its", "as trained it")
    gain, gain_own, forgets, forgets_own = means
    if gain is not None and gain_own is not None and gain_own > 0:
        of = " in nats" if metric == "loss" else ""
        said.append(f"keeps {100 * gain / gain_own:.0f} % of {whose} gain{of}")
    elif gain is not None and gain_own is not None:
        said.append(f"gains {bare(gain, metric)} {unit} where {who} gains {bare(gain_own, metric)}")
    if forgets is not None and forgets_own is not None:
        said.append(f"forgets {bare(forgets, metric)} {unit} instead of {bare(forgets_own, metric)}")
    return said
