"""How much one learning rate for all arms would have misled, on the bundled world.

    python scripts/shared_rate.py [--out shared-rate]

Trains the demo's arms at their own rates and at each of RATES, three seeds each, and prints for every choice of rates
each arm's gain and forgetting, how the arms rank, and the verdict. Runs that OUT holds already are not made again.
"""

from __future__ import annotations

import argparse
from importlib import resources
from pathlib import Path

import pandas as pd

from rankscope.decide.paired_items import Frames
from rankscope.decide.verdict import decide
from rankscope.edges.executors.this_machine import make
from rankscope.edges.machine import look_at_machine
from rankscope.edges.study_folder import StudyFolder
from rankscope.jobs.planning import StudyPlanner
from rankscope.pipeline import run_study
from rankscope.records import Verdict
from rankscope.results.frames import frames_of
from rankscope.study.read_study import read_study
from rankscope.study.study import Study

RATES = (3e-3, 1e-2)


def with_every_rate(study: Study) -> tuple[Study, dict[tuple[str, float], str]]:
    """The study with every arm at every rate; the new labels by (arm, rate)."""
    arms, labels = {}, {}
    for label, entry in study.arms.items():
        own = float(entry.learning_rate)
        for rate in sorted({own, *RATES}):
            labels[label, rate] = label if rate == own else f"{label}-at-{rate:g}"
            arms[labels[label, rate]] = entry.model_copy(update={"learning_rate": rate})
    every = study.model_copy(update={"arms": arms})
    return every, {key: every.arms_of(label)[0].label for key, label in labels.items()}


def judge(out: Path, study: Study, labels: dict[str, str]) -> Verdict:
    """The verdict on the arms that `labels` maps to their names in the demo."""
    store = StudyFolder.open(out)
    plan = store.read_plan()
    assert plan is not None
    predictions, suites, runs = frames_of(store, plan)

    def named(frame: pd.DataFrame, *, base: bool) -> pd.DataFrame:
        names = labels | ({"base": "base"} if base else {})
        frame = frame[frame["arm"].isin(names)]
        return frame.assign(arm=frame["arm"].map(names))

    where = {"model": plan.runs[0].model, "train_set": plan.runs[0].train_set}
    frames = Frames(named(predictions, base=True), suites, named(runs, base=False))
    return decide(frames, **where, decision=study.decision, bootstrap_draws=0)


def show(title: str, verdict: Verdict) -> None:
    print(f"\n{title}: {verdict.kind}, still possible: {', '.join(verdict.candidates) or 'none'}")
    for arm in verdict.arms:
        print(
            f"| {arm.label} | {arm.learning_rate:g} | {100 * (arm.gain.mean or 0):.1f} | "
            f"{100 * (arm.forgetting.mean or 0):.1f} | {arm.status} |"
        )
    by_forgetting = sorted(verdict.arms, key=lambda arm: arm.forgetting.mean or 0)
    print(f"least forgetting first: {', '.join(arm.label for arm in by_forgetting)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("shared-rate"))
    arguments = parser.parse_args()
    with resources.as_file(resources.files("rankscope") / "assets" / "demo.yaml") as path:
        demo = read_study(path)
        study, labels = with_every_rate(demo)
        outcome = run_study(
            StudyPlanner(study, path.parent),
            StudyFolder.open(arguments.out),
            machine=look_at_machine(arguments.out),
            make_executor=make,
        )
    if outcome.stopped or outcome.failed:
        raise SystemExit(f"not every run is done: run it again to go on. {outcome.failed or ''}")
    own = {label: float(entry.learning_rate) for label, entry in demo.arms.items()}
    show("each at its own rate", judge(arguments.out, study, {labels[key]: key[0] for key in own.items()}))
    for rate in RATES:
        show(f"all at {rate:g}", judge(arguments.out, study, {labels[label, rate]: label for label in own}))


if __name__ == "__main__":
    main()
