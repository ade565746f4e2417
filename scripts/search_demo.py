"""Finds the learning rate of every arm of the demo: successive halving on validation loss, never on a suite.

    python scripts/search_demo.py [--study studies/demo.yaml] [--out search-demo]

It is rankscope's own search (`learning_rate: auto`), with a seed that no study can have, over a grid that reaches half
a decade or more beyond the usual one: so small a model takes large rates, and a best rate at the end of a grid says
little. It prints every validation loss in nats per token, and the rate for each arm. About six minutes on two cores.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from rankscope.edges.executors.this_machine import InProcess, Workers
from rankscope.edges.machine import look_at_machine
from rankscope.edges.study_folder import StudyFolder
from rankscope.jobs.planning import StudyPlanner
from rankscope.jobs.search_job import SearchRate
from rankscope.records import SearchRecord
from rankscope.study.read_study import absolute, dump_study, read_study
from rankscope.study.study import Study

RATES = {
    "full": [1e-4, 3e-4, 1e-3, 3e-3, 1e-2],
    "lora": [3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1],
}


def with_searched_rates(study: Study) -> Study:
    """The study with `auto` in place of every learning rate."""
    arms = {label: entry.model_copy(update={"learning_rate": "auto"}) for label, entry in study.arms.items()}
    return study.model_copy(update={"arms": arms})


def search(study_file: Path, out: Path) -> list[SearchRecord]:
    """Do the searches that `out` does not hold yet; all of them, in the order of the arms."""
    store = StudyFolder.open(out)
    study = with_searched_rates(read_study(study_file, []))
    plan = StudyPlanner(study, study_file.resolve().parent).plan(look_at_machine(out), StudyFolder.open(out))
    searches = [planned.model_copy(update={"rates": RATES[planned.arms[0].method]}) for planned in plan.searches]
    text = dump_study(absolute(study, study_file.resolve().parent))
    store.claim(study.name, text)
    store.write_study(text, plan.model_copy(update={"searches": searches}))
    resolved = plan.resolved
    workers = min(resolved.worker_count, len(searches))
    executor = InProcess(resolved.thread_count) if workers == 1 else Workers(workers, resolved.thread_count)
    try:
        jobs = [SearchRate(str(out), planned.search_id, planned.seconds) for planned in searches]
        for outcome in executor.run(jobs, lambda: None):
            if outcome.error is not None:
                raise SystemExit(f"{outcome.job}: {outcome.error}\n{outcome.details}")
    finally:
        executor.close()
    records = [store.read_search(planned.search_id) for planned in searches]
    return [record for record in records if record is not None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", type=Path, default=Path(__file__).parents[1] / "studies" / "demo.yaml")
    parser.add_argument("--out", type=Path, default=Path("search-demo"))
    args = parser.parse_args()
    for record in search(args.study, args.out):
        where = ", at the end of the grid" if record.at_end_of_grid else ""
        print(f"{record.arms[0]}: {record.chosen:g}{where}  ({record.train_seconds:.0f} s)")
        for rate, losses in zip(record.rates, record.losses, strict=True):
            shown = "  ".join("      -" if loss is None else f"{loss:7.4f}" for loss in losses)
            print(f"   {rate:7g}  {shown}")


if __name__ == "__main__":
    main()
