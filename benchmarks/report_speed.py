"""What the commands on a finished study cost, and how fast its flips are counted against plain pandas.

    python benchmarks/report_speed.py [--quick] [--json FILE] [--only WORD]

The study is made up (`finished_study.py`): 20 arms, 5 seeds, 10,000 items. The peer reads every predictions table
whole, joins them, and merges each arm with the base by item; the difference is of the counts. Commands have no peer:
their seconds are of CPU, in a process of their own with its imports, and the peak is all that the process holds.
Targets: `report` 8 s of CPU and 700 MB, `verdict` and `status` 1 s.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from finished_study import Size, write_finished_study
from table import Row, Table, compare, parser_of

from rankscope.decide.looks import gather_all
from rankscope.decide.result_tables import flips, pairings
from rankscope.edges.study_folder import StudyFolder
from rankscope.results.frames import frames_of, planned_study

COMMANDS = ("report", "verdict", "status")
KEYS = ["suite", "item_id"]
FLIPS = ["arm", *KEYS, "seeds_lost", "seeds_won"]

CHILD = """
import resource, subprocess, sys
done = subprocess.run([sys.executable, "-m", "rankscope", *sys.argv[1:]], stdout=subprocess.DEVNULL)
if done.returncode not in (0, 3):  # 3: the verdict cannot distinguish
    raise SystemExit(done.returncode)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(used.ru_utime + used.ru_stime, used.ru_maxrss * 1024)
"""


def our_flips(folder: Path) -> Callable[[], Any]:
    """Scores read as categories, paired and counted on a matrix of items and runs."""

    def work() -> pd.DataFrame:
        store = StudyFolder.open(folder)
        study, plan = planned_study(store)
        frames = frames_of(store, plan)
        found = flips(pairings(frames, gather_all(frames, study.decision, study.looks)))
        return found[FLIPS].sort_values(FLIPS[:3], ignore_index=True)

    return work


def pandas_flips(folder: Path) -> Callable[[], Any]:
    """The obvious way: all columns of all runs in one frame, a merge with the base, a groupby."""

    def work() -> pd.DataFrame:
        store = StudyFolder.open(folder)
        _, plan = planned_study(store)
        runs = [
            pd.read_parquet(folder / "runs" / r.run_id / "predictions.parquet").assign(arm=r.arm.label)
            for r in plan.runs
        ]
        base = pd.read_parquet(folder / "base" / "predictions.parquet")[[*KEYS, "score"]]
        joined = pd.concat(runs, ignore_index=True).merge(base, on=KEYS, suffixes=("", "_base"))
        before, after = joined["score_base"] > 0.5, joined["score"] > 0.5
        joined = joined.assign(seeds_lost=(before & ~after).astype(int), seeds_won=(after & ~before).astype(int))
        return joined.groupby(FLIPS[:3], as_index=False)[FLIPS[3:]].sum()[FLIPS]

    return work


def flips_differ(ours: pd.DataFrame, theirs: pd.DataFrame) -> float:
    """The largest difference of a count."""
    return float(abs(ours[FLIPS[3:]].to_numpy(int) - theirs[FLIPS[3:]].to_numpy(int)).max())


def cost_of(command: str, folder: Path, repeats: int = 3) -> Row:
    """Median seconds of CPU and the largest peak of a command."""
    call, environment = [sys.executable, "-c", CHILD, command, str(folder)], {**os.environ, "OMP_NUM_THREADS": "1"}
    found = []
    for _ in range(repeats):
        done = subprocess.run(call, capture_output=True, text=True, check=True, env=environment)
        found.append(tuple(map(float, done.stdout.split())))
    seconds, peaks = zip(*found, strict=True)
    return Row(f"`{command}`, seconds of CPU", "none", statistics.median(seconds), ours_peak_bytes=int(max(peaks)))


def main() -> None:
    arguments = parser_of(__doc__, "4 arms, 2 seeds, 400 items").parse_args()
    size = Size(4, 2, 400) if arguments.quick else Size()
    table = Table(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "study"
        write_finished_study(folder, size)
        subprocess.run([sys.executable, "-m", "rankscope", "report", folder], stdout=subprocess.DEVNULL, check=True)
        work = f"flips of {size.arms} arms x {size.seeds} seeds x {size.items:,} items"
        if arguments.only in work:
            sides = partial(our_flips, folder), partial(pandas_flips, folder)
            table.add(compare(work, "plain pandas", "cpu", *sides, flips_differ))
        for command in COMMANDS:
            if arguments.only in command:
                table.add(cost_of(command, folder))


if __name__ == "__main__":
    main()
