"""What finished studies say to the claims of arXiv 2512.15634, claim by claim, with intervals, as Markdown.

    python scripts/paper_claims.py STUDY_FOLDER [STUDY_FOLDER ...]

Rank and retention: every LoRA rank against full fine-tuning and against the next smaller rank, in gain and in
forgetting, each arm at its chosen setting and as it was trained. Inside: how far singular vectors of the weights,
attention and hidden states moved, by arm, with the difference between the largest rank and the smallest, and between
the last third of the layers and the first. Intervals are at the study's confidence, each for itself: of gains and
forgetting those of the report (items crossed with seeds), of what is inside Student's over seeds, arms paired by seed.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import pandas as pd
from scipy.stats import t as student

from rankscope.decide.crossed_statistics import estimate
from rankscope.decide.gain_and_forgetting import intervals
from rankscope.decide.inside_tables import measures_by_run
from rankscope.decide.paired_items import Pairing, SuiteScores, pair
from rankscope.edges.study_folder import StudyFolder
from rankscope.records import Interval, Metric, Plan
from rankscope.results.frames import frames_of, planned_study
from rankscope.study.problems import InputProblems

KEPT, TURNED = "singular vectors kept, top 10", "singular vectors turned, top 10"
"""The mean cosine of the ten leading ones before and after, and its distance from 1."""

INSIDE = (
    TURNED,
    "intruder dimensions",
    "effective rank",
    "attention divergence",
    "cosine drift",
)
BY_LAYER = {"attention divergence": ("attention", "divergence"), "cosine drift": ("hidden", "cosine_drift")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="+")
    try:
        for url in parser.parse_args().folder:
            print("\n".join(_study(StudyFolder.open(url))))
    except InputProblems as error:
        print(error, file=sys.stderr)
        sys.exit(2)


def _study(folder: StudyFolder) -> Iterator[str]:
    """Raises InputProblems for a folder that holds no study."""
    study, plan = planned_study(folder)
    confidence = study.decision.confidence
    views = {"at the chosen settings": frames_of(folder, plan), "as trained": frames_of(folder, plan, [])}
    for choice in plan.choices:
        yield f"\n## {study.name}: {choice.model} trained on {choice.train_set}\n"
        for title, frames in views.items():
            yield from _arms(pair(frames, model=choice.model, train_set=choice.train_set), title, confidence)
        yield from _inside(folder, plan, choice.model, choice.train_set, confidence)


# ---- gain and forgetting --------------------------------------------------------------------------------------------


def _arms(pairing: Pairing, title: str, confidence: float) -> Iterator[str]:
    """Gain and forgetting of each arm, and what each LoRA arm has beyond full and beyond the next smaller rank: in
    points, and of suites that are judged by their loss in nats."""
    if not pairing.labels:
        yield f"No arm has finished runs to compare {title}.\n"
    units: dict[Metric, tuple[str, float, int]] = {"score": ("points", 100, 1), "loss": ("nats per token", 1, 3)}
    for metric, (unit, factor, digits) in units.items():
        inside, outside = pairing.in_domain_of(metric), pairing.others_of(metric)
        if not pairing.labels or not (inside or outside):
            continue
        yield f"### Gain and forgetting {title}, in {unit}\n"
        yield "| | gain | forgetting |\n| --- | --- | --- |"
        for name, contrast in _contrasts(pairing):
            parts = ((inside, 1), (outside, -1))  # forgetting is the loss, so its sign is turned
            cells = [_shown(_interval(suites, sign * contrast, confidence), factor, digits) for suites, sign in parts]
            yield f"| {name} | {' | '.join(cells)} |"
        yield ""


def _contrasts(pairing: Pairing) -> Iterator[tuple[str, np.ndarray]]:
    """Names and contrasts (1, 1 + arms), column 0 the base: arms against the base, LoRA against full, and by rank."""
    labels = pairing.labels
    facts = [pairing.facts(label) for label in labels]
    low = sorted((fact.rank, at) for at, fact in enumerate(facts) if fact.rank is not None)
    ranked = [at for _, at in low]
    full = [at for at, fact in enumerate(facts) if fact.method == "full"]
    pairs = [(at, other) for other in full for at in ranked]
    pairs += [(at, before) for before, at in pairwise(ranked)]
    pairs += [(ranked[-1], ranked[0])] if len(ranked) > 2 else []
    named = [(label, at + 1, 0) for at, label in enumerate(labels)]
    named += [(f"{labels[at]} minus {labels[other]}", at + 1, other + 1) for at, other in pairs]
    for name, plus, minus in named:
        contrast = np.zeros((1, len(labels) + 1))
        contrast[0, [minus, plus]] = -1, 1
        yield name, contrast


def _interval(suites: Sequence[SuiteScores], contrast: np.ndarray, confidence: float) -> Interval:
    return intervals(estimate([suite.arrays for suite in suites], contrast) if suites else None, confidence, 1)[0]


def _shown(found: Interval, factor: float = 1, digits: int = 1, sign: str = "+") -> str:
    if found.mean is None:
        return "not measured"
    ends = "" if found.low is None or found.high is None else (
        f" ({factor * found.low:.{digits}f} to {factor * found.high:.{digits}f})"
    )  # fmt: skip
    return f"{factor * found.mean:{sign}.{digits}f}{ends}"


# ---- inside ---------------------------------------------------------------------------------------------------------


def _inside(folder: StudyFolder, plan: Plan, model: str, train_set: str, confidence: float) -> Iterator[str]:
    """Measures by arm as trained, the largest rank minus the smallest, and the last third of layers minus the first."""
    tables = {name: folder.read_table(name) for name in ("spectra", "hidden", "attention", "neurons", "scores")}
    known = {name: table for name, table in tables.items() if table is not None and len(table)}
    if not known.keys() & {"spectra", "hidden", "attention"}:
        return
    mine = {name: t[(t["model"] == model) & (t["train_set"] == train_set)] for name, t in known.items()}
    values = measures_by_run(mine, known["scores"])
    values[TURNED] = 1 - values[KEPT].astype(float) if KEPT in values.columns else np.nan
    arms = {run.arm.label: run.arm.rank for run in plan.runs if (run.model, run.train_set) == (model, train_set)}
    ordered = sorted(arms, key=lambda label: arms[label] or math.inf)
    yield "### Inside, as trained: the mean over modules, layers and suites outside the domain\n"
    names = [name for name in INSIDE if name in values.columns]
    yield f"| | {' | '.join(names)} |\n|{' --- |' * (len(names) + 1)}"
    by_arm = {label: values[values["arm"] == label].set_index("seed")[names].astype(float) for label in ordered}
    for label in ordered:
        yield f"| {label} | {' | '.join(_number(by_arm[label][name], confidence) for name in names)} |"
    ranks = [label for label in ordered if arms[label] is not None]
    beside = [*pairwise(ranks), *([(ranks[0], ranks[-1])] if len(ranks) > 2 else [])]
    for before, label in beside:
        difference = by_arm[label] - by_arm[before]
        yield f"| {label} minus {before} | {' | '.join(_number(difference[n], confidence) for n in names)} |"
    yield "\n### By layer: the mean over the last third of the layers minus that over the first\n"
    yield f"| | {' | '.join(BY_LAYER)} |\n| --- | --- | --- |"
    for label in ordered:
        cells = [_number(_late_minus_early(mine, label, *BY_LAYER[name]), confidence) for name in BY_LAYER]
        yield f"| {label} | {' | '.join(cells)} |"
    yield ""


def _late_minus_early(tables: dict[str, pd.DataFrame], arm: str, table: str, column: str) -> pd.Series:
    """By seed."""
    frame = tables.get(table)
    frame = frame[frame["arm"] == arm] if frame is not None else None
    if frame is None or frame.empty:
        return pd.Series(dtype=float)
    count = int(frame["layer"].max()) + 1
    means = frame.assign(value=frame[column].astype(float)).groupby(["seed", "layer"])["value"].mean().unstack()
    third = max(1, count // 3)
    return means.iloc[:, -third:].mean(axis=1) - means.iloc[:, :third].mean(axis=1)


def _number(by_seed: pd.Series, confidence: float) -> str:
    values = by_seed.dropna().to_numpy(dtype=float)
    if not len(values):
        return "not measured"
    mean, low, high = float(values.mean()), None, None
    if len(values) > 1:
        half = student.isf((1 - confidence) / 2, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values))
        low, high = mean - half, mean + half
    digits = max(0, 2 - math.floor(math.log10(abs(mean)))) if mean else 2
    return _shown(Interval(mean=mean, low=low, high=high), digits=min(digits, 6), sign="")


if __name__ == "__main__":
    main()
