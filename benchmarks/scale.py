"""What more workers bring and other storages cost: the demo's runs in two workers against one, and a study in an object
store against the same study in a local folder.

    python benchmarks/scale.py [--quick] [--device cpu|cuda] [--json FILE] [--only WORD]

`ours` is the study by way of what the row names, the peer the plain one; both are whole `rankscope run`s in processes
of their own, in turns, medians. A ratio (peer / ours) of 0.83 is 20 % more time, which is the most that is asked of
the store. `max_difference` is the largest difference of any number in tables/scores.parquet. Of the rows `workers` the
ratio is that of throughputs (1.5 and more is asked for, against one one-thread worker), and the difference that of the
runs' validation losses; `worker_throughput.py` says what is timed.

S3 is played by moto's server on this machine: it takes part of the same cores, and answers in milliseconds where a
real store takes tens. The second row says how many requests a study makes, from which other stores can be reckoned.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from importlib import resources
from pathlib import Path

import pandas as pd
from table import Row, Table, parser_of

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "helpers"))

QUICK = ["seeds=[0]", "analysis.enabled=false", "budget.epochs=1", "suites.general.limit=60", "suites.law.limit=60"]
"""What --quick sets in the demo's study."""


def main() -> None:
    parser = parser_of(__doc__, "the demo with one seed, one epoch and no analysis, once")
    parser.add_argument("--repeats", type=int, default=0, help="turns of each side; 1 with --quick, else 3")
    arguments = parser.parse_args()
    table = Table(arguments)
    repeats = arguments.repeats or (1 if arguments.quick else 3)
    rows = {"store": store_against_folder, "requests": requests, "workers": workers, "ray": ray_against_local}
    for name, measured in rows.items():
        if arguments.only in name:
            with tempfile.TemporaryDirectory() as temporary:
                for row in measured(Path(temporary), arguments.quick, repeats):
                    table.add(row)


def store_against_folder(folder: Path, quick: bool, repeats: int) -> list[Row]:
    """The demo on s3:// (moto's server) and in a local folder."""
    try:
        from moto_server import moto_server
    except ImportError as error:
        return [Row("the demo on s3://", "a local folder", reason=f"not measured: {error}")]
    settings = [word for one in (QUICK if quick else []) for word in ("--set", one)]
    with moto_server() as server, resources.as_file(resources.files("rankscope") / "assets" / "demo.yaml") as study:
        bucket = server.bucket("bench")

        def in_store(turn: int) -> Path:
            reached = {**server.environment, "RANKSCOPE_CACHE": str(folder / "cache")}
            _run(study, f"s3://bench/{turn}", settings, reached)
            return folder / f"store{turn}"

        def on_disk(turn: int) -> Path:
            _run(study, str(folder / f"disk{turn}"), settings, {})
            return folder / f"disk{turn}"

        ours, theirs = _turns(in_store, on_disk, repeats)
        bucket.get("bench/0/tables", str(folder / "fetched"), recursive=True)
        difference = _difference(folder / "fetched", folder / "disk0" / "tables")
    what = "the demo, quick" if quick else "the demo"
    return [Row(f"{what}, on s3:// (moto)", "a local folder", ours, theirs, theirs / ours, max_difference=difference)]


def requests(folder: Path, quick: bool, repeats: int) -> list[Row]:
    """How many requests a study of a tiny model makes: they do not depend on the model, but for its checkpoints."""
    from memory_objects import MemoryBucket, MemoryObjects
    from tiny_study import tiny_study

    from rankscope.edges.executors.this_machine import InProcess
    from rankscope.edges.machine import look_at_machine
    from rankscope.edges.storages import object_storage
    from rankscope.edges.study_folder import StudyFolder
    from rankscope.jobs.planning import StudyPlanner
    from rankscope.pipeline import run_study
    from rankscope.study.read_study import read_study

    counts = {}
    os.environ["RANKSCOPE_CACHE"] = str(folder / "cache")
    for seeds in (1, 3):
        objects = MemoryObjects(MemoryBucket(), None, None)
        object_storage._OPENED.clear()
        object_storage.FsspecObjects = lambda url, objects=objects: objects  # type: ignore[assignment,misc]
        study = tiny_study(folder / str(seeds), seeds=list(range(seeds)))
        store = StudyFolder.open(f"s3://bucket/{seeds}")
        planner = StudyPlanner(read_study(study), study.parent)
        run_study(planner, store, machine=look_at_machine(folder), make_executor=lambda plan: InProcess(1))
        counts[seeds] = objects.requests, objects.changes
    (all_1, put_1), (all_3, put_3) = counts[1], counts[3]
    runs = 2 * (3 - 1)
    said = f"{(all_3 - all_1) / runs:.0f} requests a run, {(put_3 - put_1) / runs:.0f} of them changes, beside"
    said += f" {all_1 - 2 * (all_3 - all_1) / runs:.0f} a study"
    return [Row(said, "none in a local folder", reason="a count, not a time")]


def ray_against_local(folder: Path, quick: bool, repeats: int) -> list[Row]:
    """The demo on a Ray of as many CPUs as there are cores, against this machine's own executor. The time that Ray
    takes to start is in the row's name and not in its numbers: a cluster is there before a study comes."""
    try:
        from ray_nodes import ray_cluster

        from rankscope.edges.cores import core_count
    except ImportError as error:
        return [Row("the demo on Ray", "the local executor", reason=f"not measured: {error}")]
    settings = [word for one in (QUICK if quick else []) for word in ("--set", one)]
    began = time.perf_counter()
    with ray_cluster(num_cpus=core_count()) as cluster:
        start = time.perf_counter() - began
        there = [*settings, "--set", "execution.on=ray", "--set", f"execution.address={cluster.address}"]
        with resources.as_file(resources.files("rankscope") / "assets" / "demo.yaml") as study:
            ours, theirs = _turns(
                lambda turn: _run(study, str(folder / f"ray{turn}"), there, {}),
                lambda turn: _run(study, str(folder / f"local{turn}"), settings, {}),
                repeats,
            )
    difference = _difference(folder / "ray0" / "tables", folder / "local0" / "tables")
    what = f"the demo{', quick' if quick else ''}, on Ray (whose start took {start:.1f} s beside)"
    return [Row(what, "the local executor", ours, theirs, theirs / ours, max_difference=difference)]


def workers(folder: Path, quick: bool, repeats: int) -> list[Row]:
    """The demo's runs in two workers, against one."""
    from worker_throughput import workers_against_one

    return workers_against_one(folder, QUICK if quick else [], quick, repeats)


def _run(study: Path, out: str, settings: list[str], environment: Mapping[str, str]) -> None:
    line = [sys.executable, "-m", "rankscope", "run", str(study), "--out", out, *settings]
    subprocess.run(line, check=True, capture_output=True, env={**os.environ, **environment})


def _turns(ours: Callable[[int], object], theirs: Callable[[int], object], repeats: int) -> tuple[float, float]:
    """Medians of both sides' seconds, which take turns."""
    times: list[tuple[float, float]] = []
    for turn in range(repeats):
        began = time.perf_counter()
        ours(turn)
        between = time.perf_counter()
        theirs(turn)
        times.append((between - began, time.perf_counter() - between))
    first, second = zip(*times, strict=True)
    return statistics.median(first), statistics.median(second)


def _difference(ours: Path, theirs: Path) -> float:
    found = [pd.read_parquet(folder / "scores.parquet").select_dtypes("number") for folder in (ours, theirs)]
    return float((found[0] - found[1]).abs().max().max())


if __name__ == "__main__":
    main()
