"""Is the verdict right as often as it says? Simulated studies with known truth: coverage, wrong answers, decisions.

A study is drawn from a probit model: the latent score of an arm on an item is the arm's level + the item's difficulty
(shared by all arms and the base) + arm x item + the seed's effect (partly shared by the arms, which see the same order
of rows) + noise; the item is right where it is above 0. Accuracies over all items and seeds are then known exactly.

    python benchmarks/calibration.py [--quick] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from rankscope.config.study import Decision
from rankscope.decide.measure import bounds, closed_form_widths, decision_alpha, measure, rule_on
from rankscope.decide.stats import Estimates, SuiteArrays

Floats = NDArray[np.float64]

ITEM_SD = 1.0
ARM_ITEM_SD = 0.5
ARM_ITEM_SHARED = 0.64
NOISE_SD = 0.5


@dataclass(frozen=True)
class Scenario:
    """Truth of a study, arms from the fewest parameters to the most; levels are accuracies over items and seeds.

    seed_sd: spread of the seeds on the latent scale, per arm (0.1 moves an accuracy of 0.7 by about 2 points);
    seed_correlation: how much of a seed's effect the arms share.
    """

    name: str
    learned: tuple[float, ...]
    kept: tuple[float, ...]
    base_task: float = 0.30
    base_kept: float = 0.85
    seeds: int = 3
    items: int = 1000
    in_suites: int = 1
    out_suites: int = 2
    seed_sd: tuple[float, ...] = (0.06,)
    seed_correlation: float = 0.3


GOOD = (0.84,) * 6
EQUAL = (0.70,) * 6
RISING = (0.55, 0.60, 0.65, 0.69, 0.70, 0.70)
JUST_INFERIOR = (0.6695,) * 5 + (0.70,)
UNEVEN = (0.03, 0.04, 0.05, 0.06, 0.08, 0.12)

SCENARIOS = (
    Scenario("equal arms", EQUAL, GOOD),
    Scenario("rising with rank", RISING, GOOD),
    Scenario("five just inferior", JUST_INFERIOR, GOOD),
    Scenario("five just inferior, 200 items", JUST_INFERIOR, GOOD, items=200),
    Scenario("five just inferior, 2,000 items", JUST_INFERIOR, GOOD, items=2000, seed_sd=(0.02,)),
    Scenario("five just inferior, seeds shared", JUST_INFERIOR, GOOD, items=2000, seed_correlation=0.8),
    Scenario("all forget just too much", EQUAL, (0.8195,) * 6),
    Scenario("all forget just too much, 2,000 items", EQUAL, (0.8195,) * 6, items=2000, seed_sd=(0.02,)),
    Scenario("trade-off", RISING, (0.84, 0.82, 0.80, 0.78, 0.76, 0.70)),
    Scenario("uneven seeds", RISING, (0.845, 0.84, 0.83, 0.82, 0.81, 0.78), seed_sd=UNEVEN),
    Scenario("uneven seeds, just inferior", JUST_INFERIOR, GOOD, seed_sd=UNEVEN, items=2000),
    Scenario("quiet seeds", EQUAL, GOOD, seed_sd=(0.005,), items=2000),
    Scenario("rare flips, 200 items", EQUAL, (0.985,) * 6, base_kept=0.99, seed_sd=(0.01,), items=200),
    Scenario("no gain", (0.30,) * 6, GOOD, items=2000, seed_sd=(0.02,)),
    Scenario("two seeds", JUST_INFERIOR, GOOD, seeds=2),
    Scenario("five seeds", RISING, GOOD, seeds=5),
    Scenario("five seeds, just inferior", JUST_INFERIOR, GOOD, seeds=5, items=2000),
    Scenario("one arm", (0.5,), (0.8195,)),
    Scenario("two arms, just inferior", (0.6695, 0.70), (0.84, 0.84)),
)


def draw_suites(
    rng: np.random.Generator, scenario: Scenario, levels: tuple[float, ...], base: float, count: int
) -> list[SuiteArrays]:
    """`count` suites with this truth, seeds acting alike on all of them."""
    arms, seeds = len(levels), scenario.seeds
    seed_sd = np.broadcast_to(np.array(scenario.seed_sd), (arms,))
    shared, own = rng.normal(size=seeds), rng.normal(size=(arms, seeds))
    rho = scenario.seed_correlation
    moved = seed_sd[:, None] * (np.sqrt(rho) * shared + np.sqrt(1 - rho) * own)
    total = np.sqrt(ITEM_SD**2 + ARM_ITEM_SD**2 + NOISE_SD**2 + seed_sd**2)
    centre = ndtri(np.array(levels)) * total
    base_centre = ndtri(base) * np.sqrt(ITEM_SD**2 + ARM_ITEM_SD**2)
    suites = []
    for _ in range(count):
        item = rng.normal(size=scenario.items) * ITEM_SD
        drift = np.sqrt(ARM_ITEM_SHARED) * rng.normal(size=scenario.items)
        drift = drift + np.sqrt(1 - ARM_ITEM_SHARED) * rng.normal(size=(arms, scenario.items))
        latent = (centre[:, None] + item + ARM_ITEM_SD * drift)[:, None, :] + moved[:, :, None]
        latent = latent + NOISE_SD * rng.standard_normal((arms, seeds, scenario.items), dtype=np.float32)
        right = base_centre + item + rng.normal(size=scenario.items) * ARM_ITEM_SD > 0
        suites.append(SuiteArrays(right.astype(float), (latent > 0).astype(float)))
    return suites


@dataclass
class Tally:
    """Counts over the studies of one scenario."""

    studies: int = 0
    gain_covered: float = 0.0
    forgetting_covered: float = 0.0
    difference_covered: float = 0.0
    worst_arm_covered: Floats | None = None
    width_ratio: float = 0.0
    wrong: int = 0
    decided: int = 0
    recommended: int = 0
    wrong_argmax: int = 0
    false_claims: int = 0


def run(scenario: Scenario, studies: int, decision: Decision, seed: int) -> dict[str, Any]:
    """Simulate and count. Wrong: what was recommended in truth forgets too much, is too far behind or gains nothing.

    false_claims: studies with any false bound of forgetting, or with a false `no_gain` or `tradeoff`.
    """
    rng = np.random.default_rng(seed)
    gain = np.array(scenario.learned) - scenario.base_task
    lost = scenario.base_kept - np.array(scenario.kept)
    tally, covered, errors, widths = Tally(), [], [], []
    for _ in range(studies):
        inside = draw_suites(rng, scenario, scenario.learned, scenario.base_task, scenario.in_suites)
        outside = draw_suites(rng, scenario, scenario.kept, scenario.base_kept, scenario.out_suites)
        measured = measure(inside, outside)
        hits = _hits(measured.gain, gain, decision), _hits(measured.forgetting, lost, decision)
        pair_truth = np.array([gain[a] - gain[b] for a, b in measured.pairs])
        tally.gain_covered += hits[0].mean()
        tally.forgetting_covered += hits[1].mean()
        if measured.differences is not None:
            tally.difference_covered += _hits(measured.differences, pair_truth, decision).mean()
        covered.append(np.concatenate(hits))
        for part, truth in ((measured.gain, gain), (measured.forgetting, lost)):
            assert part is not None
            errors.append(part.mean - truth)
            widths.append(part.half_width((1 - decision.confidence) / 2))
        _count_answer(tally, measured, gain, lost, decision)
    tally.studies = studies
    spread = np.sqrt((np.array(errors) ** 2).mean()) * 1.96
    return {
        "scenario": scenario.name,
        "arms": len(gain),
        "seeds": scenario.seeds,
        "items": scenario.items,
        "studies": studies,
        "coverage_gain": tally.gain_covered / studies,
        "coverage_forgetting": tally.forgetting_covered / studies,
        "coverage_difference": tally.difference_covered / studies if len(gain) > 1 else None,
        "coverage_worst_arm": float(np.array(covered).mean(axis=0).min()),
        "width_ratio": float(np.mean(widths) / spread),
        "wrong": tally.wrong / studies,
        "false_claims": tally.false_claims / studies,
        "decided": tally.decided / studies,
        "recommended": tally.recommended / studies,
        "wrong_argmax": tally.wrong_argmax / studies,
    }


def _hits(part: Estimates | None, truth: Floats, decision: Decision) -> Floats:
    assert part is not None
    return np.asarray(np.abs(part.mean - truth) <= part.half_width((1 - decision.confidence) / 2), dtype=float)


def _count_answer(tally: Tally, measured: Any, gain: Floats, lost: Floats, decision: Decision) -> None:
    widths = closed_form_widths(measured, decision_alpha(measured, decision))
    ruling = rule_on(measured, widths, list(range(1, len(gain) + 1)), decision)
    keeps = lost <= decision.retention_margin
    best = gain[keeps].max() if keeps.any() else -np.inf
    bad = ~keeps | (gain < best - decision.task_margin) | (gain <= 0)
    tally.decided += ruling.answer != "cannot_distinguish"
    if ruling.recommended is not None:
        tally.recommended += 1
        tally.wrong += bool(bad[ruling.recommended])
    tally.wrong_argmax += bool(bad[int(np.argmax(measured.gain.mean))])
    false_answer = (ruling.answer == "no_gain" and bool((gain >= decision.min_gain).any())) or (
        ruling.answer == "tradeoff" and bool((keeps & (gain >= decision.min_gain)).any())
    )
    limits = bounds(measured, widths)
    false_bound = bool((limits.forgetting_high < lost).any() or (limits.forgetting_low > lost).any())
    tally.false_claims += false_answer or false_bound


COLUMNS = {
    "cover G": "coverage_gain",
    "cover F": "coverage_forgetting",
    "cover diff": "coverage_difference",
    "worst arm": "coverage_worst_arm",
    "width": "width_ratio",
    "wrong": "wrong",
    "false": "false_claims",
    "decided": "decided",
    "argmax wrong": "wrong_argmax",
}


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as text: shares of studies, and the width of the intervals over the width that would just cover."""
    lines = [f"{'scenario':38} arms seeds items  " + " ".join(f"{name:>12}" for name in COLUMNS)]
    for row in rows:
        cells = ["-" if row[key] is None else f"{row[key]:.3f}" for key in COLUMNS.values()]
        design = f"{row['arms']:4d} {row['seeds']:5d} {row['items']:5d}"
        lines.append(f"{row['scenario']:38} {design}  " + " ".join(f"{cell:>12}" for cell in cells))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer studies: under a minute")
    parser.add_argument("--device", default="cpu", help="accepted for uniformity; the simulation runs on the CPU")
    parser.add_argument("--json", type=Path, help="write the rows here")
    parser.add_argument("--studies", type=int, help="simulated studies per scenario")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    studies = arguments.studies or (400 if arguments.quick else 2000)
    start = time.perf_counter()
    rows = [run(scenario, studies, Decision(), arguments.seed + 1000 * i) for i, scenario in enumerate(SCENARIOS)]
    print(table(rows))
    held = [row for row in rows if row["seeds"] >= 3]
    for name in ("coverage_gain", "coverage_forgetting", "coverage_difference"):
        values = [row[name] for row in held if row[name] is not None]
        print(f"{name} from 3 seeds: lowest {min(values):.3f}, mean {np.mean(values):.3f}")
    print(f"wrong recommendations: at most {max(row['wrong'] for row in rows):.3f} of studies in any scenario")
    print(f"{studies} studies per scenario, {time.perf_counter() - start:.0f} s")
    if arguments.json:
        machine = f"{platform.machine()} {platform.system()}"
        speed = dict.fromkeys(("ours_seconds", "peer_seconds", "ratio", "ours_peak_bytes", "peer_peak_bytes"))
        shared = {**speed, "peer": "argmax of the mean", "max_difference": None, "machine": machine}
        shared["reason"] = "it measures how often an answer is wrong, not speed"
        written = [{"work": row["scenario"], **shared, **row} for row in rows]
        arguments.json.write_text(json.dumps(written, indent=2) + "\n")


if __name__ == "__main__":
    main()
