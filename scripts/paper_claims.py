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
from rankscope.records import Interval, Plan
from rankscope.results.frames import frames_of, planned_study

INSIDE = (
    "singular vectors kept, top 10",
    "intruder dimensions",
    "effective rank",
    "attention divergence",
    "cosine drift",
)
BY_LAYER = {"attention divergence": ("attention", "divergence"), "cosine drift": ("hidden", "cosine_drift")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="+")
    for url in parser.parse_args().folder:
        folder = StudyFolder.open(url)
        study, plan = planned_study(folder)
        confidence = study.decision.confidence
        for choice in plan.choices:
            print(f"\n## {study.name}: {choice.model} trained on {choice.train_set}\n")
            for title, frames in (
                ("at the chosen settings", frames_of(folder, plan)), ("as trained", frames_of(folder, plan, [])),
            ):  # fmt: skip
                pairing = pair(frames, model=choice.model, train_set=choice.train_set)
                print("\n".join(_arms(pairing, title, confidence)))
            print("\n".join(_inside(folder, plan, choice.model, choice.train_set, confidence)))


# ---- gain and forgetting --------------------------------------------------------------------------------------------


def _arms(pairing: Pairing, title: str, confidence: float) -> Iterator[str]:
    """Gain and forgetting of each arm, and what each LoRA rank has beyond full and beyond the next smaller rank."""
    labels = pairing.labels
    yield f"### Gain and forgetting {title}, in points\n"
    yield "| | gain | forgetting |\n| --- | --- | --- |"
    for at, label in enumerate(labels):
        yield _row(label, pairing, _contrast(at + 1, 0, len(labels)), confidence)
    ranks = sorted((r, at) for at, label in enumerate(labels) if (r := _rank(pairing, label)) is not None)
    full = next((at for at, label in enumerate(labels) if _rank(pairing, label) is None), None)
    pairs = [] if full is None else [(f"r = {rank} minus full", at, full) for rank, at in ranks]
    beside = [*pairwise(ranks), *([(ranks[0], ranks[-1])] if len(ranks) > 2 else [])]
    pairs += [(f"r = {rank} minus r = {smaller}", at, before) for (smaller, before), (rank, at) in beside]
    for name, at, other in pairs:
        yield _row(name, pairing, _contrast(at + 1, other + 1, len(labels)), confidence)
    yield ""


def _rank(pairing: Pairing, label: str) -> int | None:
    return pairing.facts(label).rank


def _contrast(plus: int, minus: int, arm_count: int) -> np.ndarray:
    """(1, 1 + arms): column 0 is the base, column 1 + i arm i."""
    contrast = np.zeros((1, arm_count + 1))
    contrast[0, [minus, plus]] = -1, 1
    return contrast


def _row(name: str, pairing: Pairing, contrast: np.ndarray, confidence: float) -> str:
    """`contrast` (1, 1 + arms) weighs the base and the arms; forgetting is the loss, so its sign is turned."""

    def said(suites: Sequence[SuiteScores], sign: int) -> str:
        part = estimate([suite.arrays for suite in suites], sign * contrast) if suites else None
        return _points(intervals(part, confidence, 1)[0], 100)

    return f"| {name} | {said(pairing.in_domain, 1)} | {said(pairing.others, -1)} |"


def _points(found: Interval, factor: float = 1, digits: int = 1) -> str:
    if found.mean is None:
        return "not measured"
    ends = "" if found.low is None or found.high is None else (
        f" ({factor * found.low:.{digits}f} to {factor * found.high:.{digits}f})"
    )  # fmt: skip
    return f"{factor * found.mean:+.{digits}f}{ends}"


# ---- inside ---------------------------------------------------------------------------------------------------------


def _inside(folder: StudyFolder, plan: Plan, model: str, train_set: str, confidence: float) -> Iterator[str]:
    """Measures by arm as trained, the largest rank minus the smallest, and the last third of layers minus the first."""
    tables = {name: folder.read_table(name) for name in ("spectra", "hidden", "attention", "neurons", "scores")}
    known = {name: table for name, table in tables.items() if table is not None and len(table)}
    if not known.keys() & {"spectra", "hidden", "attention"}:
        return
    mine = {name: t[(t["model"] == model) & (t["train_set"] == train_set)] for name, t in known.items()}
    values = measures_by_run(mine, known["scores"])
    arms = {run.arm.label: run.arm.rank for run in plan.runs if (run.model, run.train_set) == (model, train_set)}
    ordered = sorted(arms, key=lambda label: arms[label] or math.inf)
    yield "### Inside, as trained: the mean over modules, layers and suites outside the domain\n"
    names = [name for name in INSIDE if name in values.columns]
    yield f"| | {' | '.join(names)} |\n|{' --- |' * (len(names) + 1)}"
    by_arm = {label: values[values["arm"] == label].set_index("seed")[names].astype(float) for label in ordered}
    for label in ordered:
        yield f"| {label} | {' | '.join(_number(by_arm[label][name], confidence) for name in names)} |"
    ranks = [label for label in ordered if arms[label] is not None]
    if len(ranks) > 1:
        difference = by_arm[ranks[-1]] - by_arm[ranks[0]]
        yield f"| {ranks[-1]} minus {ranks[0]} | {' | '.join(_number(difference[n], confidence) for n in names)} |"
    yield "\n### By layer: the mean over the last third of the layers minus that over the first\n"
    yield f"| | {' | '.join(BY_LAYER)} |\n| --- | --- | --- |"
    for label in ordered:
        cells = [_number(_late_minus_early(mine, label, *BY_LAYER[name]), confidence) for name in BY_LAYER]
        yield f"| {label} | {' | '.join(cells)} |"
    yield ""


def _late_minus_early(tables: dict[str, pd.DataFrame], arm: str, table: str, column: str) -> pd.Series:
    """By seed."""
    frame = tables.get(table)
    if frame is None or frame.empty:
        return pd.Series(dtype=float)
    frame = frame[frame["arm"] == arm]
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
    return _points(Interval(mean=mean, low=low, high=high), digits=min(digits, 5)).removeprefix("+")


if __name__ == "__main__":
    main()
