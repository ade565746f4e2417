"""Studies of the sure verdict with known truth, for calibration.py: coverage, wrong answers, runs, power.

Every function simulates one scenario and returns a row of means. The studies go through the looks, bounds and rule of a
real one; simulated_studies.py and simulated_losses.py hold their truths.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from simulated_studies import DEMO, EQUAL, GOOD, Drawn, Scenario, draw, judged

from rankscope.decide.crossed_statistics import Estimates, bootstrap_variance, gain_contrasts, pair_contrasts
from rankscope.decide.gain_and_forgetting import Measured
from rankscope.decide.looks import Evidence
from rankscope.decide.statistical_power import more_needed
from rankscope.study.study import Decision

Floats = NDArray[np.float64]

Z = 1.645
"""Of the unpaired z-test: one-sided 5 %."""


# ---- the verdict, and what stands in for one elsewhere --------------------------------------------------------------


def run(scenario: Scenario, studies: int, decision: Decision, seed: int) -> dict[str, Any]:
    """Simulate `studies` studies and take means. Wrong: what was recommended in truth forgets too much, is too far
    behind or gains nothing. false_claims: studies with any false bound of forgetting, or a false no_gain or tradeoff.
    """
    rng = np.random.default_rng(seed)
    arms, bad, looks = len(scenario.learned), scenario.bad(decision), scenario.looks
    adaptive = scenario.seeds == looks[0]
    found: dict[str, list[float]] = defaultdict(list)
    covered, errors, widths = [], [], []
    for _ in range(studies):
        drawn = scenario.draw(rng, looks[-1] if adaptive else scenario.seeds)
        fixed = judged(drawn, arms, scenario.seeds, decision)
        parts = _parts(fixed.last.measured.units[0], scenario)
        for name, (part, truth) in parts.items():
            half = part.half_width((1 - decision.confidence) / 2)
            hits = np.abs(part.mean - truth) <= half
            found[f"coverage_{name}"].append(hits.mean())
            if name != "difference":
                covered.append(hits)
                errors.append(part.mean - truth)
                widths.append(half)
        count_ruling(found, "", fixed, scenario, decision)
        others = others_recommend(drawn, scenario, fixed.last.measured, decision) if scenario.metric == "score" else {}
        for name, chosen in others.items():
            found[f"wrong_{name}"].append(bool(bad[chosen]))
        if adaptive:
            grid, grown = judged(drawn, arms, looks[-1], decision), judged(drawn, arms, looks[-1], decision, looks)
            count_ruling(found, "grid_", grid, scenario, decision)
            count_ruling(found, "adaptive_", grown, scenario, decision)
            found["adaptive_runs"].append(_runs(grown) / (arms * looks[-1]))
    spread = np.sqrt((np.array(errors) ** 2).mean()) * 1.96
    worst = np.array(covered).reshape(studies, -1).mean(axis=0).min()
    design = {"scenario": scenario.name, "arms": arms, "seeds": scenario.seeds, "items": scenario.items}
    means = {name: float(np.mean(values)) for name, values in found.items()}
    means |= {"coverage_worst_arm": float(worst), "width_ratio": float(np.mean(widths) / spread)}
    return {**design, "studies": studies, **means}


def _parts(measured: Measured, scenario: Scenario) -> dict[str, tuple[Estimates, Floats]]:
    gain = scenario.gain
    pairs = np.array([gain[a] - gain[b] for a, b in measured.pairs])
    parts = {
        "gain": (measured.gain, gain),
        "forgetting": (measured.forgetting, scenario.lost),
        "difference": (measured.differences, pairs),
    }
    return {name: (part, truth) for name, (part, truth) in parts.items() if part is not None}


def count_ruling(
    found: dict[str, list[float]], prefix: str, evidence: Evidence, scenario: Scenario, decision: Decision
) -> None:
    """Add to `found` whether the study was decided, wrongly, and with false bounds."""
    ruling, limits, gain, lost = evidence.ruling, evidence.limits.units[0], scenario.gain, scenario.lost
    chosen, margins = ruling.recommended, decision.margins(scenario.metric)
    may = gain >= margins.least_gain
    false = (ruling.kind.name == "no_gain" and may.any()) or (
        ruling.kind.name == "tradeoff" and (may & (lost <= margins.retention)).any()
    )
    false = false or (limits.forgetting_high < lost).any() or (limits.forgetting_low > lost).any()
    found[f"{prefix}wrong"].append(chosen is not None and bool(scenario.bad(decision)[chosen]))
    found[f"{prefix}decided"].append(ruling.kind.decided)
    found[f"{prefix}false_claims"].append(bool(false))


def _runs(evidence: Evidence) -> int:
    total, before = 0, 0
    for look in evidence.looks:
        total += len(look.labels) * (len(look.pairing.seeds) - before)
        before = len(look.pairing.seeds)
    return total


def others_recommend(drawn: Drawn, scenario: Scenario, measured: Measured, decision: Decision) -> dict[str, int]:
    """What others recommend: the highest mean, the lowest validation loss, and the smallest arm that an unpaired z-test
    (items and seeds taken for independent answers, one-sided 5 %) finds neither worse than the best nor forgetful."""
    assert measured.gain is not None
    assert measured.forgetting is not None
    task = [suite for suite in drawn.suites if suite.relation == "in-domain"]
    kept = [s for s in drawn.suites if s.relation != "in-domain" and s.left_out_of_mean is None]
    answers = scenario.items * scenario.seeds

    def variance(suites: Sequence[Any]) -> Floats:
        shares = [suite.scores[:, : scenario.seeds].mean(axis=(1, 2)) for suite in suites]
        return np.sum([p * (1 - p) for p in shares], axis=0) / answers / len(suites) ** 2

    own = variance(task)
    best = int(np.argmax(measured.gain.mean))
    behind = (measured.gain.mean[best] - measured.gain.mean) / np.sqrt(own + own[best] + 1e-12)
    forgets = (measured.forgetting.mean - decision.retention_margin) / np.sqrt(variance(kept) + 1e-12)
    passed = np.flatnonzero((behind < Z) & (forgets < Z))
    return {
        "argmax": best,
        "loss": int(np.argmin(drawn.validation_loss)),
        "z_test": int(passed[0]) if len(passed) else best,
    }


# ---- which bound: closed form or bootstrap --------------------------------------------------------------------------


def compare_bounds(scenario: Scenario, studies: int, draws: int, decision: Decision, seed: int) -> dict[str, Any]:
    """Coverage and mean half width of the closed form's and the bootstrap's intervals on the same studies."""
    rng = np.random.default_rng(seed)
    arms = len(scenario.learned)
    found: dict[str, list[float]] = defaultdict(list)
    for _ in range(studies):
        drawn = draw(rng, scenario, scenario.seeds)
        evidence = judged(drawn, arms, scenario.seeds, decision)
        task, kept = evidence.last.pairing.in_domain, evidence.last.pairing.others
        wanted = {"gain": (task, gain_contrasts(arms)), "forgetting": (kept, -gain_contrasts(arms))}
        wanted["difference"] = (task, pair_contrasts(arms)[1])
        for name, (part, truth) in _parts(evidence.last.measured, scenario).items():
            suites, contrasts = wanted[name]
            variance = bootstrap_variance([suite.arrays for suite in suites], contrasts, rng, draws)
            for way, used in (("closed", None), ("bootstrap", variance)):
                half = part.half_width((1 - decision.confidence) / 2, used)
                found[f"{way}_{name}"].append((np.abs(part.mean - truth) <= half).mean())
                found[f"{way}_width"].append(half.mean())
    means = {name: float(np.mean(values)) for name, values in found.items()}
    return {"scenario": scenario.name, "studies": studies, "draws": draws, **means}


# ---- power ----------------------------------------------------------------------------------------------------------


def power_row(items: int, seeds: int, studies: int, seed: int) -> dict[str, Any]:
    """Share of studies decided where six arms are equally good and keep all but one point, by margin."""
    scenario = Scenario("power", EQUAL, GOOD, items=items, seed_sd=(0.06,), seed_correlation=0.1, spread=DEMO)
    rng = np.random.default_rng(seed)
    decided: dict[str, list[bool]] = defaultdict(list)
    for _ in range(studies):
        drawn = draw(rng, scenario, seeds)
        for margin in (0.02, 0.03, 0.05):
            decision = Decision(task_margin=margin, retention_margin=margin)
            ruling = judged(drawn, len(EQUAL), seeds, decision).ruling
            decided[f"margin_{margin:g}"].append(ruling.kind.name == "recommended")
    means = {name: float(np.mean(values)) for name, values in decided.items()}
    return {"scenario": "power", "items": items, "seeds": seeds, "studies": studies, **means}


# ---- what would decide ----------------------------------------------------------------------------------------------


def more_needed_row(scenario: Scenario, studies: int, decision: Decision, seed: int, most: int = 40) -> dict[str, Any]:
    """Of undecided studies that are told how many more seeds would decide: how many do when exactly those are added.

    Studies that are told more than `most` seeds in all are left out: they take long to simulate.
    """
    rng = np.random.default_rng(seed)
    arms = len(scenario.learned)
    row: dict[str, Any] = {"scenario": scenario.name, "arms": arms, "seeds": scenario.seeds, "items": scenario.items}
    row |= dict.fromkeys(("undecided", "given", "hits"), 0)
    for _ in range(studies):
        drawn = scenario.draw(rng, most)
        evidence = judged(drawn, arms, scenario.seeds, decision)
        if evidence.ruling.kind.decided:
            continue
        row["undecided"] += 1
        more = more_needed(evidence.last.measured, evidence.last_cost, decision, evidence.last.alpha).seeds
        if more is not None and scenario.seeds + more <= most:
            row["given"] += 1
            row["hits"] += judged(drawn, arms, scenario.seeds + more, decision).ruling.kind.decided
    return {**row, "studies": studies, "hit_share": row["hits"] / row["given"] if row["given"] else None}
