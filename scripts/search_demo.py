"""Finds the learning rate of every arm of the demo as a study with `learning_rate: auto` does: for retention.

    python scripts/search_demo.py [--study studies/demo.yaml] [--world-seed 1] [--out search-demo]

It is rankscope's own joint search, with a seed that no study can have, on other taught facts than the demo's
(`--world-seed`), so that the demo's own items judge nothing that they chose. It prints every validation loss in nats
per token, what each rate and dial was chosen from, and the setting of each arm.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from rankscope.decide.setting_choice import predictor_of
from rankscope.edges.executors import Job
from rankscope.edges.executors.this_machine import make
from rankscope.edges.machine import look_at_machine
from rankscope.edges.study_folder import StudyFolder
from rankscope.jobs.planning import StudyPlanner
from rankscope.jobs.score_job import ScoreBase
from rankscope.jobs.search_job import SearchRate, search_waves
from rankscope.records import Plan
from rankscope.results.searched_settings import further_rates, settle_searched
from rankscope.study.read_study import read_study
from rankscope.study.study import Study


def to_search(study: Study, world_seed: int) -> Study:
    """The study with `auto` in place of every learning rate, and with the taught facts of another world."""
    arms = {label: entry.model_copy(update={"learning_rate": "auto"}) for label, entry in study.arms.items()}

    def moved(sources: dict) -> dict:  # type: ignore[type-arg]
        return {
            name: source.model_copy(update={"world_seed": world_seed}) if "/taught/" in (source.world or "") else source
            for name, source in sources.items()
        }

    return study.model_copy(update={"arms": arms, "train": moved(study.train), "suites": moved(study.suites)})


def search(study: Study, base: Path, out: Path) -> tuple[StudyFolder, Plan]:
    """Do the searches that `out` does not hold yet, and choose."""
    folder = StudyFolder.open(out)
    with StudyPlanner(study, base) as planner:
        plan = planner.plan(look_at_machine(out), folder)
        folder.claim(study.name, planner.text(plan))
        planner.settle(folder, plan)
    executor = make(plan)

    def do(jobs: list[Job]) -> None:
        for outcome in executor.run(jobs, lambda: None):
            if outcome.error is not None:
                raise SystemExit(f"{outcome.job}: {outcome.error}\n{outcome.details}")

    try:
        do([ScoreBase(folder.url, run_id, model) for model, run_id in plan.base_ids.items()])
        for wave in search_waves(folder, plan, plan.runs):
            do(list(wave))
        do([SearchRate(folder.url, search_id, further=True) for search_id in further_rates(folder, plan)])
    finally:
        executor.close()
    settle_searched(folder, plan)
    return folder, plan


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", type=Path, default=Path(__file__).parents[1] / "studies" / "demo.yaml")
    parser.add_argument("--world-seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("search-demo"))
    args = parser.parse_args()
    study = to_search(read_study(args.study, []), args.world_seed)
    folder, plan = search(study, args.study.resolve().parent, args.out)
    settings = folder.read_settings()
    for planned in plan.searches:
        record = folder.read_search(planned.search_id)
        if record is None or settings is None:
            continue
        print(f"{record.arms[0]}: {record.runs_spent:.2f} runs, {record.train_seconds:.0f} s")
        for rate, losses in zip(record.rates, record.losses, strict=True):
            shown = "  ".join("      -" if loss is None else f"{loss:7.4f}" for loss in losses)
            print(f"   {rate:7g}  {shown}")
        setting = settings.of(planned.model, planned.train_set, record.arms[0])
        beside = [one for one in settings.settings if (one.model, one.train_set) == (planned.model, planned.train_set)]
        predictor = predictor_of([point for one in beside for point in one.points])
        for point in setting.points if setting is not None else []:
            chosen = "  <- chosen" if setting is not None and point == setting.point else ""
            print(
                f"   {point.learning_rate:7g} at {point.dial:g}: validation {point.validation_loss:.4f}, forgetting "
                f"{100 * (point.forgetting or 0):.1f} points, fitted {100 * (point.fitted or 0):.1f}, "
                f"{predictor} {getattr(point, predictor) or 0:.3f}{chosen}"
            )


if __name__ == "__main__":
    main()
