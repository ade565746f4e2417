"""Is the verdict right as often as it says? Simulated studies with known truth: coverage, wrong answers, power, runs.

The simulated studies go through the same looks, bounds and rule as a real one: verdict_calibration.py has those of the
sure verdict, verdict_selection.py the same with the choice of settings in it, bet_calibration.py (--bets) those of the
best bet.

    python benchmarks/calibration.py [--quick] [--json FILE] [--bets FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from multiprocessing import Pool
from pathlib import Path
from typing import Any

import numpy as np
from bet_calibration import calibrate_bets
from simulated_losses import LOSSES
from simulated_studies import LOOKS, SCENARIOS
from verdict_calibration import compare_bounds, more_needed_row, power_row, run
from verdict_selection import DESIGNS, FAMILIES, selected_row

from rankscope.study.study import Decision

TOLD = ("equal arms", "five just inferior", "quiet seeds", "as the demo")
COMPARED = ("rising with rank", "rare flips, 200 items", "as the demo", "two seeds")

# ---- tables ---------------------------------------------------------------------------------------------------------

FIXED = {
    "cover G": "coverage_gain", "cover F": "coverage_forgetting", "cover diff": "coverage_difference",
    "worst arm": "coverage_worst_arm", "width": "width_ratio", "decided": "decided", "wrong": "wrong",
    "false": "false_claims", "argmax wrong": "wrong_argmax", "z-test wrong": "wrong_z_test", "loss wrong": "wrong_loss",
}  # fmt: skip
GROWN = {
    "runs": "adaptive_runs", "decided": "adaptive_decided", "wrong": "adaptive_wrong", "false": "adaptive_false_claims",
    "grid decided": "grid_decided", "grid wrong": "grid_wrong",
}  # fmt: skip
SELECTED = {
    "over": "over", "without": "unadmitted", "decided": "decided", "wrong": "wrong", "false": "false_claims",
    "adaptive decided": "adaptive_decided", "adaptive wrong": "adaptive_wrong", "argmax wrong": "wrong_argmax",
    "z-test wrong": "wrong_z_test", "loss wrong": "wrong_loss",
}  # fmt: skip
BOUNDS = {
    f"{way} {name}": f"{way}_{name}"
    for name in ("gain", "forgetting", "difference", "width")
    for way in ("closed", "bootstrap")
}
NEEDED = {name: name for name in ("undecided", "given", "hits", "hit_share")}
POWER = {"margin 0.02": "margin_0.02", "margin 0.03": "margin_0.03", "margin 0.05": "margin_0.05"}


def table(rows: Sequence[dict[str, Any]], columns: dict[str, str]) -> str:
    """The rows as a Markdown table: shares of studies, and widths."""
    design = [name for name in ("scenario", "arms", "seeds", "items") if name in rows[0]]
    lines = [f"| {' | '.join([*design, *columns])} |", "|" + " --- |" * (len(design) + len(columns))]
    for row in rows:
        cells = [str(row[name]) for name in design]
        cells += [_cell(row.get(key)) for key in columns.values()]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(value: float | int | None) -> str:
    return "-" if value is None else str(value) if isinstance(value, int) else f"{value:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer studies: a minute or two")
    parser.add_argument("--device", default="cpu", help="accepted for uniformity; the simulation runs on the CPU")
    parser.add_argument("--json", type=Path, help="write the rows here")
    parser.add_argument("--studies", type=int, help="simulated studies per scenario")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--bets", type=Path, help="calibrate the best bet instead of the verdict; its figures go here")
    arguments = parser.parse_args()
    if arguments.bets:
        few = arguments.studies or (20 if arguments.quick else 300)
        raise SystemExit(0 if calibrate_bets(arguments.bets, few, arguments.seed, arguments.workers) else 1)
    studies = arguments.studies or (60 if arguments.quick else 1000)
    start, decision, seed = time.perf_counter(), Decision(), arguments.seed
    chosen = [one for one in SCENARIOS if one.name in COMPARED]
    chosen.append(replace(chosen[0], name="rising with rank, 200 items", items=200))
    few = max(20, studies // 8)
    selected = [(name, *design) for name in FAMILIES for design in DESIGNS]
    work: list[tuple[Callable[..., dict[str, Any]], tuple[Any, ...]]] = [
        *((selected_row, (*one, studies, decision, seed + i)) for i, one in enumerate(selected)),
        *((run, (one, studies, decision, seed + 1000 * i)) for i, one in enumerate((*SCENARIOS, *LOSSES))),
        *((compare_bounds, (one, few, 500, decision, seed)) for one in chosen),
        *((more_needed_row, (one, few, decision, seed + 7)) for one in SCENARIOS if one.name in TOLD),
        *((power_row, (n, k, few, seed)) for n in (200, 500, 1000, 2000) for k in (3, 5, 8)),
    ]
    found: list[dict[str, Any]] = []
    with Pool(arguments.workers) as pool:
        for row in pool.imap(_call, work):
            found.append(row)
            print(f"{len(found)} of {len(work)}: {row['scenario']}, {time.perf_counter() - start:.0f} s", flush=True)
            if arguments.json:
                arguments.json.write_text(json.dumps(_published(found), indent=2) + "\n")
    chose, found = found[: len(selected)], found[len(selected) :]
    count = len(SCENARIOS) + len(LOSSES)
    told = found[-12 - len(TOLD) : -12]
    rows, checks, power = found[:count], found[count : -12 - len(TOLD)], found[-12:]
    grown = [row for row in rows if "adaptive_runs" in row]
    for part, columns in (
        (rows, FIXED),
        (grown, GROWN),
        (checks, BOUNDS),
        (told, NEEDED),
        (power, POWER),
        (chose, SELECTED),
    ):
        print(f"\n{table(part, columns)}")
    print(_summary(rows, grown, studies, time.perf_counter() - start))


def _call(work: tuple[Callable[..., dict[str, Any]], tuple[Any, ...]]) -> dict[str, Any]:
    function, settings = work
    return function(*settings)


def _published(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows with the columns that every benchmark has."""
    speed = dict.fromkeys(("ours_seconds", "peer_seconds", "ratio", "ours_peak_bytes", "peer_peak_bytes"))
    shared = {**speed, "peer": "argmax of the mean", "max_difference": None}
    shared |= {"machine": f"{platform.machine()} {platform.system()}"}
    shared |= {"reason": "it measures how often an answer is wrong, not speed"}
    return [{"work": row["scenario"], **shared, **row} for row in rows]


def _summary(rows: Sequence[dict[str, Any]], grown: Sequence[dict[str, Any]], studies: int, seconds: float) -> str:
    lines = []
    held = [row for row in rows if row["seeds"] >= 3]
    for name in ("coverage_gain", "coverage_forgetting", "coverage_difference"):
        values = [row[name] for row in held if row.get(name) is not None]
        lines.append(f"{name} from 3 seeds: lowest {min(values):.3f}, mean {np.mean(values):.3f}")
    for name in ("wrong", "wrong_argmax", "wrong_z_test", "wrong_loss"):
        values = [row[name] for row in rows if name in row]
        lines.append(f"{name}: mean {np.mean(values):.3f}, highest {max(values):.3f}")
    runs = float(np.mean([row["adaptive_runs"] for row in grown]))
    lines.append(f"adaptive seeds: {1 - runs:.0%} fewer runs than a grid of {LOOKS[-1]} seeds, mean over scenarios")
    lines[-1] += f"; wrong at most {max(row['adaptive_wrong'] for row in grown):.3f}"
    lines.append(f"{studies} studies per scenario, {seconds:.0f} s")
    return "\n" + "\n".join(lines)


if __name__ == "__main__":
    main()
