"""The rows of docs/remedies.md from a finished study of remedies (studies/remedies.yaml), as Markdown.

    python scripts/remedies_table.py STUDY_FOLDER

Three tables, in points, on the items that judge, with two-sided intervals over items and seeds at the study's
confidence, each for itself:

1. every arm at every dial: gain, forgetting, and against the arm's own one without a remedy, as trained (dial 1), the
   gain that is lost and the forgetting that is saved;
2. every point of a remedy's front against the dial alone: the plain arm at the dial whose forgetting is nearest
   (negative gain lost: the remedy gains more);
3. what was made of the plain arms after training (one seed), against the same run as trained.

A pair of points is compared over the seeds that both have, and the items that both scored.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from rankscope.decide.crossed_statistics import SuiteArrays, estimate, gain_contrasts
from rankscope.decide.gain_and_forgetting import intervals
from rankscope.decide.paired_items import Frames, pair
from rankscope.decide.remedy_outcomes import own_arms
from rankscope.edges.study_folder import StudyFolder
from rankscope.records import Interval, Plan
from rankscope.results.chosen_settings import settings_of
from rankscope.results.frames import frames_of, planned_study, suites_frame
from rankscope.results.item_roles import chooses, roles_of

Point = tuple[str, str]
"""An arm, and what was done to it after training: `dial 0.7`, `spectrum cut`; `dial 1` is the arm as trained."""

AS_TRAINED = "dial 1"


class Study(NamedTuple):
    """A finished study of one base model and training set, every point an arm of its own (`label`)."""

    frames: Frames
    where: dict[str, str]
    confidence: float
    points: list[Point]
    own: dict[str, str]
    """The arm without a remedy of every arm that has one."""


class Worth(NamedTuple):
    """One point, against the base (`gain`, `forgetting`) and against another (`gain_lost`, `forgetting_saved`)."""

    seeds: int
    gain: Interval
    forgetting: Interval
    gain_lost: Interval
    forgetting_saved: Interval


def label(point: Point) -> str:
    return f"{point[0]}, {point[1]}"


def read(path: Path) -> Study:
    """The study in a folder. Raises InputProblems where there is none."""
    folder = StudyFolder.open(path)
    study, plan = planned_study(folder)
    settings = settings_of(folder, plan, suites_frame(plan), roles_of(folder, plan))
    predictions: list[pd.DataFrame] = []
    runs: list[pd.DataFrame] = []
    for dial in sorted({dial for run in plan.runs for dial in run.dials}, reverse=True):
        frames = frames_of(folder, plan, [one.model_copy(update={"dial": dial}) for one in settings])
        here = frames.predictions.astype({"arm": "str"})
        base = here["arm"] == "base"
        here = here.assign(arm=here["arm"].where(base, here["arm"] + f", dial {dial:g}"))
        predictions.append(here[~base] if predictions else here)
        own = frames.runs
        runs.append(own.assign(plain=own["arm"], done=f"dial {dial:g}", arm=own["arm"] + f", dial {dial:g}"))
    for frame, run in _derived(folder, plan, runs[0]):
        predictions.append(frame)
        runs.append(run)
    every = pd.concat(runs, ignore_index=True)
    ended = every[every["state"] == "done"].drop_duplicates("arm")
    first = runs[0].assign(arm=runs[0]["plain"])
    where = {"model": plan.runs[0].model, "train_set": plan.runs[0].train_set}
    order = {arm: place for place, arm in enumerate(first["arm"].unique())}
    points = sorted(zip(ended["plain"], ended["done"], strict=True), key=lambda point: order[point[0]])
    frames = Frames(pd.concat(predictions, ignore_index=True), suites_frame(plan), every)
    return Study(frames, where, study.decision.confidence, points, own_arms(first))


def _derived(folder: StudyFolder, plan: Plan, runs: pd.DataFrame) -> Iterator[tuple[pd.DataFrame, pd.DataFrame]]:
    """(predictions, run) of what was made of plain arms after training, as arms of their own."""
    roles = roles_of(folder, plan)
    for row in runs[runs["remedy"].isna()].to_dict("records"):
        for name in folder.derived_names(row["run_id"]):
            frame = folder.read_derived(row["run_id"], name)
            if frame is None:
                continue
            chosen = chooses(frame, roles.get((row["model"], row["train_set"]), {}))
            arm = f"{row['plain']}, {name}"
            facts = {key: row[key] for key in ("model", "train_set", "seed")}
            role = np.where(chosen, "select", "judge")
            yield frame.assign(arm=arm, role=role, **facts), pd.DataFrame([row | {"arm": arm, "done": name}])


def against(study: Study, point: Point, other: Point | None = None) -> Worth:
    """A point against another, paired by items and by the seeds that both have; without another against the base."""
    names = [label(point), *([] if other is None else [label(other)])]
    pairing = pair(_of(study.frames, names), **study.where, only=names)
    gains = gain_contrasts(len(names))
    here = gains[pairing.labels.index(names[0])]
    step = None if other is None else here - gains[pairing.labels.index(names[1])]
    inside, outside = ([suite.arrays for suite in part] for part in (pairing.in_domain, pairing.others))

    def interval(suites: list[SuiteArrays], contrast: np.ndarray | None, sign: int) -> Interval:
        part = estimate(suites, sign * contrast[None]) if suites and contrast is not None else None
        return intervals(part, study.confidence, 1)[0]

    return Worth(
        len(pairing.seeds),
        gain=interval(inside, here, 1),
        forgetting=interval(outside, here, -1),
        gain_lost=interval(inside, step, -1),
        forgetting_saved=interval(outside, step, 1),
    )


def _of(frames: Frames, names: list[str]) -> Frames:
    """What is of these points and of the base, in the seeds that all of them have."""
    runs = frames.runs[frames.runs["arm"].isin(names) & (frames.runs["state"] == "done")]
    counts = runs.groupby("seed")["arm"].nunique()
    seeds = counts.index[counts == len(names)]
    rows, base = frames.predictions, frames.predictions["arm"] == "base"
    rows = rows[base | (rows["arm"].isin(names) & rows["seed"].isin(seeds))].reset_index(drop=True)
    return Frames(rows, frames.suites, runs[runs["seed"].isin(seeds)])


def main_rows(study: Study) -> list[str]:
    """Every arm at every dial against its own one as trained."""
    rows = []
    for arm, done in study.points:
        if not done.startswith("dial"):
            continue
        own = (study.own.get(arm, arm), AS_TRAINED)
        rival = own if own in study.points and own != (arm, done) else None
        rows.append(_row([arm, done], against(study, (arm, done), rival)))
    return rows


def front_rows(study: Study) -> list[str]:
    """Every point of a remedy's front against the plain arm at the dial of nearest forgetting."""
    worths = {point: against(study, point) for point in study.points if point[1].startswith("dial")}
    rows = []
    for point, worth in worths.items():
        rivals = {dial: found for (arm, dial), found in worths.items() if arm == study.own.get(point[0])}
        if not rivals or worth.forgetting.mean is None:
            continue
        lost = worth.forgetting.mean
        rival = (study.own[point[0]], nearest(rivals, lost))
        rows.append(_row([*point, label(rival)], against(study, point, rival)))
    return rows


def nearest(rivals: Mapping[str, Worth], lost: float) -> str:
    """The dial whose forgetting is nearest to `lost`; of equals the one of the larger gain."""

    def far(dial: str) -> tuple[float, float]:
        return (abs((rivals[dial].forgetting.mean or 0.0) - lost), -(rivals[dial].gain.mean or 0.0))

    return min(rivals, key=far)


def derived_rows(study: Study) -> list[str]:
    """What was made after training against the same run as trained."""
    derived = [point for point in study.points if not point[1].startswith("dial")]
    return [_row([*point], against(study, point, (point[0], AS_TRAINED))) for point in derived]


def _row(names: list[str], worth: Worth) -> str:
    shown = [str(worth.seeds), _points(worth.gain, bounds=False), _points(worth.forgetting, bounds=False)]
    shown += [_points(one) for one in (worth.gain_lost, worth.forgetting_saved)]
    return f"| {' | '.join([*names, *shown])} |"


def _points(value: Interval, *, bounds: bool = True) -> str:
    if value.mean is None:
        return ""
    if not bounds or value.low is None or value.high is None:
        return f"{100 * value.mean:.1f}"
    return f"{100 * value.mean:.1f} ({100 * value.low:.1f} to {100 * value.high:.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    study = read(parser.parse_args().folder)
    measured = "seeds | gain | forgetting | gain lost | forgetting saved"
    for columns, rows in (
        ("arm | after training", main_rows(study)),
        ("arm | after training | against the dial alone", front_rows(study)),
        ("arm | made after training", derived_rows(study)),
    ):
        if rows:
            heads = f"| {columns} | {measured} |"
            print("", heads, "|" + " --- |" * (heads.count("|") - 1), *rows, sep="\n")


if __name__ == "__main__":
    main()
