"""The sure verdict with the choice of settings in it, for calibration.py: every study chooses, then judges.

A study draws a truth for six arms at three rates and four dials each. Their answers on few selection items (one seed),
a divergence and a validation loss are drawn, and the rule of a real study (`decide/retention_rule.py`) chooses each
arm's setting from them. Other items, which the choice never saw, are drawn at the chosen settings and judged.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from simulated_studies import LOOKS, Scenario, draw, judged
from verdict_calibration import count_ruling, others_recommend

from rankscope.decide.retention_rule import Rated, choose, fitted_forgetting
from rankscope.plan.selection_split import LIMIT_SHARE
from rankscope.study.study import Decision

Floats = NDArray[np.float64]

ARMS, BASE_TASK, BASE_KEPT = 6, 0.30, 0.85
STRENGTHS = np.outer((0.45, 1.0, 2.2), (0.5, 0.7, 0.85, 1.0))
"""Rate times dial, (3, 4): 1 is the rate of the lowest loss, undialled."""
DIALS = np.tile((0.5, 0.7, 0.85, 1.0), 3 * ARMS)
CHANGES = [(arm, rate) for arm in range(ARMS) for rate in range(3) for _ in range(4)]
SELECTION_ITEMS = 64
"""Of each of two suites outside the domain."""
SEED_SD = 0.04

Family = Callable[[np.random.Generator], tuple[Floats, Floats]]
"""Draws what the settings gain and forget in truth, (6, 12) each, in points."""


def _gains(rng: np.random.Generator) -> Floats:
    over = np.maximum(STRENGTHS - 1, 0)
    learned = 1 - 0.5 * np.maximum(1 - STRENGTHS, 0) ** 2 - 0.05 * over**2
    level = rng.uniform(20, 40) + rng.normal(size=ARMS)
    return np.asarray(level[:, None] * learned.ravel())


def several_just_over(rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Several candidates just over the margin: of each arm all but the three gentlest forget 3.02 to 3.6 points, and
    gain more than those that keep it."""
    gain, strength = _gains(rng), STRENGTHS.ravel()
    lost = np.where(strength < 0.37, rng.uniform(0, 1.5, (ARMS, 1)), rng.uniform(3.02, 3.6, (ARMS, len(strength))))
    return gain, lost


def none_admissible(rng: np.random.Generator) -> tuple[Floats, Floats]:
    """One arm without an admissible rate: any one, which gains 2 to 6 points more than the others and forgets 3.1 to
    3.8 at its gentlest; of the others what is gentle keeps the margin."""
    gain, strength = _gains(rng), STRENGTHS.ravel()
    lost = rng.uniform(-0.5, 1, (ARMS, 1)) + 4 * np.maximum(strength - 0.5, 0) ** 1.5
    arm = rng.integers(ARMS)
    gain[arm] += rng.uniform(2, 6)
    lost[arm] = rng.uniform(3.1, 3.8) + 0.3 * (strength - strength.min())
    return gain, lost


FAMILIES: dict[str, Family] = {
    "several candidates just over the margin": several_just_over,
    "one arm without an admissible rate": none_admissible,
}
DESIGNS = ((3, 1000), (3, 2000), (8, 2000))
"""Seeds and items of a suite; with three seeds also look by look up to eight."""


def chosen_settings(rng: np.random.Generator, gain: Floats, lost: Floats, decision: Decision) -> tuple[Floats, int]:
    """The places (6,) of the arms' settings among their twelve, chosen as a study does, and how many arms had none that
    looked admissible."""
    learned, kept = (np.clip(v, 0.02, 0.98).ravel() for v in (BASE_TASK + gain / 100, BASE_KEPT - lost / 100))
    scenario = Scenario(
        "selection", tuple(learned), tuple(kept), BASE_TASK, BASE_KEPT, 1, SELECTION_ITEMS, in_suites=0,
        seed_sd=(SEED_SD,),
    )  # fmt: skip
    drawn = draw(rng, scenario, 1)
    seen = np.mean([suite.base.mean() - suite.scores.mean(axis=(1, 2)) for suite in drawn.suites], axis=0)
    moved = 0.02 * np.maximum(lost.ravel() + 1.5, 0.1) ** 1.5 * np.exp(0.25 * rng.normal(size=lost.size))
    labels = np.full(lost.size, float(SELECTION_ITEMS))
    fitted = fitted_forgetting(seen, moved, DIALS, labels, CHANGES)
    limit = LIMIT_SHARE * decision.retention_margin
    places, without = [], 0
    for arm in range(ARMS):
        own = range(12 * arm, 12 * arm + 12)
        rated = [Rated(fitted[c] / limit, drawn.validation_loss[c], moved[c], DIALS[c]) for c in own]
        place, how = choose(rated)
        places.append(place)
        without += how == "none admissible"
    return np.array(places), without


def selected_row(name: str, seeds: int, items: int, studies: int, decision: Decision, seed: int) -> dict[str, Any]:
    """Simulate `studies` studies of a family and take means, as verdict_calibration.run does. over: share of arms whose
    chosen setting in truth forgets more than the margin; unadmitted: that had no admissible one."""
    rng = np.random.default_rng(seed)
    found: dict[str, list[float]] = defaultdict(list)
    for _ in range(studies):
        gain, lost = FAMILIES[name](rng)
        places, without = chosen_settings(rng, gain, lost, decision)
        at = (np.arange(ARMS), places)
        scenario = Scenario(
            name, tuple(np.clip(BASE_TASK + gain[at] / 100, 0.02, 0.98)), tuple(BASE_KEPT - lost[at] / 100), BASE_TASK,
            BASE_KEPT, seeds, items, seed_sd=(SEED_SD,),
        )  # fmt: skip
        drawn = scenario.draw(rng, LOOKS[-1] if seeds == LOOKS[0] else seeds)
        fixed = judged(drawn, ARMS, seeds, decision)
        count_ruling(found, "", fixed, scenario, decision)
        for other, arm in others_recommend(drawn, scenario, fixed.last.measured, decision).items():
            found[f"wrong_{other}"].append(bool(scenario.bad(decision)[arm]))
        if seeds == LOOKS[0]:
            count_ruling(found, "adaptive_", judged(drawn, ARMS, LOOKS[-1], decision, LOOKS), scenario, decision)
        found["over"].append(float((lost[at] > 100 * decision.retention_margin).mean()))
        found["unadmitted"].append(without / ARMS)
    means = {key: float(np.mean(values)) for key, values in found.items()}
    return {"scenario": name, "arms": ARMS, "seeds": seeds, "items": items, "studies": studies, **means}
