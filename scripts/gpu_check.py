"""Everything that needs a CUDA device, in one go of at most ten minutes: the marked tests, then the benchmarks.

    scripts/gpu_check.sh [FOLDER] [--dry]     (default: gpu-check)

FOLDER gets tests.txt, tests-study.txt, the rows of every benchmark as JSON with their logs, and table.md, which holds
all of them and how the tests ended. Every item has its own limit, and less where less is left of the ten minutes; a
benchmark that overruns keeps the rows that it has. The exit code is that of the tests. --dry runs nothing: it says what
would run, and writes table.md of the files that are in FOLDER.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

WHOLE_SECONDS = 590.0
TEST_SECONDS = 240.0
LEAST_SECONDS = 5.0
"""What is not worth beginning."""

OVERRAN = 124
"""The exit code of what was cut, as `timeout` has it."""

PYTEST = ("-m", "pytest", "-q", "-n")


@dataclass(frozen=True)
class Item:
    """A command of this interpreter, by the name of its files, and the most seconds that it may take."""

    name: str
    words: tuple[str, ...]
    seconds: float


TESTS = (
    # Whole studies start many processes: beside the other tests, or they alone would take minutes.
    Item("tests-study", (*PYTEST, "0", "-m", "cuda", "tests/cuda/test_study_on_cuda.py"), TEST_SECONDS),
    Item("tests", (*PYTEST, os.environ.get("TEST_PROCESSES", "4"), "-m", "cuda", "tests/cuda", "--ignore",
                   "tests/cuda/test_study_on_cuda.py"), TEST_SECONDS),
)  # fmt: skip


def _benchmark(name: str, seconds: float, *options: str) -> Item:
    return Item(name, (f"benchmarks/{name}.py", "--device", "cuda", "--quick", *options), seconds)


BENCHMARKS = (
    _benchmark("train_speed", 150, "--only", "cuda"),
    _benchmark("score_speed", 90),
    _benchmark("analyse_speed", 60),
    _benchmark("remedies_cost", 45),
    _benchmark("plan_accuracy", 60, "--repeats", "1"),
    _benchmark("study_speed", 180),
)

LEFT_OUT = {
    "encode_speed": "tokens are made on the CPU",
    "search_cost": "counts what is trained, on the CPU",
    "calibration": "a simulation",
    "ray_throughput": "jobs that sleep",
    "scale": "workers and storages, on the CPU",
    "base_suites": "what a base knows, not how fast",
}
"""Scripts that take --device so that all are called alike, and why they say nothing of a GPU."""


@dataclass(frozen=True)
class Ended:
    """How an item ended: its exit code, None where it was not begun."""

    item: Item
    code: int | None
    seconds: float


def run(item: Item, folder: Path, left_seconds: float, python: Sequence[str] = (sys.executable,)) -> Ended:
    """Run an item, what it says into FOLDER/NAME.txt, for at most its own limit and what is left."""
    limit = min(item.seconds, left_seconds)
    if limit < LEAST_SECONDS:
        return Ended(item, None, 0.0)
    words = [*python, *item.words]
    if item in BENCHMARKS:
        words += ["--json", str((folder / f"{item.name}.json").resolve())]
    began = time.monotonic()
    with (folder / f"{item.name}.txt").open("w") as said:
        try:
            done = subprocess.run(words, cwd=ROOT, stdout=said, stderr=subprocess.STDOUT, timeout=limit, check=False)
            code = done.returncode
        except subprocess.TimeoutExpired:
            code = OVERRAN
    return Ended(item, code, time.monotonic() - began)


def said_by_pytest(text: str) -> str:
    """The line that counts its tests; empty where it was cut before it."""
    lines = re.findall(r"^=*\s*(\d+ (?:passed|failed|skipped|error|deselected).*? in [\d.]+s)", text, re.MULTILINE)
    return str(lines[-1]) if lines else ""


def table(folder: Path, ended: Sequence[Ended] = ()) -> str:
    """Markdown: how the tests ended, what was cut or failed, and the rows of every benchmark that wrote some."""
    lines = []
    for item in TESTS:
        log = folder / f"{item.name}.txt"
        counted = said_by_pytest(log.read_text(errors="replace")) if log.is_file() else ""
        lines.append(f"{item.name}: {counted or 'no result'}")
    for one in ended:
        if one.code is None:
            lines.append(f"{one.item.name}: not begun, the {WHOLE_SECONDS:.0f} seconds were over")
        elif one.code == OVERRAN:
            lines.append(f"{one.item.name}: cut after {one.seconds:.0f} s")
        elif one.code != 0 and one.item in BENCHMARKS:
            lines.append(f"{one.item.name}: exit code {one.code}, see {one.item.name}.txt")
    files = [path for item in BENCHMARKS if _whole(path := folder / f"{item.name}.json")]
    words = [sys.executable, "benchmarks/table.py", *(str(path.resolve()) for path in files)]
    rows = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout if files else ""
    return "\n".join([*(f"- {line}" for line in lines), "", rows])


def _whole(path: Path) -> bool:
    """Whether a file of rows is there and was not cut while it was written."""
    try:
        return bool(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return False


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("gpu-check"), metavar="FOLDER")
    parser.add_argument("--dry", action="store_true", help="say what would run, and write the table of what is there")
    given = parser.parse_args()
    folder: Path = given.folder
    folder.mkdir(parents=True, exist_ok=True)
    ended: list[Ended] = []
    if given.dry:
        for item in (*TESTS, *BENCHMARKS):
            print(f"{item.seconds:.0f} s at most: python {' '.join(item.words)}")
    else:
        until = time.monotonic() + WHOLE_SECONDS
        with ThreadPoolExecutor(len(TESTS)) as both:
            ended += both.map(lambda item: run(item, folder, WHOLE_SECONDS), TESTS)
        ended += [run(item, folder, until - time.monotonic()) for item in BENCHMARKS]
    text = table(folder, ended)
    (folder / "table.md").write_text(text, encoding="utf-8")
    print(text)
    return max((one.code or 0 for one in ended if one.item in TESTS), default=0)


if __name__ == "__main__":
    sys.exit(main())
